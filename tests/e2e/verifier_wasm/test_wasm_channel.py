"""Function calls in the wasm engine: the same entry module as in the native one, over a channel that the host carries."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from oprime_verifier.sandbox.inside.messages import ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.inside.values import Decoder, encode
from oprime_verifier.sandbox.types import Ending, Job, Limits, Process
from oprime_verifier.sandbox.wasm import WasmSandbox

LIMITS = Limits(cpu_s=1.0, wall_s=10.0)


@contextmanager
def called(wasm: WasmSandbox, source: str) -> Iterator[tuple[socket.socket, Process]]:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(30)
        with theirs:
            process = wasm.start(Job(entry="call", source=source, limits=LIMITS), theirs)
        yield ours, process


def call(channel: socket.socket, name: str, *arguments: Any) -> Any:
    send_message(channel, {"op": "call", "target": {"function": name}, "args": encode([list(arguments), {}])})
    reply = receive_message(channel)
    if "error" in reply:
        return reply["error"]["type"]
    return Decoder(reply["value"], {}, lambda _: None).roots()[0]


def test_a_function_is_called_as_often_as_asked(wasm: WasmSandbox) -> None:
    with called(wasm, "seen = []\ndef add(x):\n    seen.append(x)\n    return sum(seen), {'seen': seen}") as (channel, process):
        assert call(channel, "add", 2) == (2, {"seen": [2]})
        assert call(channel, "add", 10**30) == (2 + 10**30, {"seen": [2, 10**30]})
        channel.close()
        assert process.wait().exit_code == 0


def test_a_method_of_solution_and_a_failing_call(wasm: WasmSandbox) -> None:
    source = (
        "class Solution:\n    def half(self, text):\n        return text[: len(text) // 2]\n    def fail(self):\n        raise KeyError(1)"
    )
    with called(wasm, source) as (channel, process):
        assert call(channel, "half", "añ😀x" * 100_000) == "añ😀x" * 50_000
        assert call(channel, "fail") == "KeyError"
        assert call(channel, "missing") == "NameError"
        channel.close()
        process.wait()


def test_an_endless_call_runs_out_of_fuel_and_hangs_up(wasm: WasmSandbox) -> None:
    with called(wasm, "def spin():\n    while True: pass") as (channel, process):
        with pytest.raises(ChannelClosedError):
            call(channel, "spin")
        assert process.wait().ending is Ending.TIME


def test_the_same_calls_take_the_same_fuel(wasm: WasmSandbox) -> None:
    fuels = set()
    for _ in range(3):
        with called(wasm, "def square(x): return x * x") as (channel, process):
            assert [call(channel, "square", x) for x in range(5)] == [0, 1, 4, 9, 16]
            channel.close()
            fuels.add(process.wait().fuel)
    assert len(fuels) == 1
