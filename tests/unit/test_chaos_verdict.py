"""What the chaos tool calls a violation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chaos.faults import Kind, draw
from chaos.verdict import (
    Accounts,
    ledger_difference,
    ledger_violations,
    same_bits,
    step_violations,
    tensor_difference,
    total_differences,
    weight_differences,
)
from oprime_cli.running.audit import Audit, recounted

GROUPS, GROUP_SIZE = 2, 2


def ledger(*trained_at: int, more: dict[str, str] | None = None) -> dict[str, str]:
    """Group n was trained at the nth of the steps given, whole."""
    whole = {f"{group}:{index}": f"trained:{step}" for group, step in enumerate(trained_at) for index in range(GROUP_SIZE)}
    return whole | (more or {})


def violations(
    entries: dict[str, str], *, steps: int = 2, counts: dict[str, int] | None = None, letters: tuple[str, ...] = ()
) -> list[str]:
    recount = recounted(entries)
    counts = recount if counts is None else counts
    accounts = Accounts(audit=Audit(counts=counts, recount=recount, before=counts), ledger=entries, dead_letters=list(letters))
    return ledger_violations(accounts, steps=steps, groups=GROUPS, group_size=GROUP_SIZE)


def test_full_steps_and_a_closed_ledger_are_as_they_must_be() -> None:
    assert violations(ledger(1, 1, 2, 2, more={"4:0": "filtered:accuracy_low", "4:1": "filtered:accuracy_low"})) == []


def test_a_group_that_went_into_two_batches_lacks_in_the_second() -> None:
    assert violations(ledger(1, 1, 2)) == ["step 2 trained on 1 groups instead of 2: [2]"]


def test_half_a_group_is_named() -> None:
    entries = ledger(1, 1, 2, 2)
    entries["3:1"] = "dropped:late"
    assert violations(entries) == ["step 2 trained on 1 of 2 rollouts of group 3"]


def test_a_step_beyond_the_last_is_one_too_many() -> None:
    assert violations(ledger(1, 1, 2, 2, 3)) == ["step 3 trained on 1 groups instead of 0: [4]"]


def test_a_rollout_that_is_still_live_is_stuck() -> None:
    assert violations(ledger(1, 1, 2, 2, more={"4:0": "live"})) == ["1 rollouts are still live"]


def test_counts_that_differ_from_the_entries_are_a_violation() -> None:
    entries = ledger(1, 1, 2, 2)
    (violation,) = violations(entries, counts={"issued": 9, "trained": 9, "live": 0})
    assert violation.startswith("the ledger is not closed")


def test_dead_letters_are_named() -> None:
    assert violations(ledger(1, 1, 2, 2), letters=("tickets 7: bad",)) == ["dead letter: tickets 7: bad"]


@pytest.mark.parametrize(("seen", "wrong"), [((1, 2, 3), False), ((1, 2, 2, 3), True), ((1, 3), True), ((1, 3, 2), True)])
def test_every_step_is_there_once_and_in_order(seen: tuple[int, ...], wrong: bool) -> None:
    rows = [{"step": step, "staleness_max": 0} for step in seen]
    assert bool(step_violations(rows, steps=3, max_staleness=0)) is wrong


def test_a_step_on_rollouts_that_are_too_old_is_named() -> None:
    assert step_violations([{"step": 1, "staleness_max": 3}], steps=1, max_staleness=2) == ["step 1 trained at staleness 3"]


def test_a_rollout_that_ended_otherwise_is_named_in_the_order_of_groups() -> None:
    twin, ours = {"9:0": "trained:1", "10:0": "trained:1"}, {"9:0": "trained:1", "10:0": "dropped:late", "11:0": "trained:1"}
    assert ledger_difference(twin, twin) == []
    assert ledger_difference(twin, ours) == ["2 rollouts ended otherwise; the first is 10:0: dropped:late instead of trained:1"]


def a_run(folder: Path, weight: float = 1.0, moment: float = 2.0, prompts: int = 8, rollouts: int = 32) -> Path:
    """A finished run of one step."""
    for name in ("weights", "prm_weights"):
        tensors(folder / name / "v00000001" / "model.safetensors", weight)
    checkpoint = folder / "checkpoints" / "step-000001"
    for part in ("policy", "prm"):
        tensors(checkpoint / part / "state-00000.safetensors", moment)
    (checkpoint / "coordinator").mkdir()
    (checkpoint / "coordinator" / "state.json").write_text(json.dumps({"rollouts": rollouts, "tokens": 9}))
    row = {"kind": "step", "step": 1, "prompts": prompts, "acceptance_rate": 0.5, "trained_tokens": 4, "prm_loss": 0.1, "policy_loss": 0.2}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def tensors(file: Path, value: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"one": torch.tensor([value]), "two": torch.zeros(2)}, file)


def test_equal_runs_have_no_differences(tmp_path: Path) -> None:
    twin, run = a_run(tmp_path / "twin"), a_run(tmp_path / "run")
    assert weight_differences(twin, run, steps=1) == []
    assert total_differences(twin, run, steps=1) == []


def test_the_least_difference_of_weights_is_found(tmp_path: Path) -> None:
    twin, run = a_run(tmp_path / "twin"), a_run(tmp_path / "run", weight=1.0000001)
    said = "1 of 2 tensors in model.safetensors differ, one among them"
    assert weight_differences(twin, run, steps=1) == [f"weights/v00000001: {said}", f"prm_weights/v00000001: {said}"]


def test_optimizer_states_must_be_equal_too(tmp_path: Path) -> None:
    twin, run = a_run(tmp_path / "twin"), a_run(tmp_path / "run", moment=2.5)
    assert [line.partition(":")[0] for line in weight_differences(twin, run, steps=1)] == ["checkpoint of policy", "checkpoint of prm"]


def test_totals_must_be_equal_too(tmp_path: Path) -> None:
    twin, run = a_run(tmp_path / "twin"), a_run(tmp_path / "run", prompts=9, rollouts=36)
    assert total_differences(twin, run, steps=1) == ["step 1: prompts is 9 instead of 8", "rollouts in all: 36 instead of 32"]


def test_missing_weights_are_a_difference(tmp_path: Path) -> None:
    tensors(tmp_path / "one" / "model.safetensors", 1.0)
    assert tensor_difference(tmp_path / "one", tmp_path / "none", "*.safetensors") == "has the files [] instead of ['model.safetensors']"
    assert tensor_difference(tmp_path / "none", tmp_path / "none", "*.safetensors") == "has the files [] instead of []"


def test_bits_are_compared_and_not_numbers() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.double())


def test_the_same_seed_draws_the_same_faults_of_every_kind() -> None:
    drawn = draw(3, 200)
    assert drawn == draw(3, 200)
    assert drawn != draw(4, 200)
    assert {fault.kind for fault in drawn} == set(Kind)
    assert {fault.victim for fault in drawn if fault.kind is Kind.KILL} >= {"redis", "coordinator", "learner", "everything"}
