"""What is read of a run's files and shown: metrics, ledger, logs, time left, summary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oprime_cli.console import duration, size
from oprime_cli.files import read_json, write_json
from oprime_cli.paths import absolute_paths
from oprime_cli.run_config import RunConfig
from oprime_cli.running.audit import Audit, by_kind, recounted
from oprime_cli.running.coordinator_client import Status, is_emptied
from oprime_cli.running.devices import Devices, Gpu
from oprime_cli.running.live import Pace, PlainView, TerminalView, facts, line_of
from oprime_cli.running.log_lines import last_error
from oprime_cli.running.metric_rows import MetricRows
from oprime_cli.running.phases import PhaseTimer
from oprime_cli.running.services import environment, service_specs
from oprime_cli.running.summary import closing_lines, make_summary
from oprime_proto.v1 import coordinator_pb2 as pb

MakeConfig = Callable[..., RunConfig]


def step(number: int, **values: float | None) -> dict[str, Any]:
    return {"kind": "step", "step": number, **values}


def evaluation(number: int, sampled: float, greedy: float) -> dict[str, Any]:
    return {"kind": "evaluation", "step": number, "heldout_accuracy": sampled, "heldout_greedy_accuracy": greedy, "seconds": 2.0}


def rows_of(path: Path, *rows: dict[str, Any]) -> MetricRows:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = MetricRows(path)
    found.read_new()
    return found


def test_rows_are_read_as_they_come_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = MetricRows(path)
    assert rows.read_new() == []
    path.write_text(json.dumps(step(1)) + "\n" + '{"kind": "st')
    assert [row["step"] for row in rows.read_new()] == [1]
    with path.open("a") as stream:
        stream.write('ep", "step": 2}\nnonsense\n{"kind": "other"}\n')
    assert [row["step"] for row in rows.read_new()] == [2]
    assert rows.read_new() == []


def test_a_repeated_step_counts_once_with_its_newest_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m", step(1, prm_accuracy=0.1), step(2, prm_accuracy=0.2), step(2, prm_accuracy=0.6))
    assert rows.mean("prm_accuracy") == pytest.approx(0.35)
    assert rows.last("prm_accuracy") == 0.6
    assert rows.largest("prm_accuracy") == 0.6
    assert rows.last("tokens") is None


def test_the_mean_is_over_the_last_ten_steps(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m", *(step(number, outcome_reward_mean=float(number)) for number in range(1, 21)))
    assert rows.mean("outcome_reward_mean") == pytest.approx(15.5)


COUNTS = {"issued": 10, "trained": 4, "filtered:too_easy": 2, "filtered:too_hard": 1, "dropped:stale": 1, "dead:rollouts": 1, "live": 1}


def test_a_ledger_is_closed_when_it_adds_up_and_its_entries_agree() -> None:
    assert Audit(counts=COUNTS, recount=COUNTS, before=COUNTS).closed
    assert by_kind(COUNTS) == {"issued": 10, "trained": 4, "filtered": 3, "dropped": 1, "dead": 1, "live": 1}


@pytest.mark.parametrize("wrong", [{**COUNTS, "live": 0}, {**COUNTS, "issued": 11}, {**COUNTS, "trained": 3}])
def test_a_ledger_that_does_not_add_up_is_not_closed(wrong: dict[str, int]) -> None:
    assert not Audit(counts=wrong, recount=wrong, before=wrong).closed


def test_a_lost_entry_is_noticed_although_the_counts_add_up() -> None:
    recount = {**COUNTS, "issued": 9, "trained": 3}
    assert not Audit(counts=COUNTS, recount=recount, before=COUNTS).closed


def test_entries_that_move_while_they_are_counted_are_no_violation() -> None:
    before = {**COUNTS, "trained": 2, "live": 3}
    recount = {**COUNTS, "trained": 3, "live": 2}
    assert Audit(counts=COUNTS, recount=recount, before=before).closed


def test_each_difference_between_counts_and_entries_is_named() -> None:
    recount = {**COUNTS, "issued": 9, "trained": 3}
    assert Audit(counts=COUNTS, recount=recount, before=COUNTS).findings == (
        "issued: the counts say 10, the entries 9",
        "trained: the counts say 4, the entries 3",
    )
    wrong = {**COUNTS, "live": 0}
    assert Audit(counts=wrong, recount=wrong, before=wrong).findings == ("the counts do not add up: 10 issued, 9 in all states",)


def test_groups_that_are_not_whole_open_a_ledger_whose_counts_agree() -> None:
    assert not Audit(counts=COUNTS, recount=COUNTS, before=COUNTS, groups=("1 group(s) have fewer than their 4 rollouts: 3",)).closed


def test_an_emptied_server_is_no_closed_ledger() -> None:
    nothing = {"issued": 0, "live": 0}
    assert not Audit(counts=nothing, recount=nothing, before=nothing, empty=True).closed


@pytest.mark.parametrize("issued", [Status(live_groups=1), Status(ready_groups=1), Status(cut_batches=1)])
def test_a_run_whose_ledger_is_gone_is_told_from_one_that_has_not_begun(issued: Status) -> None:
    assert is_emptied(issued)
    issued.ledger["issued"] = 4
    assert not is_emptied(issued)
    assert not is_emptied(Status(ledger={"issued": 0}))


def test_the_recount_does_not_tell_steps_apart() -> None:
    assert recounted({"1:0": "trained:1", "1:1": "trained:2", "2:0": "live"}) == {"issued": 3, "live": 1, "trained": 2}
    assert recounted({"1:0": "baseline:1", "1:1": "baseline:2"}) == {"issued": 2, "live": 0, "baseline": 2}


def test_greedy_baselines_have_a_kind_of_their_own_where_there_are_any() -> None:
    counts = {"issued": 5, "trained": 4, "baseline": 1}
    assert Audit(counts=counts, recount=counts, before=counts).closed
    assert by_kind(counts) == {"issued": 5, "trained": 4, "baseline": 1, "filtered": 0, "dropped": 0, "dead": 0, "live": 0}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ("Traceback\n  File\nOSError: full\ncleaning up\n", "OSError: full"),
        ('{"level": "error", "event": "stopped", "error": "no model"}\n{"level": "info", "event": "bye"}\n', "stopped: no model"),
        ('{"level": "error", "event": "rpc_failed", "exception": "Traceback\\nValueError: 3"}\n', "rpc_failed: ValueError: 3"),
        ('{"level": "error", "event": "first"}\nChildFailedError: rank 1\n', "first"),
    ],
)
def test_the_last_error_of_a_log_is_found(tmp_path: Path, log: str, said: str) -> None:
    path = tmp_path / "x.log"
    path.write_text(log)
    assert last_error(path) == said


def test_the_last_error_of_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert last_error(tmp_path / "none.log") == ""


def test_without_a_terminal_each_row_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = step(3, outcome_reward_mean=0.25, rollouts=1200), evaluation(0, 0.25, 0.19)
    with PlainView(60) as view:
        view.update(None, MetricRows(tmp_path / "m"), [second, first])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "evaluation after step 0  held-out accuracy 0.250  greedy 0.190"
    assert lines[1].startswith("step 3/60  outcome reward 0.250  prm accuracy -")
    assert "rollouts 1,200" in lines[1]
    assert "\n" not in line_of(first, 60)
    assert "prm" not in line_of(first, 60, has_prm=False)


def test_the_view_says_who_waits_for_whom_and_how_the_queues_stand(tmp_path: Path) -> None:
    status = Status(state=pb.RUN_STATE_TRAINING, step=2, total_steps=4, bottleneck="generator", ledger={"issued": 8, "live": 8})
    status.queues.add(stream="tickets", waiting=3, pending=2)
    lines = facts(status, rows_of(tmp_path / "m", evaluation(0, 0.25, 0.2), evaluation(2, 0.5, 0.6)), 2, 4, 61)
    assert lines["step"] == "2 of 4 · training · 1 min 01 s left"
    assert lines["waiting for"] == "generator"
    assert lines["queues"] == "tickets 3+2"
    assert lines["ledger"].startswith("issued 8")
    assert lines["held-out accuracy"] == "0.250 -> 0.500"
    assert "does not answer" in facts(None, MetricRows(tmp_path / "none"), 0, 4, None)["step"]
    assert set(lines) - set(facts(status, MetricRows(tmp_path / "none"), 2, 4, 61, has_prm=False)) == {"PRM accuracy"}


def test_the_live_view_shows_name_step_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(state=pb.RUN_STATE_EVALUATING, step=4, total_steps=4)
    with TerminalView("demo", 4) as view:
        view.update(status, rows_of(tmp_path / "m", step(3, outcome_reward_mean=0.625)), [])
    printed = capsys.readouterr().out
    assert "oprime · demo" in printed
    assert "4 of 4 · evaluating" in printed
    assert "0.625" in printed


def test_the_time_left_follows_the_steps_seen() -> None:
    pace = Pace(10)
    assert pace.remaining_s(2, 100.0, None) is None
    # A step takes 10 s: 6 more take 60 s; 5 s later 55 s are left.
    assert pace.remaining_s(4, 120.0, 10.0) == pytest.approx(60)
    assert pace.remaining_s(4, 125.0, 10.0) == pytest.approx(55)


def test_a_step_that_takes_for_ever_does_not_use_up_the_time_of_those_after_it() -> None:
    pace = Pace(10)
    pace.remaining_s(4, 100.0, 10.0)
    # Step 5 has taken 500 s so far; steps 6 to 10 still take 50 s.
    assert pace.remaining_s(4, 600.0, 10.0) == pytest.approx(50)
    assert pace.remaining_s(10, 700.0, 10.0) == 0


def test_no_time_is_promised_once_all_steps_are_done_or_while_the_run_stands_still(tmp_path: Path) -> None:
    rows = MetricRows(tmp_path / "none")
    evaluating = Status(state=pb.RUN_STATE_EVALUATING, step=4, total_steps=4)
    assert facts(evaluating, rows, 4, 4, 0.0)["step"] == "4 of 4 · evaluating · all steps done"
    standing = Status(state=pb.RUN_STATE_TRAINING, step=2, total_steps=4, stalled="nothing has moved for 62 s")
    lines = facts(standing, rows, 2, 4, 12.0)
    assert lines["step"].endswith("time left unknown")
    assert lines["stalled"] == "nothing has moved for 62 s"
    assert "stalled" not in facts(evaluating, rows, 4, 4, None)


def test_a_single_evaluation_is_no_change_and_a_mean_says_over_how_many_steps_it_is(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m", evaluation(0, 0.25, 0.19), step(1, outcome_reward_mean=0.5), step(2, outcome_reward_mean=None))
    lines = facts(None, rows, 2, 4, None)
    assert lines["held-out accuracy"] == "0.250"
    assert lines["outcome reward"] == "0.500 (mean of 1 step)"
    young = facts(None, MetricRows(tmp_path / "none"), 0, 4, None)
    assert (young["held-out accuracy"], young["outcome reward"]) == ("-", "-")


def test_a_benchmark_is_a_line_of_its_own_and_no_evaluation_of_held_out_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    row = {"kind": "benchmark", "step": 50, "benchmark": "math500", "accuracy": 0.5, "accuracy_low": 0.45, "accuracy_high": 0.55}
    path.write_text(json.dumps(row) + "\n")
    rows = MetricRows(path)
    with PlainView(60) as view:
        view.update(None, rows, rows.read_new())
    assert capsys.readouterr().out == "math500 after step 50  accuracy 0.500 [0.450, 0.550]\n"
    assert rows.evaluations == []


def test_without_a_terminal_a_standstill_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = MetricRows(tmp_path / "none")
    with PlainView(60) as view:
        for text in ("", "nothing has moved for 60 s: why", "nothing has moved for 61 s: why", "", "nothing has moved for 60 s: again"):
            view.update(Status(stalled=text), rows, [])
        view.update(None, rows, [])
    assert capsys.readouterr().out.splitlines() == [
        "warning: nothing has moved for 60 s: why", "warning: nothing has moved for 60 s: again",
    ]  # fmt: skip


def test_phases_go_on_counting_in_the_next_session(tmp_path: Path) -> None:
    path = tmp_path / "phases.json"
    write_json(path, {"train": 100.0})
    timer = PhaseTimer(path)
    with timer.phase("train"):
        timer.tick()
    assert timer.seconds()["train"] >= 100
    assert timer.seconds()["total"] == pytest.approx(timer.seconds()["train"])
    kept = read_json(path)
    assert kept is not None
    assert kept["train"] >= 100


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["summary.json"]


def test_the_summary_has_what_a_run_achieved(tmp_path: Path, make_config: MakeConfig) -> None:
    rows = rows_of(
        tmp_path / "m", evaluation(0, 0.25, 0.19), step(1, staleness_max=1, rollouts=40, prompts=10, tokens=400),
        step(2, staleness_max=0, rollouts=80, prompts=20, tokens=800, prm_accuracy=0.75), evaluation(2, 0.5, 0.6),
    )  # fmt: skip
    seconds = {"sft": 1.0, "start": 2.0, "train": 30.0, "evaluate": 3.0, "report": 1.0, "total": 37.0}
    audit = Audit(counts=COUNTS, recount=COUNTS, before=COUNTS)
    summary = make_summary(make_config(), rows, audit, seconds=seconds, localisation={"f1": 1})
    wanted = {
        "result": "ok", "steps": 2, "prompts": 20, "rollouts": 80, "tokens": 800, "heldout_before": 0.25, "heldout_after": 0.5,
        "heldout_greedy_before": 0.19, "heldout_greedy_after": 0.6, "prm_accuracy": 0.75, "staleness_max": 1, "ledger_closed": True,
        "seed": 0, "localisation": {"f1": 1},
    }  # fmt: skip
    assert {name: summary[name] for name in wanted} == wanted
    # Two evaluations of 2 s happened inside the 30 s of training.
    assert (summary["seconds"]["train"], summary["seconds"]["evaluate"], summary["seconds"]["total"]) == (26.0, 7.0, 37.0)
    assert summary["versions"]["python"]
    assert closing_lines(summary)[0] == "held-out accuracy: 25.0% -> 50.0% sampled, 19.0% -> 60.0% greedy"
    once = {**summary, "heldout_after": None, "heldout_greedy_before": None, "heldout_greedy_after": None}
    assert closing_lines(once)[0] == "held-out accuracy: 25.0% sampled"
    assert closing_lines({**once, "heldout_before": None})[0] == "held-out accuracy: not measured (tasks.heldout)"
    assert closing_lines({**summary, "ledger_closed": False})[1].startswith("the ledger is NOT closed")


def test_each_service_sees_its_own_gpus_only(make_config: MakeConfig) -> None:
    devices = Devices(generator=(Gpu("0", 0), Gpu("1", 0)), prm=(Gpu("2", 0),))
    config = make_config()
    generator = environment(config, "generator", devices, serve_only=False)
    assert generator["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "DS_ACCELERATOR" not in generator
    gateway = environment(config, "gateway", devices, serve_only=True)
    assert (gateway["CUDA_VISIBLE_DEVICES"], gateway["DS_ACCELERATOR"]) == ("", "cpu")
    assert gateway["HF_HUB_OFFLINE"] == "1"
    assert "OPRIME_SERVE_ONLY" not in gateway
    assert environment(config, "coordinator", devices, serve_only=True)["OPRIME_SERVE_ONLY"] == "1"
    assert environment(config, "prm", devices, serve_only=True)["OPRIME_SERVE_ONLY"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(make_config("model.path=Owner/name"), "prm", devices, serve_only=False)


def test_replicas_that_only_score_are_processes_of_their_own_with_an_address_and_a_gpu_each(make_config: MakeConfig) -> None:
    addresses = '["127.0.0.1:7001", "127.0.0.1:7002"]'
    config = make_config("scoring.replicas=2", f"endpoints.scorers={addresses}", "endpoints.metrics_port=9000")
    devices = Devices(scorers=(Gpu("4", 0), Gpu("5", 0)))
    specs = {spec.name: spec for spec in service_specs(config, Path("c.toml"), devices, serve_only=False)}
    for number, gpu in enumerate("45"):
        scorer = specs[f"scorer-{number}"]
        assert scorer.argv[1:] == ("-m", "oprime_prm.scoring", "c.toml")
        assert (scorer.env["CUDA_VISIBLE_DEVICES"], scorer.env["OPRIME_SCORER"]) == (gpu, str(number))
        assert scorer.env["OPRIME_METRICS_PORT"] == str(9006 + number)
        assert scorer.stop_stage > specs["gateway"].stop_stage
    beside_training = {spec.name: spec for spec in service_specs(config, Path("c.toml"), Devices(), serve_only=False)}
    assert beside_training["scorer-1"].argv[:3] == ("nice", "-n", "10")
    assert beside_training["prm"].argv[0] != "nice"
    without = make_config("scoring.replicas=2", "algorithm.process_weight=0")
    assert not any(spec.name.startswith("scorer") for spec in service_specs(without, Path("c.toml"), devices, serve_only=False))


def test_local_paths_become_absolute_and_hub_ids_stay(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = absolute_paths(
        make_config("model.path=model", "prm.initial_model=Owner/name", "tasks.train=a.jsonl", "tasks.heldout=hf://datasets/o/n/f")
    )
    assert config.model.path == str(tmp_path / "model")
    assert config.prm.initial_model == "Owner/name"
    assert absolute_paths(make_config("critic.path=./critic")).critic.path == str(tmp_path / "critic")
    assert (config.tasks.train, config.tasks.heldout, config.tasks.reader) == (str(tmp_path / "a.jsonl"), "hf://datasets/o/n/f", "")
    evaluated = absolute_paths(make_config('run.evaluate_on=["amc", "mine.jsonl"]', 'run.evaluate_on_data=["data", "amc=amc.jsonl"]')).run
    assert evaluated.evaluate_on == ("amc", f"{tmp_path}/mine.jsonl")
    assert evaluated.evaluate_on_data == (f"{tmp_path}/data", f"amc={tmp_path}/amc.jsonl")
    readers = ("eurus", "my_package.sums:READER", "sums.py:READER")
    absolute = [absolute_paths(make_config(f"tasks.reader={reader}")).tasks.reader for reader in readers]
    assert absolute == ["eurus", "my_package.sums:READER", f"{tmp_path}/sums.py:READER"]


def test_the_model_that_the_warm_up_makes_is_a_path_although_it_looks_like_a_hub_id(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_paths(make_config("model.path=runs/sft", "sft.steps=1")).model.path == str(tmp_path / "runs/sft")
    assert absolute_paths(make_config("model.path=runs/sft")).model.path == "runs/sft"


def test_the_paths_of_the_warm_up_become_absolute(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    given = make_config("sft.start=base", "sft.output=runs/sft", "sft.demonstrations=d.jsonl").sft
    made = absolute_paths(make_config("sft.start=base", "sft.output=runs/sft", "sft.demonstrations=d.jsonl")).sft
    assert given is not None
    assert made is not None
    assert (given.start, made.start) == ("base", str(tmp_path / "base"))
    assert (made.output, made.demonstrations) == (str(tmp_path / "runs/sft"), str(tmp_path / "d.jsonl"))
    hub = absolute_paths(make_config("sft.start=Owner/name")).sft
    assert hub is not None
    assert hub.start == "Owner/name"


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (5 * 2**40, "5120.0 GiB")])
def test_sizes_read_well(amount: int, text: str) -> None:
    assert size(amount) == text
