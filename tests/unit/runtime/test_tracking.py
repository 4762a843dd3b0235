"""Trackers are told in the background, and nothing that one of them does reaches the run."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fakes import NotingTracker
from oprime.adapters.open_trackers import missing_packages, open_trackers, shown_settings
from oprime.ports import TrackedRun
from oprime.runtime import tracking
from oprime.runtime.settings import TrackingSection
from oprime.runtime.tracking import Tracking


class Failing(NotingTracker):
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        super().numbers(step, values)
        raise OSError("the network is down\nand more")


def test_rows_are_told_as_finite_numbers_under_their_kind() -> None:
    notes = NotingTracker()
    told = Tracking({"notes": lambda: notes})
    told.row({"kind": "step", "step": 3, "loss": 0.5, "kl": None, "name": "x", "bad": float("nan"), "tokens": 7})
    told.row({"kind": "benchmark", "benchmark": "gsm8k", "step": 3, "accuracy": 0.5})
    told.table(3, "samples", [{"text": "a", "score": 1.0}])
    told.table(4, "samples", [])
    told.close()
    assert notes.heard == [
        (3, {"step/loss": 0.5, "step/tokens": 7.0}),
        (3, {"benchmark/gsm8k/accuracy": 0.5}),
        (3, "samples", [{"text": "a", "score": 1.0}]),
        "closed",
    ]


def test_a_tracker_that_fails_is_warned_of_once_and_stops_neither_the_run_nor_other_trackers() -> None:
    notes, failing = NotingTracker(), Failing()
    with capture_logs() as logs:
        told = Tracking({"failing": lambda: failing, "notes": lambda: notes})
        for step in (1, 2, 3):
            told.row({"kind": "step", "step": step, "loss": 0.5})
        told.close()
    assert [(entry["event"], entry["tracker"], entry["reason"]) for entry in logs] == [("tracker_failed", "failing", "the network is down")]
    # It may come back: it is told all.
    assert [len(one.heard) for one in (notes, failing)] == [4, 4]


def test_a_tracker_that_cannot_be_opened_is_warned_of_once() -> None:
    def unopened() -> NotingTracker:
        raise SystemExit(1)

    with capture_logs() as logs:
        told = Tracking({"closed": unopened})
        told.row({"kind": "step", "step": 1, "loss": 0.5})
        told.close()
    assert [entry["event"] for entry in logs] == ["tracker_failed"]


def test_a_tracker_that_hangs_holds_up_neither_the_run_nor_for_ever_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSE_S", 0.05)
    monkeypatch.setattr(tracking, "MOST_WAITING", 2)
    released = threading.Event()

    class Hanging(NotingTracker):
        def numbers(self, step: int, values: Mapping[str, float]) -> None:
            released.wait(60)

    with capture_logs() as logs:
        told = Tracking({"hanging": Hanging})
        for step in range(10):
            told.row({"kind": "step", "step": step, "loss": 0.5})
        told.close()
    released.set()
    assert [entry["event"] for entry in logs] == ["tracker_failed"]
    assert "lost" in logs[0]["reason"]


def test_a_long_text_of_a_table_is_cut() -> None:
    notes = NotingTracker()
    told = Tracking({"notes": lambda: notes})
    told.table(1, "samples", [{"text": "a" * 20_000}])
    told.close()
    (row,) = notes.heard[0][2]
    assert len(row["text"]) == 8_001


def test_settings_are_shown_without_secrets() -> None:
    document = {"gateway": {"api_keys": "x", "rate": 3}, "queue": {"url": "redis://user:hidden@host"}, "list": ["https://a:hidden@b"]}
    shown = shown_settings(document)
    assert "hidden" not in str(shown)
    assert shown["gateway"] == {"rate": 3}


def test_a_tracker_whose_package_is_missing_costs_a_warning_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    # How Python marks what is not to be found.
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = TrackingSection(tensorboard="off", wandb=True)
    run = TrackedRun(project="p", name="n", directory=tmp_path, settings={}, commit="")
    with capture_logs() as logs:
        opened = open_trackers(settings, run)
        opened.close()
    assert opened.names == ("wandb",)
    assert "pip install 'oprime[wandb]', or leave tracking.wandb off" in logs[0]["reason"]


def test_nothing_is_opened_that_is_off(tmp_path: Path) -> None:
    run = TrackedRun(project="p", name="n", directory=tmp_path / "tracking", settings={}, commit="")
    assert open_trackers(TrackingSection(tensorboard="off"), run).names == ()
    assert not (tmp_path / "tracking").exists()
    assert missing_packages(TrackingSection(tensorboard="off")) == []
