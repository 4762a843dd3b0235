"""The port for those who watch a service: metrics, whether it lives, whether it can work."""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest

from oprime.adapters.observed import METRICS_PORT, observed
from oprime.runtime import watch_port
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.process import Lifecycle
from oprime.runtime.settings import EndpointsSection
from oprime.runtime.watch_port import WatchPort


async def yes() -> bool:
    return True


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


async def asked(port: int, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, port, path)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    watched = WatchPort("127.0.0.1", 0, metrics=lambda: (b"page\n", "text/plain"), ready=yes)
    yield watched.port
    watched.close()


async def test_it_answers_metrics_health_and_readiness_and_nothing_else(port: int) -> None:
    assert await asked(port, "/metrics") == (200, "page\n")
    assert await asked(port, "/healthz") == (200, "alive\n")
    assert await asked(port, "/readyz?verbose") == (200, "ready\n")
    assert await asked(port, "/config") == (404, "here are /metrics, /healthz and /readyz\n")


async def test_a_port_that_is_taken_is_named(port: int) -> None:
    with pytest.raises(SettingsError, match=rf"endpoints.metrics_port \({port}\) cannot be used on 127.0.0.1"):
        WatchPort("127.0.0.1", port, metrics=lambda: (b"", ""), ready=yes)


async def test_a_service_that_is_not_ready_lives_all_the_same() -> None:
    lifecycle = Lifecycle()
    server = GrpcServer("127.0.0.1:0", on_serving=lifecycle.note_ready)
    watched = WatchPort("127.0.0.1", 0, metrics=lambda: (b"", ""), ready=lifecycle.is_ready)
    seen: list[tuple[int, int]] = []

    async def look() -> None:
        seen.append(((await asked(watched.port, "/healthz"))[0], (await asked(watched.port, "/readyz"))[0]))

    await look()
    await server.start()
    await look()
    await server.set_serving(True)
    await look()
    await server.stop()
    await look()
    watched.close()
    assert seen == [(200, 503), (200, 503), (200, 200), (200, 503)]


def test_an_event_loop_that_hangs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_port, "ANSWER_S", 0.2)
    ports: list[int] = []
    free, done = threading.Event(), threading.Event()

    async def hang() -> None:
        watched = WatchPort("127.0.0.1", 0, metrics=lambda: (b"page\n", "text/plain"), ready=yes)
        ports.append(watched.port)
        free.wait(30)  # the loop does nothing else meanwhile
        await asyncio.to_thread(done.wait, 30)
        watched.close()

    thread = threading.Thread(target=lambda: asyncio.run(hang()))
    thread.start()
    try:
        while not ports:
            time.sleep(0.01)
        for path in ("/healthz", "/readyz"):
            assert get(ports[0], path) == (503, "the event loop has not answered for 0.2 s\n")
        assert get(ports[0], "/metrics")[0] == 200
        free.set()
        assert get(ports[0], "/healthz")[0] == 200
    finally:
        free.set()
        done.set()
        thread.join(30)


async def test_of_several_ranks_the_first_speaks_for_all(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    # The port is taken, which only the first rank notices.
    endpoints = EndpointsSection(metrics_port=port)
    monkeypatch.setenv("RANK", "1")
    with observed("learner", "one", endpoints, yes) as metrics:
        metrics.gauge("published_version", 3)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SettingsError, match=str(port)), observed("learner", "one", endpoints, yes):
        pass


async def test_services_that_share_a_machine_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    free = WatchPort("127.0.0.1", 0, metrics=lambda: (b"", ""), ready=yes)
    free.close()
    monkeypatch.setenv(METRICS_PORT, str(free.port))
    with observed("learner", "one", EndpointsSection(metrics_port=port), yes) as metrics:
        metrics.gauge("published_version", 3)
        assert 'oprime_published_version{run="one",service="learner"} 3.0' in (await asked(free.port, "/metrics"))[1]
