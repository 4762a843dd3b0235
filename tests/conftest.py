"""What every test starts from."""

from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("oprime", deadline=None)
hypothesis.settings.load_profile("oprime")


@pytest.fixture(autouse=True)
def logs_of_this_test_only() -> Iterator[None]:
    """A logger that one test configured would write to that test's captured output, which is closed by now."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def processes_of_a_test_choose_their_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank in this process has chosen loopback for itself; those that a test starts on several hosts inherit the environment."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
