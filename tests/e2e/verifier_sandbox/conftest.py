from collections.abc import Iterator

import pytest

from oprime_verifier.sandbox.native import NativeSandbox


@pytest.fixture(scope="package")
def sandbox() -> Iterator[NativeSandbox]:
    opened = NativeSandbox()
    yield opened
    opened.close()
