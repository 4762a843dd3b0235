"""vLLM's processes say what they end with."""

import json
import logging
import multiprocessing
from pathlib import Path

import pytest
from pydantic import ValidationError

from oprime_generator import engine_process
from oprime_generator.config import GeneratorSection
from oprime_generator.engine_process import FAULT_LOGGERS, FAULTS, SWITCH, end_with_parent, fault_text, root_cause


def _die(worker_logger: str, engine_logger: str) -> None:
    """What vLLM's processes log when a worker fails: the engine's error only repeats the worker's."""
    end_with_parent()
    cause = RuntimeError("CPU Generator does not use offset\nand a second line")
    logging.getLogger(worker_logger).error("WorkerProc hit an exception.", exc_info=cause)
    consequence = RuntimeError("Worker failed, please check the stack trace above for the root cause")
    logging.getLogger(engine_logger).error("EngineCore encountered a fatal error.", exc_info=consequence)


def test_the_first_error_of_a_death_is_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = tmp_path / "faults"
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setenv(FAULTS, str(faults))
    process = multiprocessing.get_context("spawn").Process(target=_die, args=FAULT_LOGGERS)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert root_cause(faults) == "RuntimeError: CPU Generator does not use offset"


def test_an_error_that_was_survived_long_ago_is_no_cause(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    entries = [(0.0, "survived"), (engine_process.ONE_DEATH_S + 1, "cause"), (engine_process.ONE_DEATH_S + 2, "consequence")]
    faults.write_text("".join(json.dumps({"time": time, "said": said}) + "\n" for time, said in entries), encoding="utf-8")
    assert root_cause(faults) == "cause"


@pytest.mark.parametrize("content", [None, "", '{"time": 1'])
def test_processes_that_left_no_word_have_no_cause(tmp_path: Path, content: str | None) -> None:
    faults = tmp_path / "faults"
    if content is not None:
        faults.write_text(content, encoding="utf-8")
    assert root_cause(faults) == ""


def test_an_error_is_told_by_what_caused_it_and_one_without_words_by_its_place() -> None:
    with pytest.raises(RuntimeError) as outer:
        _fail_for_a_reason()
    assert fault_text(outer.value) == "ValueError: the reason"
    with pytest.raises(AssertionError) as silent:
        _fail_silently()
    assert fault_text(silent.value).startswith("AssertionError at test_engine_process.py:")


def test_an_error_in_settings_of_the_engine_is_told_by_what_is_wrong() -> None:
    with pytest.raises(ValidationError) as wrong:
        GeneratorSection.model_validate({"threads": "many"})
    assert fault_text(wrong.value).startswith("ValidationError: Input should be a valid integer")


def _fail_for_a_reason() -> None:
    raise RuntimeError("the consequence") from ValueError("the reason\nin detail")


def _fail_silently() -> None:
    raise AssertionError
