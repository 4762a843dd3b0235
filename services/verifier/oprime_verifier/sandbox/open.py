"""Choose an engine."""

from typing import Literal

from oprime_verifier.sandbox.types import Sandbox, SandboxFailedError

Engine = Literal["auto", "native", "wasm"]


def open_sandbox(engine: Engine = "auto") -> Sandbox:
    """`auto` is the native engine, unless its file lock is missing here and the wasm engine is installed.

    Raises SandboxFailedError for an engine that cannot be used.
    """
    if engine == "wasm":
        return _wasm()
    if engine == "native":
        return _native()
    return _native() if _native_holds() else _wasm_or_native()


def _native_holds() -> bool:
    from oprime_verifier.sandbox.inside import landlock

    return landlock.abi() > 0


def _wasm_or_native() -> Sandbox:
    # Without Landlock the native engine still has the filter of system calls, which refuses to open files for writing; its report
    # says what is missing, and strict mode refuses it.
    try:
        return _wasm()
    except SandboxFailedError:
        return _native()


def _native() -> Sandbox:
    from oprime_verifier.sandbox.native import NativeSandbox

    return NativeSandbox()


def _wasm() -> Sandbox:
    try:
        from oprime_verifier.sandbox.wasm import WasmSandbox
    except ImportError as error:
        raise SandboxFailedError(f"the wasm engine cannot be imported ({error}): install the extra `oprime[wasm]`") from error
    return WasmSandbox()
