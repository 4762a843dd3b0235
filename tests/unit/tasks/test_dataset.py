"""The tasks of a run, and the order in which their prompts come."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.types import ChatMessage, Task
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.settings import ChainSection, TasksSection
from oprime.tasks.chain import problem
from oprime.tasks.dataset import PromptFeed, PromptOrder, StoredTasks, load_tasks, prompt_problem, require_prompts_fit
from oprime.tasks.formats.eurus import chain_row
from oprime.tasks.record_file import RecordFile
from oprime.tasks.row_files import write_rows


def words(messages: Sequence[ChatMessage]) -> list[int]:
    """One token per word."""
    return [0] * sum(len(message.content.split()) for message in messages)


def polite_words(messages: Sequence[ChatMessage]) -> list[int]:
    """As `words`, by a chat template that refuses an odd text."""
    if "odd" in messages[-1].content:
        raise UnusableInputError("the chat template refuses this")
    return words(messages)


def task(content: str) -> Task:
    return Task(messages=(ChatMessage(role="user", content=content),), verifier="exact", ground_truth="4", data_source="")


def write(path: Path, rows: Sequence[Any]) -> TasksSection:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TasksSection(train=str(path))


GOOD = {"prompt": [{"role": "user", "content": "2 + 2?"}], "ability": "math", "reward_model": {"ground_truth": "4"}}


# Sources


def test_the_chain_task_makes_its_problems_when_asked() -> None:
    tasks = load_tasks(TasksSection(source="chain", chain=ChainSection(operations=3, train_problems=10**9)), "train")
    posed = problem("train", 123_456_789, 3)
    assert len(tasks) == 10**9
    assert tasks[123_456_789] == Task(
        messages=(ChatMessage(role="user", content=posed.prompt),),
        verifier="chain",
        ground_truth=posed.ground_truth,
        data_source="oprime_chain",
    )
    assert tasks[-1] == tasks[10**9 - 1]
    assert list(tasks[3:5]) == [tasks[3], tasks[4]]
    with pytest.raises(IndexError):
        tasks[10**9]


def test_the_held_out_chain_problems_are_others() -> None:
    settings = TasksSection(source="chain", chain=ChainSection(heldout_problems=7))
    heldout = load_tasks(settings, "heldout")
    assert len(heldout) == 7
    assert heldout[0].messages[0].content == problem("heldout", 0, 8).prompt


def test_a_file_gives_the_same_tasks_as_the_built_in_source(tmp_path: Path) -> None:
    path = tmp_path / "chain.parquet"
    write_rows(path, (chain_row(problem("heldout", index, 8), index, "heldout") for index in range(20)), "parquet")
    built_in = load_tasks(TasksSection(source="chain", chain=ChainSection(heldout_problems=20)), "heldout")
    assert list(load_tasks(TasksSection(heldout=str(path)), "heldout")) == list(built_in)


def test_tasks_keep_every_character() -> None:
    stored = task('π "quoted" \n\t \u2028 \x00 end')
    assert StoredTasks([stored, stored])[1] == stored


def test_tasks_without_a_file_are_refused_for_training_and_absent_for_evaluation() -> None:
    assert load_tasks(TasksSection(), "heldout") == ()
    with pytest.raises(SettingsError, match=r'tasks.train is empty: name a JSONL or parquet file, or set tasks.source = "chain"'):
        load_tasks(TasksSection(), "train")


def test_every_bad_row_is_named_before_the_file_is_refused(tmp_path: Path) -> None:
    settings = write(tmp_path / "rows.jsonl", [GOOD, {**GOOD, "ability": "x"}, GOOD, {**GOOD, "prompt": []}])
    with pytest.raises(SettingsError) as caught:
        load_tasks(settings, "train")
    lines = str(caught.value).splitlines()
    assert "has 2 bad rows; correct them, or leave them out with tasks.skip_bad_rows = true" in lines[0]
    assert [line.split(", ")[1] for line in lines[1:]] == ["row 2", "row 4"]


def test_of_many_bad_rows_ten_are_named_and_all_are_counted(tmp_path: Path) -> None:
    settings = write(tmp_path / "rows.jsonl", [{**GOOD, "ability": "x"}] * 12 + [{**GOOD, "prompt": []}] * 3)
    with pytest.raises(SettingsError, match=r"and 5 more \(12 x unknown ability, 3 x empty prompt\)") as caught:
        load_tasks(settings, "train")
    assert len(str(caught.value).splitlines()) == 12


def test_bad_rows_may_be_left_out_and_are_counted_by_reason(tmp_path: Path) -> None:
    settings = write(tmp_path / "rows.jsonl", [{**GOOD, "ability": "x"}, GOOD, {**GOOD, "prompt": []}, {**GOOD, "ability": "y"}])
    with structlog.testing.capture_logs() as logs:
        tasks = load_tasks(settings.model_copy(update={"skip_bad_rows": True}), "train")
    (warning,) = [entry for entry in logs if entry["event"] == "bad_rows_skipped"]
    assert len(tasks) == 1
    assert warning["reasons"] == {"unknown ability": 2, "empty prompt": 1}
    assert warning["rows"] == 3


@pytest.mark.parametrize("rows", [[], [{**GOOD, "ability": "x"}]])
def test_a_file_without_a_usable_row_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    settings = write(tmp_path / "rows.jsonl", rows).model_copy(update={"skip_bad_rows": True})
    with pytest.raises(SettingsError, match="has no usable row"):
        load_tasks(settings, "train")


@given(st.lists(st.binary(max_size=100), max_size=30))
def test_records_come_back_in_any_order(records: list[bytes]) -> None:
    file = RecordFile()
    for place, record in enumerate(records):
        file.append(record)
        assert file[place] == record
    assert [file[place] for place in reversed(range(len(file)))] == records[::-1]
    with pytest.raises(IndexError):
        file[len(records)]
    file.close()


# Order


@given(st.integers(0, 2**62), st.integers(1, 40), st.integers(0, 5))
def test_each_epoch_visits_every_task_once(seed: int, size: int, epoch: int) -> None:
    order = PromptOrder(seed, size)
    assert sorted(order.index(epoch * size + place) for place in range(size)) == list(range(size))


def test_a_position_alone_gives_the_task_whatever_was_asked_before() -> None:
    straight = [PromptOrder(3, 10).index(position) for position in range(50)]
    order = PromptOrder(3, 10)
    assert [order.index(position) for position in reversed(range(50))] == straight[::-1]
    assert straight[:10] != straight[10:20]
    assert straight != [PromptOrder(4, 10).index(position) for position in range(50)]


def test_the_order_does_not_change_between_versions() -> None:
    # A resumed run must go on in the order in which it began.
    assert [PromptOrder(7, 10).index(position) for position in range(12)] == GOLDEN_ORDER


def test_an_empty_split_has_no_order() -> None:
    with pytest.raises(SettingsError, match="the training split is empty"):
        PromptOrder(0, 0)


# Length


def test_a_prompt_may_be_as_long_as_the_limit() -> None:
    assert prompt_problem(task("one two three"), words, 3) == ""
    assert "has 4 tokens, more than sampling.max_prompt_tokens = 3" in prompt_problem(task("one two three four"), words, 3)


def test_prompts_that_are_too_long_are_passed_over() -> None:
    tasks = [task("one two"), task("one two three four"), task("one")]
    order = PromptOrder(0, 3)
    feed = PromptFeed(tasks, order, words, 3)
    for position in range(9):
        index = order.index(position)
        assert feed(position) == (None if index == 1 else tasks[index])


def test_a_data_set_of_nothing_but_long_prompts_is_refused_instead_of_searched_for_ever() -> None:
    tasks = [task("one two three four"), task("one two three four five")]
    feed = PromptFeed(tasks, PromptOrder(0, 2), words, 3)
    with pytest.raises(SettingsError, match=r"none of the 2 training prompts can be .*, more than sampling.max_prompt_tokens = 3: raise"):
        [feed(position) for position in range(10)]


def test_a_split_with_a_long_prompt_is_refused_by_name() -> None:
    require_prompts_fit([task("one"), task("one two three")], words, 3, split="heldout")
    with pytest.raises(SettingsError, match=r"heldout task 1 \('one two three four'...\): the prompt has 4 tokens, more than .* = 3"):
        require_prompts_fit([task("one"), task("one two three four")], words, 3, split="heldout")


# Chat template


def test_prompts_that_the_chat_template_refuses_are_passed_over_with_the_reason() -> None:
    tasks = [task("one two"), task("odd one"), task("one")]
    order = PromptOrder(0, 3)
    feed = PromptFeed(tasks, order, polite_words, 3)
    with structlog.testing.capture_logs() as logs:
        found = [feed(position) for position in range(6)]
    assert found == [None if order.index(position) == 1 else tasks[order.index(position)] for position in range(6)]
    passed_over = [entry for entry in logs if entry["event"] == "prompt_passed_over"]
    assert [entry["position"] for entry in passed_over] == [position for position in range(6) if order.index(position) == 1]
    assert all(entry["task"] == 1 and "the chat template refuses this" in entry["reason"] for entry in passed_over)


def test_a_data_set_of_nothing_but_refused_prompts_is_refused() -> None:
    feed = PromptFeed([task("odd"), task("odder")], PromptOrder(0, 2), polite_words, 3)
    with pytest.raises(SettingsError, match=r"none of the 2 training prompts can be sampled from; .*the chat template refuses this"):
        [feed(position) for position in range(10)]


def test_a_split_with_a_refused_prompt_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"heldout task 1 \('odd'...\): the chat template refuses this"):
        require_prompts_fit([task("one"), task("odd")], polite_words, 3, split="heldout")


def test_a_row_that_the_chat_template_refuses_is_a_bad_row(tmp_path: Path) -> None:
    odd = {**GOOD, "prompt": [{"role": "user", "content": "odd"}]}
    settings = write(tmp_path / "rows.jsonl", [GOOD, odd])
    assert len(load_tasks(settings, "train")) == 2
    with pytest.raises(SettingsError, match=r"rows.jsonl, row 2, prompt: refused by the chat template: the chat template refuses this"):
        load_tasks(settings, "train", polite_words)
    with structlog.testing.capture_logs() as logs:
        tasks = load_tasks(settings.model_copy(update={"skip_bad_rows": True}), "train", polite_words)
    assert len(tasks) == 1
    assert [entry["reasons"] for entry in logs if entry["event"] == "bad_rows_skipped"] == [{"refused by the chat template": 1}]


GOLDEN_ORDER = [8, 0, 7, 1, 3, 6, 2, 4, 5, 9, 9, 0]
