"""What every test starts from."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_of_this_test_only() -> Iterator[None]:
    """A logger that one test configured would write to that test's captured output, which is closed by now."""
    yield
    structlog.reset_defaults()
