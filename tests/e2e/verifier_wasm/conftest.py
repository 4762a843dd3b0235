"""One wasm engine for all tests here; the first use on a machine builds its component, in about half a minute."""

from collections.abc import Iterator

import pytest

from oprime_verifier.sandbox.wasm import WasmSandbox
from oprime_verifier.sandbox.wasm_build import why_missing


@pytest.fixture(scope="session")
def wasm() -> Iterator[WasmSandbox]:
    if (reason := why_missing()) is not None:
        pytest.skip(reason)
    with WasmSandbox() as sandbox:
        yield sandbox
