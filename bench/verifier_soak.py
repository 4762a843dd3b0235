"""The verifier for a long time, on answers and programs that mean it ill: python -m bench.verifier_soak.

Mathematics: benchmark golds from `../shared/data` where present, the conformance suite's cases, and both damaged at random,
in one process. Code: programs that are right, wrong, crash, loop, flood, eat memory and fork, in several processes. Nothing
may raise, hang or leak: memory, child processes, file descriptors and files are counted at a tenth of the way and at the end.
Exits 1 on a fault.
"""

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.verifier import own_or_benchmark_golds
from oprime.core.verification import VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.conformance.cases import CodeCase, code_cases, math_cases
from oprime_verifier.math.verifier import verify_math, warm_up
from oprime_verifier.sandbox.native import NativeSandbox

HANG_S = 30
"""An item that takes longer counts as hanging and is broken off."""
SLOW_S = 1.0
MAX_GROWTH_MIB = 64
"""Most growth of a worker between a tenth of the way and the end; its caches fill after the first tenth."""
KEPT_SLOW = 20
FENCE = "```python\n{}\n```\n"


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds at one moment."""

    rss_mib: float
    children: int
    descriptors: int

    def line(self) -> str:
        return f"RSS {self.rss_mib:.0f} MiB, {self.children} children, {self.descriptors} descriptors"


@dataclass(slots=True)
class Log:
    """What came of a series of items in one process. Goes between processes."""

    seconds: list[float] = field(default_factory=list[float])
    verdicts: Counter[str] = field(default_factory=Counter[str])
    slow: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    crashes: list[str] = field(default_factory=list[str])
    early: Held | None = None
    late: Held | None = None

    def faults(self, name: str) -> list[str]:
        found = [f"{name}: raised: {crash}" for crash in self.crashes]
        found += [f"{name}: hung for {seconds:.0f} s: {item}" for seconds, item in self.slow if seconds > HANG_S]
        return found + (_leaks(name, self.early, self.late) if self.early and self.late else [])

    def lines(self, name: str) -> Iterator[str]:
        ordered = sorted(self.seconds) or [0.0]
        p50, p99, most = (1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99, 1.0))
        yield f"{name}: {len(self.seconds)} items, {sum(ordered):.0f} s, p50 {p50:.2f} ms, p99 {p99:.1f} ms, max {most:.0f} ms"
        yield f"  verdicts: {', '.join(f'{count} {verdict}' for verdict, count in self.verdicts.most_common())}"
        yield f"  raised: {len(self.crashes)}; slower than {SLOW_S:.0f} s: {sum(one > SLOW_S for one in ordered)}"
        if self.early and self.late:
            yield f"  at a tenth: {self.early.line()}"
            yield f"  at the end: {self.late.line()}"
        for seconds, item in sorted(self.slow, reverse=True)[:KEPT_SLOW]:
            yield f"  {seconds:6.2f} s  {item}"


def _leaks(name: str, early: Held, late: Held) -> list[str]:
    pairs = (
        ("MiB of memory", early.rss_mib, late.rss_mib, MAX_GROWTH_MIB),
        ("child processes", early.children, late.children, 1),
        ("file descriptors", early.descriptors, late.descriptors, 8),
    )
    return [f"{name}: {what} grew from {first:.0f} to {last:.0f}" for what, first, last, most in pairs if last > first + most]


def held() -> Held:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(descendants(os.getpid())), len(list(Path("/proc/self/fd").iterdir())))


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs, zombies too."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # ended meanwhile
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


class HungError(BaseException):
    """Raised into an item that hangs; no handler of the verifier may take it for a fault of the answer."""


def _break_off(_signal: int, _frame: object) -> None:
    raise HungError


def endure(items: Iterable[VerificationRequest], count: int, judge: Callable[[VerificationRequest], str], name: str) -> Log:
    """Judge all items one after the other and keep account of time, verdicts and what the process holds."""
    log = Log()
    signal.signal(signal.SIGALRM, _break_off)
    for place, item in enumerate(items, start=1):
        started = time.perf_counter()
        signal.alarm(HANG_S)
        faulthandler.dump_traceback_later(2 * HANG_S, exit=True)  # for what a signal cannot break off
        try:
            log.verdicts[judge(item)] += 1
        except (Exception, HungError):  # noqa: BLE001 - what the bench looks for
            log.crashes.append(f"{_shown(item)}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        seconds = time.perf_counter() - started
        log.seconds.append(seconds)
        if seconds > SLOW_S:
            log.slow.append((seconds, _shown(item)))
        if place == max(1, count // 10):
            log.early = held()
        if place % max(1, count // 10) == 0:
            print(f"  {name}: {place} of {count}", file=sys.stderr, flush=True)
    log.late = held()
    return log


def _shown(item: VerificationRequest) -> str:
    return json.dumps({"response": item.response[:600], "golds": [gold[:300] for gold in item.golds], "id": item.request_id})


# --- mathematics ---

NOISE = ("\\frac", "{", "}", "{{", "}}", "^", "_", "\\left(", "\\right)", "(", "]", ",", "\\sqrt", "\\begin{pmatrix}", "&", "\\\\",
         "\u2212",
         "\uff11", "\u00bd", "\u221e", "\u202e", "\u0000", "\ud83d", "\u0663", "\u00b2", "!", "%", "$", "\\text{", "\\pm", "e",
         "i", "^{9^{9^9}}", "10^{400}", "...", "\\overline{3}", "=", "\\le", "\\cup", "\\boxed{", "1e999", "sin", "\\int_0^1",
         "\\sum")  # fmt: skip


def pieces(text: str) -> list[str]:
    """Commands, words and single characters."""
    found: list[str] = []
    for character in text:
        if found and found[-1].startswith("\\") and character.isalpha() and (len(found[-1]) == 1 or found[-1][1:].isalpha()):
            found[-1] += character
        else:
            found.append(character)
    return found


def damaged(text: str, chance: random.Random) -> str:
    """A text with one to six tokens deleted, doubled, swapped, braced or replaced by noise."""
    tokens = pieces(text) or ["0"]
    for _ in range(chance.randint(1, 6)):
        chance.choice(_DAMAGES)(tokens, chance.randrange(len(tokens)), chance)
        tokens = tokens or ["0"]
    return "".join(tokens)


def _delete(tokens: list[str], place: int, _chance: random.Random) -> None:
    del tokens[place]
    tokens[:] = tokens or ["0"]


def _double(tokens: list[str], place: int, chance: random.Random) -> None:
    tokens[place:place] = [tokens[place]] * chance.choice((1, 1, 1, 2, 40))


def _swap(tokens: list[str], place: int, chance: random.Random) -> None:
    other = chance.randrange(len(tokens))
    tokens[place], tokens[other] = tokens[other], tokens[place]


def _brace(tokens: list[str], place: int, chance: random.Random) -> None:
    depth = chance.choice((1, 2, 5, 60))
    opening, closing = chance.choice((("{", "}"), ("(", ")"), ("\\sqrt{", "}"), ("\\frac{1}{", "}"), ("|", "|")))
    tokens[place] = opening * depth + tokens[place] + closing * depth


def _noise(tokens: list[str], place: int, chance: random.Random) -> None:
    tokens.insert(place, chance.choice(NOISE))


_DAMAGES = (_delete, _double, _swap, _brace, _noise, _noise)


def math_items(count: int, chance: random.Random) -> Iterator[VerificationRequest]:
    """A sixth golds against golds, a sixth cases of the suite, the rest of both damaged."""
    golds, cases = own_or_benchmark_golds(), math_cases()
    for place in range(count):
        case = chance.choice(cases)
        gold = chance.choice(golds)
        kind = place % 6
        if kind == 0:
            yield _math(gold if chance.random() < 0.5 else chance.choice(golds), gold, bare=True)
        elif kind == 1:
            yield _math(case.response, case.gold)
        elif kind in (2, 3):
            yield _math(damaged(gold, chance), gold, bare=True)
        elif kind == 4:
            yield _math(damaged(case.response, chance), case.gold)
        else:
            yield _math(damaged(gold, chance), damaged(gold, chance), bare=True)


def _math(response: str, gold: str, *, bare: bool = False) -> VerificationRequest:
    return VerificationRequest(kind="math", response=response, golds=(gold,), options={"bare": bare})


def math_soak(count: int, seed: int) -> Log:
    warm_up()
    chance = random.Random(seed)  # noqa: S311 - the same items each time
    return endure(math_items(count, chance), count, lambda item: verify_math(item).verdict.value, "math")


# --- code ---

TESTS = json.dumps({"inputs": ["3\n", "10\n"], "outputs": ["6\n", "20\n"]})
ILL = {
    "crash": "raise ValueError(input())",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(100)",
    "flood": "while True: print('x' * 100000)",
    "flood-stderr": "import sys\nfor _ in range(300): sys.stderr.write('x' * 100000)",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 22))",
    "one-block": "x = bytearray(1 << 40)",
    "fork": "import os\nfor _ in range(100): os.fork()",
    "threads": "import threading, time\nfor _ in range(500): threading.Thread(target=time.sleep, args=(9,)).start()",
    "files": "for i in range(1000): open(f'/tmp/soak-left-{i}', 'w')",
    "descriptors": "import os\nwhile True: os.pipe()",
    "deep": "def f(n): return f(n + 1)\nimport sys\nsys.setrecursionlimit(10**9)\nf(0)",
    "kill": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)",
    "detach": "import os\nos.setsid()\nos.closerange(0, 100)\nwhile True: pass",
    "syntax": "print(((((",
}
RIGHT = "print(2 * int(input()))"
WRONG = "print(int(input()) ** 2)"
QUICK_SHARE = 0.9
"""Of the programs; the ill ones mostly end by a limit and take its time."""
LIMITS = {"cpu_s": 0.2, "wall_s": 1.0, "memory_mib": 128, "output_mib": 1.0}


def code_items(count: int, chance: random.Random) -> Iterator[VerificationRequest]:
    """No two alike, so that no outcome comes from a cache."""
    cases = [case for case in code_cases() if case.verdict in ("CORRECT", "INCORRECT")]
    for place in range(count):
        if chance.random() < QUICK_SHARE:
            name, response, tests, options = _quick(cases, chance)
        else:
            name = chance.choice(sorted(ILL))
            response, tests, options = FENCE.format(ILL[name]), TESTS, {}
        unique = response.replace("```python\n", f"```python\n# {place}\n", 1)
        yield VerificationRequest(kind="code", response=unique, tests=tests, options={**LIMITS, **options}, request_id=name)


def _quick(cases: list[CodeCase], chance: random.Random) -> tuple[str, str, str, dict[str, object]]:
    if chance.random() < 0.25:
        case = chance.choice(cases)
        return case.id, case.response, case.tests, dict(case.options)
    name, program = chance.choice((("right", RIGHT), ("right", RIGHT), ("wrong", WRONG)))
    return name, FENCE.format(program), TESTS, {}


def code_soak(count: int, seed: int) -> tuple[Log, int]:
    """The log and how many processes were left after the sandbox was closed."""
    sandbox = NativeSandbox()
    verifier = CodeVerifier(sandbox)

    def judge(item: VerificationRequest) -> str:
        outcome = verifier.verify(item)
        if outcome.verdict == "INFRA_ERROR":
            # Where the machine stalled for a second, no child was ready in time; the service asks once more, too.
            outcome = verifier.verify(item)
        if item.request_id == "right" and outcome.verdict != "CORRECT":
            raise RuntimeError(f"a right program was judged {outcome.verdict}: {outcome.reason}")
        return outcome.verdict.value

    chance = random.Random(seed)  # noqa: S311 - the same programs each time
    try:
        log = endure(code_items(count, chance), count, judge, f"code {seed}")
    finally:
        sandbox.close()
    time.sleep(0.2)  # what was killed is reaped
    return log, len(descendants(os.getpid()))


def left_files() -> set[str]:
    return {str(path) for folder in {tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp"} for path in Path(folder).glob("*")}  # noqa: S108


def left_by_us(before: set[str]) -> list[str]:
    """New files whose names say that the verifier or a program of this bench made them."""
    return sorted(path for path in left_files() - before if "soak-left" in path or "oprime" in path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Endurance of the verifier.")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    before = left_files()
    faults: list[str] = []
    with ProcessPoolExecutor(1) as pool:
        log = pool.submit(math_soak, arguments.pairs, arguments.seed).result()
    print("\n".join(log.lines("math")), flush=True)
    faults += log.faults("math")
    shares = [arguments.runs // arguments.processes] * arguments.processes
    with ProcessPoolExecutor(arguments.processes) as pool:
        results = list(pool.map(code_soak, shares, range(arguments.seed, arguments.seed + arguments.processes)))
    for place, (log, left) in enumerate(results):
        print("\n".join(log.lines(f"code, process {place}")))
        faults += log.faults(f"code, process {place}")
        faults += [f"code, process {place}: {left} processes were left"] if left else []
    files = left_by_us(before)
    faults += [f"files were left: {files[:5]}"] if files else []
    print("\n".join(faults) if faults else "no fault: nothing raised, hung, grew or was left behind")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
