"""One run of the component, in a process of its own: limits, virtual clock, fixed randomness, capped output.

Imported by `wasm_host.py` in its own interpreter, never by the service: the only file that imports wasmtime to run code.
"""

import ctypes
import json
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime import component as wit

from oprime_verifier.sandbox.wasm_calibration import EPOCH_S, UNITS_PER_SECOND

NATIVE_STACK_BYTES = 64 * 1024 * 1024
_WASM_STACK_BYTES = 16 * 1024 * 1024
STDERR_TAIL_BYTES = 8192
_MAX_RANDOM_BYTES = 1 << 20
_MONOTONIC_START_NS = 3600 * 10**9
_NS = 10**9


def make_engine() -> wasmtime.Engine:
    """Builder and host must agree on it, or the compiled component is refused."""
    config = wasmtime.Config()
    config.consume_fuel = True
    # Without it, the bits of a NaN would depend on the machine.
    config.cranelift_nan_canonicalization = True
    ffi.wasmtime_config_async_stack_size_set(config.ptr(), 2 * _WASM_STACK_BYTES)
    config.max_wasm_stack = _WASM_STACK_BYTES
    return wasmtime.Engine(config)


def load(engine: wasmtime.Engine, path: Path) -> wit.Component:
    return wit.Component.deserialize_file(engine, str(path))


def can_start(engine: wasmtime.Engine, component: wit.Component, memory_bytes: int) -> bool:
    """Whether an instance fits into so much memory; it is not run."""
    store = wasmtime.Store(engine)
    store.set_fuel(UNITS_PER_SECOND)
    store.set_limits(memory_size=memory_bytes)
    linker = wit.Linker(engine)
    linker.add_wasip2()
    with linker.root() as root:
        for name in ("note", "finish", "pause", "receive", "send"):
            root.add_func(name, _never_called)
    try:
        linker.instantiate(store, component)
    except wasmtime.WasmtimeError:
        return False
    return True


def _never_called(*_: Any) -> NoReturn:
    raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Descriptors of a run."""

    stdin: int
    stdout: int
    stderr: int
    report: int
    channel: int | None


class Run:
    """Never returns from `go`: whatever ends the program ends this process, once the report is written."""

    def __init__(self, engine: wasmtime.Engine, component: wit.Component, request: dict[str, Any], files: Files) -> None:
        self._engine = engine
        self._component = component
        self._request = request
        self._files = files
        self._fuel = int(request["fuel"])
        self._pauses_ns = 0
        self._late_ns = int(request["wall_s"] * _NS)
        self._room = int(request["output_bytes"])
        self._error_room = int(request["output_bytes"])
        self._error_tail = b""
        self._stage = ""
        self._reason = ""
        self._random = random.Random(request["seed"])  # noqa: S311 - repeatable on purpose
        self._channel = None if files.channel is None else socket.socket(fileno=files.channel)
        self._store = wasmtime.Store(engine)

    def go(self) -> NoReturn:
        try:
            run = self._instantiate()
            self._request_files_closed()
            run(self._store, json.dumps(self._request["job"]))
        except wasmtime.WasmtimeError as error:
            self._end("trap", trap=_trap(str(error)))
        except BaseException as error:  # noqa: BLE001 - the report is the only way to tell
            self._end("broken", trap=f"{type(error).__name__}: {error}")
        self._end("finished", code=0)

    def _instantiate(self) -> Any:
        self._store.set_fuel(self._fuel)
        self._store.set_limits(memory_size=int(self._request["memory_bytes"]))
        self._store.set_wasi(self._wasi())
        instance = self._linker().instantiate(self._store, self._component)
        run = instance.get_func(self._store, "run")
        assert run is not None  # noqa: S101 - the component was checked when it was built
        return run

    def _wasi(self) -> wasmtime.WasiConfig:
        """Nothing but the three streams: no directory, no environment, no argument, no network."""
        wasi = wasmtime.WasiConfig()
        body = _read_all(self._files.stdin)
        vector = ffi.wasm_byte_vec_t()
        ffi.wasm_byte_vec_new(ctypes.byref(vector), len(body), ctypes.cast(ctypes.c_char_p(body), ctypes.POINTER(ctypes.c_uint8)))
        ffi.wasi_config_set_stdin_bytes(wasi.ptr(), ctypes.byref(vector))
        wasi.stdout_custom = self._on_stdout
        wasi.stderr_custom = self._on_stderr
        return wasi

    def _request_files_closed(self) -> None:
        os.close(self._files.stdin)

    def _linker(self) -> wit.Linker:
        linker = wit.Linker(self._engine)
        linker.allow_shadowing = True
        linker.add_wasip2()
        versions = {name.partition("@")[0]: name for name in self._component.type.imports(self._engine)}
        with linker.root() as root:
            for name, function in self._own_imports().items():
                root.add_func(name, function)
            for name, functions in self._repeatable_imports().items():
                with root.add_instance(versions[name]) as instance:
                    for function_name, function in functions.items():
                        instance.add_func(function_name, function)
        return linker

    def _own_imports(self) -> dict[str, Callable[..., Any]]:
        return {"note": self._note, "finish": self._finish, "pause": self._pause, "receive": self._receive, "send": self._send}

    def _repeatable_imports(self) -> dict[str, dict[str, Callable[..., Any]]]:
        return {
            "wasi:clocks/wall-clock": {"now": self._wall_clock, "resolution": lambda _: _moment(1)},
            "wasi:clocks/monotonic-clock": {
                "now": lambda _: _MONOTONIC_START_NS + self._virtual_ns(),
                "resolution": lambda _: 1,
                "subscribe-duration": self._no_waiting,
                "subscribe-instant": self._no_waiting,
            },
            "wasi:random/random": {
                "get-random-bytes": self._random_bytes,
                "get-random-u64": lambda _: self._random.getrandbits(64),
            },
        }

    def _used(self) -> int:
        left = ctypes.c_uint64(0)
        ffi.wasmtime_context_get_fuel(self._store._context(), ctypes.byref(left))
        return self._fuel - left.value

    def _virtual_ns(self) -> int:
        return self._used() * _NS // UNITS_PER_SECOND + self._pauses_ns

    def _wall_clock(self, _: Any) -> Any:
        return _moment(EPOCH_S * _NS + self._virtual_ns())

    def _pause(self, _: Any, nanoseconds: int) -> None:
        self._pauses_ns += nanoseconds
        if self._virtual_ns() > self._late_ns:
            self._end("late")

    def _no_waiting(self, *_: Any) -> NoReturn:
        self._end("trap", trap="waited for a clock other than by time.sleep")

    def _random_bytes(self, _: Any, count: int) -> bytes:
        if count > _MAX_RANDOM_BYTES:
            self._end("trap", trap="asked for too many random bytes")
        return self._random.randbytes(count)

    def _note(self, _: Any, stage: str, reason: str) -> None:
        # Once its code runs, a program can say nothing more about itself.
        if self._stage != "R":
            self._stage, self._reason = stage, reason

    def _finish(self, _: Any, code: int) -> NoReturn:
        self._end("finished", code=code)

    def _receive(self, _: Any, most: int) -> str:
        if self._channel is None:
            return ""
        try:
            return self._channel.recv(min(most, 1 << 20)).decode("latin-1")
        except ConnectionError:
            return ""

    def _send(self, _: Any, data: str) -> None:
        if self._channel is None:
            return
        try:
            self._channel.sendall(data.encode("latin-1"))
        except ConnectionError:
            self._end("trap", trap="the channel is closed")

    def _on_stdout(self, data: bytes) -> None:
        _write_all(self._files.stdout, data[: self._room])
        self._room -= len(data)
        if self._room < 0:
            self._end("output")

    def _on_stderr(self, data: bytes) -> None:
        self._error_tail = (self._error_tail + data)[-STDERR_TAIL_BYTES:]
        self._error_room -= len(data)
        if self._error_room < 0:
            self._end("output")

    def _end(self, how: str, code: int | None = None, trap: str = "") -> NoReturn:
        report = {
            "how": how,
            "code": code,
            "trap": trap,
            "stage": self._stage,
            "reason": self._reason,
            "fuel": self._used(),
            "paused_s": self._pauses_ns / _NS,
        }
        _write_all(self._files.stderr, self._error_tail)
        _write_all(self._files.report, json.dumps(report).encode())
        os._exit(0)


def _moment(nanoseconds: int) -> wit.Record:
    moment = wit.Record()
    seconds, rest = divmod(nanoseconds, _NS)
    vars(moment).update(seconds=seconds, nanoseconds=rest)
    return moment


def _trap(message: str) -> str:
    """The cause, which comes last; the rest is a backtrace."""
    return message.rpartition("wasm trap: ")[2].strip() if "wasm trap: " in message else message.strip()[-200:]


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
