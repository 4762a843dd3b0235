"""How limits in seconds become limits that any machine repeats exactly.

Fuel counts the WebAssembly operations of a run. Nine kinds of program (loops, dictionaries, sorting, strings, calls, big integers, bytes,
heaps, regular expressions) take 11 to 37 G units for what CPython 3.11 does natively in one second of CPU time, the middle one 22 G;
the engine itself does 5 to 11 G units/s. So a limit of one second lets a program do about what it could natively, which takes the
engine about three seconds.

Equal fuel needs the same component, whose hash is part of a result's profile: strings hash by a secret drawn when it is built.
Machines that must agree share one build, in their image or in a common XDG_CACHE_HOME; each kind of CPU makes its machine code from it.
"""

UNITS_PER_SECOND = 24_000_000_000
"""Fuel of one second of a limit. Changing it changes verdicts."""

WALL_FACTOR = 3.0
"""Seconds of real time for each second of `wall_s`, which itself is counted in fuel and pauses. Only a starved machine gets that far."""

EPOCH_S = 1_767_225_600
"""What the clock shows when a program starts: 2026-01-01 UTC. From there on it goes by fuel and pauses."""


def fuel_for(cpu_s: float) -> int:
    return max(int(cpu_s * UNITS_PER_SECOND), 1)


def seconds_of(fuel: int) -> float:
    return fuel / UNITS_PER_SECOND
