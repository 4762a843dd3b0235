"""Make the component and its machine code; run as a process of its own, once per machine: `wasm_make.py STAGE COMPONENT CODE`."""

import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
_MOST_BASELINE_MIB = 512


def main(stage: str, component: str, code: str) -> None:
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):  # a judge's bounds are not meant for this
        hardest = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hardest, hardest))
    if not Path(component).exists():
        _componentize(Path(stage), component)
    _compile(Path(component), Path(code))


def _componentize(stage: Path, component: str) -> None:
    import componentize_py

    # Otherwise it would look for packages among this interpreter's own.
    os.environ["VIRTUAL_ENV"] = str(stage / "empty")
    (stage / "empty" / "site-packages").mkdir(parents=True, exist_ok=True)
    sys.argv = [
        "componentize-py", "--quiet", "-d", str(stage / "runner.wit"), "-w", "runner",
        "componentize", "-p", str(stage), "app", "-o", component,
    ]  # fmt: skip
    componentize_py.script()  # type: ignore[attr-defined] # its console command, native code without stubs


def _compile(component: Path, code: Path) -> None:
    from wasmtime.component import Component

    from oprime_verifier.sandbox.wasm_instance import make_engine

    engine = make_engine()
    body = component.read_bytes()
    compiled = Component(engine, body)
    code.write_bytes(compiled.serialize())
    facts = {
        "component": hashlib.sha256(body).hexdigest(),
        "code": hashlib.sha256(code.read_bytes()).hexdigest(),
        "baseline_bytes": _baseline_bytes(engine, compiled),
    }
    code.with_suffix(".json").write_text(json.dumps(facts))


def _baseline_bytes(engine: Any, compiled: Any) -> int:
    """Memory that the interpreter has before a program asks for any, found by bisection."""
    from oprime_verifier.sandbox.wasm_instance import can_start

    low, high = 0, _MOST_BASELINE_MIB
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if can_start(engine, compiled, middle * MIB) else (middle, high)
    return high * MIB


if __name__ == "__main__":
    main(*sys.argv[1:])
