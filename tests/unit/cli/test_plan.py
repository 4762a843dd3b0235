"""The plan: each contradiction is found, named and explained, and all of them at once."""

import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oprime.runtime.errors import SettingsError
from oprime_cli.main import main
from oprime_cli.planning import check_machine
from oprime_cli.planning.estimate import prm_memory, trainer_memory
from oprime_cli.planning.model_files import count_parameters, estimate_parameters, facts
from oprime_cli.planning.plan import Plan, make_plan, memory_of, needs_sft
from oprime_cli.planning.plan_view import plan_lines, show_plan
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices, Gpu, assign, parse_gpus, threads
from oprime_cli.running.failures import PlanRefusedError
from oprime_cli.running.services import service_specs

from .conftest import MODEL, TOKENIZER, write_model, write_safetensors

MakeConfig = Callable[..., RunConfig]
GIB = 2**30


def plan_of(config: RunConfig, *gpus: Gpu) -> Plan:
    return make_plan(config, new_run=True, gpus=gpus)


def test_a_good_plan_has_no_problems(make_config: MakeConfig) -> None:
    assert plan_of(make_config()).problems == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampling.group_size=1", r"sampling.group_size = 1 .*at least 2; set sampling.group_size=4"),
        ("learner.updates_per_batch=3", r"groups_per_batch = 8 .*learner.updates_per_batch = 3.*set coordinator.groups_per_batch=9"),
        ("prm.updates_per_batch=5", r"groups_per_batch = 8 .*prm.updates_per_batch = 5.*set coordinator.groups_per_batch=10"),
        ("staleness.max_staleness=3", r"store.keep_versions = 4 is below .* = 5.*set store.keep_versions=5"),
        ("prm.update=offline", r"it would reward nothing; name a trained PRM in prm.initial_model"),
        ("prm.loss=dpo", r'prm.loss = "dpo" with prm.update = "double_forward".*use prm.update=reverse, or prm.loss=ce'),
        ("coordinator.max_live_groups=4", r"max_live_groups = 4 is below coordinator.groups_per_batch = 8"),
        ("learner.offload_optimizer=true", r"learner.zero_stage = 0.*set learner.zero_stage=1"),
        ("prm.ranks=33", r"prm.ranks = 33 is more than the 32 rollouts"),
        ("tasks.source=rows", r"tasks.train is empty"),
        ("sft.output=elsewhere", r"sft.output = elsewhere is not model.path"),
        ("endpoints.prm=localhost", r"endpoints.prm = 'localhost': write HOST:PORT"),
        ("queue.url=http://x", r"queue.url = 'http://x'"),
        ("endpoints.gateway=0.0.0.0:8000", r"without keys: set gateway.api_keys_file"),
        ("model.attention=flash_attention_2", r"half precision"),
    ],
)
def test_a_contradiction_in_the_settings_is_named_with_its_remedy(make_config: MakeConfig, override: str, said: str) -> None:
    problems = make_config(override).contradictions()
    assert len([problem for problem in problems if _matches(said, problem)]) == 1, problems


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('verifier.plugins={math = "m:f"}', "verifier.plugins.math: a built-in verifier has the name 'math' already"),
        ('verifier.compositions={c = {mode = "all", parts = ["maths"]}}', "names 'maths', which is no verifier"),
        ('verifier.compositions={c = {mode = "all", parts = ["c"]}}', "is a circle"),
    ],
)
def test_verifiers_that_cannot_be_told_apart_or_found_are_refused_at_once(make_config: MakeConfig, override: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        make_config(override)


def test_adapters_that_cannot_work_are_refused(make_config: MakeConfig) -> None:
    sent = make_config("learner.lora.rank=8", "learner.lora.publish=adapter", "store.transfer=nccl").contradictions()
    assert [problem for problem in sent if _matches(r'publish = "adapter" with store.transfer = "nccl".*set store.transfer=store', problem)]
    frozen = make_config("prm.lora.rank=8", "prm.update=offline", "prm.reference=policy").contradictions()
    assert [problem for problem in frozen if _matches(r"prm.lora.rank = 8 does nothing .*leave it at 0", problem)]
    with pytest.raises(SettingsError, match=r"learner.lora: publish without rank, which is 0: all weights are trained; set rank=16"):
        make_config("learner.lora.publish=adapter")


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def test_an_offline_prm_needs_a_reference_of_its_own_unless_nobody_wants_its_rewards(make_config: MakeConfig) -> None:
    offline = "prm.update=offline"
    assert make_config(offline, "prm.initial_model=trained", "prm.reference_model=start").contradictions() == []
    assert make_config(offline, "prm.reference=policy").contradictions() == []
    assert make_config(offline, "algorithm.process_weight=0").contradictions() == []
    assert len(make_config(offline, "prm.initial_model=trained").contradictions()) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("sampling.group_size=1", "algorithm.estimator=grpo"), r'estimator = "grpo".*algorithm.estimator=reinforce'),
        (("sampling.group_size=1", "algorithm.estimator=reinforce"), r"would never pass; set coordinator.filter.enabled=false"),
        (
            ("sampling.group_size=1", "algorithm.estimator=reinforce", "coordinator.filter.drop_zero_variance=true"),
            r"one rollout has no variance",
        ),
        (
            (
                "sampling.group_size=1",
                "algorithm.estimator=reinforce",
                "coordinator.filter.enabled=false",
                "prm.loss=bon_rm",
                "prm.update=reverse",
            ),
            r'prm.loss = "bon_rm" with sampling.group_size = 1',
        ),
        (
            ("prm.reference=policy", "sampling.temperature=0.7"),
            r"sampling.temperature = 0.7.*set sampling.temperature=1, or prm.reference=sft",
        ),
        (("prm.loss=bon_acc", "prm.update=offline", "prm.initial_model=a", "prm.reference_model=b"), r"use prm.update=reverse"),
    ],
)
def test_settings_that_need_each_other_are_checked_together(make_config: MakeConfig, overrides: tuple[str, ...], said: str) -> None:
    problems = make_config(*overrides).contradictions()
    assert len(problems) == 1, problems
    assert _matches(said, problems[0])


@pytest.mark.parametrize(
    "overrides",
    [
        ("prm.loss=dpo", "prm.update=reverse"),
        ("prm.reference=policy",),
        ("sampling.group_size=1", "algorithm.estimator=reinforce", "coordinator.filter.enabled=false"),
        ("algorithm.estimator=prm_value", "algorithm.policy_loss=cispo", "algorithm.correction=band", "algorithm.aggregation=groups"),
        ("algorithm.kl_coefficient=0.01", "algorithm.kl_in=reward", "algorithm.dual_clip=3"),
        ("algorithm.estimator=ppo", "sampling.group_size=1", "coordinator.filter.enabled=false", "critic.updates_per_batch=4"),
        ("algorithm.estimator=ppo", "algorithm.process_discount=0.9", "algorithm.outcome_discount=0.9", "algorithm.trace_decay=0.95"),
        # Nothing reads it without a critic.
        ("critic.updates_per_batch=3",),
        ("sampling.group_size=1", "algorithm.estimator=remax", "coordinator.filter.enabled=false"),
    ],
)
def test_combinations_that_fit_are_accepted(make_config: MakeConfig, overrides: tuple[str, ...]) -> None:
    assert make_config(*overrides).contradictions() == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("algorithm.estimator=prm_value", "algorithm.granularity=sequence"), "set algorithm.granularity=token"),
        (("algorithm.estimator=prm_value", "algorithm.process_discount=0.9"), "set algorithm.process_discount=1"),
        (("algorithm.dual_clip=0.5",), r"dual_clip \(0.5\) must be above 1"),
        (("algorithm.dual_clip=3", "algorithm.policy_loss=cispo"), "set algorithm.dual_clip=0"),
        (("algorithm.process_weight=0", "algorithm.outcome_weight=0"), "nothing to learn from"),
        (("algorithm.estimator=ppo", "algorithm.process_discount=0.9"), r"process_discount \(0.9\) .*outcome_discount \(1\) differ"),
        (("algorithm.trace_decay=0.9",), "set algorithm.trace_decay=1"),
    ],
)
def test_an_algorithm_that_contradicts_itself_is_refused_at_once(make_config: MakeConfig, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_config(*overrides)


def test_two_services_cannot_share_a_port(make_config: MakeConfig) -> None:
    problems = make_config("endpoints.prm=127.0.0.1:7001", "endpoints.learner=127.0.0.1:7001").contradictions()
    assert problems == ["endpoints.learner and endpoints.prm are both 127.0.0.1:7001: give each service a port of its own, or port 0"]


def test_all_problems_are_collected_and_each_has_a_line_of_its_own(make_config: MakeConfig, tmp_path: Path) -> None:
    plan = plan_of(make_config("sampling.group_size=1", f"model.path={tmp_path}/none", "staleness.max_staleness=3"))
    with pytest.raises(PlanRefusedError) as caught:
        plan.check()
    lines = str(caught.value).split("\n")
    assert lines[0] == "3 problems found before anything was started:"
    assert [line.split()[1] for line in lines[1:]] == ["sampling.group_size", "store.keep_versions", "model.path"]


def test_benchmarks_that_are_not_there_are_found_before_a_run_starts(make_config: MakeConfig, tmp_path: Path) -> None:
    problems = plan_of(make_config('run.evaluate_on=["amc"]', f'run.evaluate_on_data=["{tmp_path}"]')).problems
    assert any(problem.startswith("amc: none of amc.jsonl") for problem in problems)


def test_a_missing_model_directory_is_said_plainly(make_config: MakeConfig) -> None:
    assert any(
        "there is no model directory ./models/none" in problem for problem in plan_of(make_config("model.path=./models/none")).problems
    )


def test_a_model_without_weights_tokenizer_or_template_is_refused(make_config: MakeConfig, model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "tokenizer_config.json").write_text("{}")
    problems = plan_of(make_config()).problems
    assert len(problems) == 2
    assert "no weights" in problems[0]
    assert "no chat template" in problems[1]
    (model / "tokenizer.json").unlink()
    assert any("no tokenizer" in problem for problem in plan_of(make_config()).problems)


def test_a_cut_weights_file_is_refused(make_config: MakeConfig, model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x00\x01")
    assert any("cut short" in problem for problem in plan_of(make_config()).problems)


def test_the_prm_needs_the_policys_tokenizer(make_config: MakeConfig, tmp_path: Path) -> None:
    other = json.loads(json.dumps(TOKENIZER))
    other["model"]["vocab"]["b"] = 3
    write_model(tmp_path / "same")
    write_model(tmp_path / "other", tokenizer=other)
    assert plan_of(make_config(f"prm.initial_model={tmp_path}/same")).problems == []
    for setting in ("initial_model", "reference_model"):
        problems = plan_of(make_config(f"prm.{setting}={tmp_path}/other")).problems
        assert any(f"prm.{setting}" in problem and "another tokenizer" in problem for problem in problems)


def test_sequences_must_fit_the_models_positions(make_config: MakeConfig) -> None:
    problems = plan_of(make_config("sampling.max_response_tokens=33")).problems
    assert problems == [
        "sampling.max_prompt_tokens + sampling.max_response_tokens = 65 exceeds the model's max_position_embeddings = 64: lower one of them"
    ]


def test_vllm_on_a_cpu_knows_some_head_sizes_only(make_config: MakeConfig, tmp_path: Path) -> None:
    odd = write_model(tmp_path / "odd", num_attention_heads=4)
    on_cpu = plan_of(make_config(f"model.path={odd}")).problems
    assert len(on_cpu) == 1
    assert "head size is 16" in on_cpu[0]
    assert plan_of(make_config(f"model.path={odd}", "generator.backend=transformers")).problems == []
    assert check_machine.generator_problems(make_config(), facts(odd), Devices(generator=(Gpu("0", 0),))) == []


def test_what_vllm_would_sample_wrongly_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    images = write_model(tmp_path / "images", model_type="gemma3n", text_config={"model_type": "gemma3n_text"})
    experts = write_model(tmp_path / "experts", model_type="mixtral", num_local_experts=4)
    for directory, said in ((images, "(gemma3n_text) adds embeddings of its own"), (experts, "(mixtral) is a mixture of experts")):
        problems = plan_of(make_config(f"model.path={directory}")).problems
        assert len(problems) == 1
        assert f"model {directory} {said}" in problems[0]
        assert plan_of(make_config(f"model.path={directory}", "generator.backend=transformers")).problems == []


def test_missing_packages_are_named_with_what_to_install(make_config: MakeConfig) -> None:
    problems = check_machine.package_problems(make_config(), has_gpu=False, installed=lambda name: name not in {"vllm", "deepspeed"})
    assert len(problems) == 3
    assert "the prm needs deepspeed, not installed here: pip install 'oprime[prm]'" in problems
    assert any("pip install 'oprime[generator-cpu]'" in problem and 'generator.backend="transformers"' in problem for problem in problems)


def test_a_package_that_vllm_needs_for_a_model_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    images = write_model(tmp_path / "images", model_type="gemma3", text_config={"model_type": "gemma3_text"}, vision_config={})

    def problems(backend: str, *, missing: str) -> list[str]:
        config = make_config(f"model.path={images}", f"generator.backend={backend}")
        return check_machine.generator_problems(config, facts(images), Devices(), installed=lambda name: name != missing)

    assert problems("vllm", missing="torchvision") == [
        f"vLLM's code of the model {images} needs torchvision, not installed here: install the build that belongs to your torch, or set "
        'generator.backend="transformers"'
    ]
    assert problems("vllm", missing="other") == problems("transformers", missing="torchvision") == []


@pytest.mark.parametrize(
    ("setting", "missing", "says"),
    [
        ("endpoints.traces_url=http://c:4317", "opentelemetry.sdk", "OpenTelemetry, not installed here: pip install 'oprime[traces]'"),
        ("model.attention=flash_attention_2", "flash_attn", "needs flash-attn, not installed here: pip install flash-attn, or"),
        ("verifier.sandbox.engine=wasm", "wasmtime", "pip install 'oprime[wasm]', or set verifier.sandbox.engine=auto"),
    ],
)  # fmt: skip
def test_what_a_setting_needs_and_is_not_installed_is_named(make_config: MakeConfig, setting: str, missing: str, says: str) -> None:
    config = make_config(setting, "model.dtype=bfloat16")
    (problem,) = check_machine.optional_package_problems(config, has_gpu=True, installed=lambda name: name != missing)
    assert problem.startswith(setting.partition("=")[0])
    assert says in problem
    assert check_machine.optional_package_problems(config, has_gpu=True, installed=lambda name: True) == []


@pytest.mark.parametrize("setting", ["store.url", "payloads.store"])
def test_a_kind_of_url_whose_package_is_missing_is_named(make_config: MakeConfig, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    config = make_config(f"{setting}=gs://bucket/folder")
    (problem,) = check_machine.optional_package_problems(config, has_gpu=False)
    assert problem.startswith(f"{setting} = 'gs://bucket/folder': Please install gcsfs")
    assert problem.endswith(": pip install 'oprime[gcs]'")


def test_a_module_of_a_package_that_is_missing_is_not_installed() -> None:
    assert check_machine.installed("json.decoder")
    assert not check_machine.installed("no_such_package.part")


def test_a_taken_port_is_a_problem(make_config: MakeConfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        problems = plan_of(make_config(f"endpoints.prm=127.0.0.1:{port}")).problems
    assert len(problems) == 1
    assert f"endpoints.prm: cannot listen on 127.0.0.1:{port}" in problems[0]


def test_a_missing_file_of_keys_is_a_problem(make_config: MakeConfig) -> None:
    problems = plan_of(make_config("gateway.api_keys_file=/nowhere/keys")).problems
    assert problems == ["gateway.api_keys_file = /nowhere/keys: there is no such file; write one key per line into it"]


def test_too_little_disk_space_is_a_problem(make_config: MakeConfig) -> None:
    free = shutil.disk_usage("/").free
    assert check_machine.disk_problems(make_config(), 1) == []
    assert "are free" in check_machine.disk_problems(make_config(), 100 * free)[0]


def test_rows_that_cannot_be_used_are_found_before_the_start(make_config: MakeConfig, tmp_path: Path) -> None:
    row = {"data_source": "x", "prompt": [{"role": "user", "content": "1+1"}], "ability": "math", "reward_model": {"ground_truth": "2"}}
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(json.dumps(row) + "\n")
    bad.write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": []}) + "\n")
    rows = ("tasks.source=rows", f"tasks.train={good}")
    assert plan_of(make_config(*rows, f"tasks.heldout={good}")).problems == []
    problems = plan_of(make_config(*rows, f"tasks.heldout={bad}")).problems
    assert len(problems) == 1
    assert "bad.jsonl, row 2" in problems[0]
    assert plan_of(make_config(*rows, f"tasks.heldout={bad}", "tasks.skip_bad_rows=true")).problems == []
    assert any("no such file" in problem for problem in plan_of(make_config(*rows, f"tasks.heldout={tmp_path}/none.jsonl")).problems)


def test_a_prompt_that_the_chat_template_refuses_is_found_before_the_start(make_config: MakeConfig, tmp_path: Path) -> None:
    row = {"data_source": "x", "prompt": [{"role": "user", "content": "1+1"}], "ability": "math", "reward_model": {"ground_truth": "2"}}
    good, rows = tmp_path / "good.jsonl", tmp_path / "rows.jsonl"
    good.write_text(json.dumps(row) + "\n")
    rows.write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": [{"role": "system", "content": "Add."}, *row["prompt"]]}) + "\n")
    settings = ("tasks.source=rows", f"tasks.train={rows}", f"tasks.heldout={good}")
    (problem,) = plan_of(make_config(*settings)).problems
    assert "tasks.train: " in problem
    assert "rows.jsonl, row 2, prompt: refused by the chat template" in problem
    assert "roles system, user: System role not supported" in problem
    assert plan_of(make_config(*settings, "tasks.skip_bad_rows=true")).problems == []


def test_a_redis_that_does_not_answer_is_a_problem(make_config: MakeConfig) -> None:
    problems = plan_of(make_config("queue.url=redis://127.0.0.1:1")).problems
    assert len(problems) == 1
    assert problems[0].startswith("queue.url = redis://127.0.0.1:1: ")


def test_a_missing_model_that_the_warm_up_makes_is_no_problem(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(f"model.path={tmp_path}/later", "sft.steps=10")
    assert needs_sft(config)
    plan = plan_of(config)
    assert plan.problems == []
    assert "warm-up makes it" in plan.warnings[0]


def test_parameters_are_counted_from_the_headers_and_estimated_without_weights(model: Path, tmp_path: Path) -> None:
    # Two tables of 54 x 64 and a norm of 64.
    assert count_parameters(model) == 2 * 54 * 64 + 64
    write_safetensors(tmp_path / "more.safetensors", {"w": [3, 5]})
    assert count_parameters(tmp_path) == 15
    # Per layer: attention 4 x 64 x 64, feed-forward 3 x 64 x 192, two norms; then the tables and the last norm.
    assert estimate_parameters(MODEL) == 2 * (4 * 64 * 64 + 3 * 64 * 192 + 2 * 64) + 2 * 54 * 64 + 64


def test_a_model_whose_layers_differ_in_size_is_estimated_by_their_mean() -> None:
    assert estimate_parameters({**MODEL, "intermediate_size": [128, 256]}) == estimate_parameters(MODEL)


def test_a_model_of_states_alone_has_no_cache_of_keys(tmp_path: Path) -> None:
    sizes = {"model_type": "mamba", "vocab_size": 54, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "state_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    found = facts(tmp_path)
    # Per layer 64 x 256 into the state, 128 x 64 out of it, and norms; then two tables and the last norm.
    assert (found.key_value_heads, found.parameters) == (0, 2 * (64 * 256 + 128 * 64 + 2 * 64) + 2 * 54 * 64 + 64)


def test_names_that_few_models_use_mean_the_same(tmp_path: Path) -> None:
    usual = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    shape = (64, 2, 32, 64)
    for names in (tuple(usual), ("n_embd", "n_layer", "n_head", "n_positions"), ("d_model", "n_layers", "n_heads", "max_seq_len")):
        directory = tmp_path / names[0]
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"vocab_size": 54, **dict(zip(names, usual.values(), strict=True))}))
        found = facts(directory)
        assert (found.hidden_size, found.layers, found.head_size, found.max_positions) == shape


def test_dry_run_prints_the_plan_and_starts_nothing(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text(_toml(make_config()))
    assert main(["train", str(config), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "8 groups x K=4 = 32 rollouts per step" in printed
    assert not (tmp_path / "runs").exists()
    assert main(["train", str(config), "--dry-run", "--set", "sampling.group_size=1"]) == 2
    (tmp_path / "runs/one").mkdir(parents=True)
    config.rename(tmp_path / "runs/one/config.toml")
    config = tmp_path / "runs/one/config.toml"
    capsys.readouterr()
    assert main(["train", str(config), "--dry-run"]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert main(["train", str(config), "--dry-run", "--fresh"]) == 0


def _toml(config: RunConfig) -> str:
    import tomli_w

    from oprime_cli.running.run_folder import to_document

    return tomli_w.dumps(to_document(config))


def test_the_plan_counts_micro_batches_and_prompts(make_config: MakeConfig) -> None:
    # 8 groups x 4 rollouts = 32; two ranks of 5 rollouts take 10 at a time: 4 rounds. 4 steps x 8 prompts = 32.
    lines = dict(plan_lines(plan_of(make_config("learner.ranks=2", "learner.micro_batch_rollouts=5"))))
    assert "4 micro-batch(es) of up to 5 per rank" in lines["learner"]
    assert lines["run"].startswith("4 steps, 32 prompts and 128 rollouts")


def test_memory_of_the_learner_is_16_bytes_per_parameter_before_zero(make_config: MakeConfig) -> None:
    config = make_config("learner.ranks=4", "model.dtype=bfloat16")
    policy = facts(Path(config.model.path))
    memory = trainer_memory(config, config.learner, policy)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * policy.parameters
    spread = make_config("learner.ranks=4", "model.dtype=bfloat16", "learner.zero_stage=3").learner
    memory = trainer_memory(config, spread, policy)
    assert memory.weights + memory.gradients + memory.optimizer == 4 * policy.parameters


def test_adapters_take_gradients_and_optimizer_for_themselves_alone(make_config: MakeConfig) -> None:
    config = make_config("learner.lora.rank=8", "prm.lora.rank=8", "learner.lora.targets=['q_proj', 'down_proj']")
    plan = plan_of(config)
    assert plan.policy is not None
    memory = memory_of(plan, plan.policy)
    # Two layers: a q_proj of 64 + 64 sides and a down_proj of 192 + 64.
    adapters = 8 * 2 * (64 + 64 + 192 + 64)
    whole = plan.policy.parameters
    learner = memory["learner"]
    assert (learner.weights, learner.gradients, learner.optimizer) == (4 * (whole + adapters), 4 * adapters, 8 * adapters)
    # All seven layers of both; its reference and what answers requests are on the same weights.
    adapters = 8 * 2 * (4 * (64 + 64) + 3 * (64 + 192))
    assert (memory["prm"].weights, memory["prm"].optimizer) == (4 * (whole + adapters), 8 * adapters)
    lines = dict(plan_lines(plan))
    assert "adapters of rank 8 train 6,144 of" in lines["learner adapters"]
    assert lines["prm adapters"].endswith("its reference is the PRM without adapters, on the same weights")
    assert re.search(r"both map the weights .* from the same files, and .* are in memory once", lines["learner and prm adapters"])
    copied = plan_of(make_config("learner.lora.rank=8", "prm.lora.rank=8", "model.dtype=bfloat16"))
    assert "the files have F32, and model.dtype = bfloat16 makes copies" in dict(plan_lines(copied))["learner and prm adapters"]


@pytest.mark.parametrize(
    ("overrides", "models", "said"),
    [
        ((), 3, None),
        (("scoring.replicas=1",), 2, None),
        (("prm.lora.rank=1",), 1, "on the same weights"),
        (("prm.lora.rank=1", "prm.reference_model=OTHER"), 2, "is another model, and held besides"),
        (("prm.lora.rank=1", "prm.zero_stage=3"), 3, "a model of its own"),
    ],
)
def test_the_prm_holds_its_reference_and_what_answers_requests_unless_they_share_its_weights(
    make_config: MakeConfig, model: Path, overrides: tuple[str, ...], models: int, said: str | None
) -> None:
    other = str(write_model(model.parent / "another"))
    plan = plan_of(make_config(*(text.replace("OTHER", other) for text in overrides)))
    assert plan.policy is not None
    assert memory_of(plan, plan.policy)["prm"].weights // (4 * plan.policy.parameters) == models, plan.problems
    assert said is None or said in dict(plan_lines(plan))["prm adapters"]


def test_published_adapters_take_less_disk(make_config: MakeConfig) -> None:
    merged, adapters = (plan_of(make_config("learner.lora.rank=1", f"learner.lora.publish={form}")) for form in ("merged", "adapter"))
    assert merged.policy is not None
    # The seven versions that are kept hold adapters, and version 0 besides is the model.
    of_adapters = 1 * 2 * (4 * (64 + 64) + 3 * (64 + 192))
    assert merged.disk_bytes - adapters.disk_bytes == 4 * (7 * merged.policy.parameters - 7 * of_adapters - merged.policy.parameters)


def test_memory_of_a_prm_that_scores_in_float32_has_a_copy_and_a_reference_in_float32(make_config: MakeConfig) -> None:
    for dtype, score_dtype, replicas, frozen_bytes in (
        ("bfloat16", "auto", 0, 4),
        ("bfloat16", "auto", 1, 2),
        ("bfloat16", "float32", 0, 8),
        ("bfloat16", "float32", 1, 8),
        ("float32", "float32", 1, 4),
    ):
        config = make_config(f"model.dtype={dtype}", f"prm.score_dtype={score_dtype}", f"scoring.replicas={replicas}")
        prm = facts(Path(config.model.path))
        alone = trainer_memory(config, config.prm, prm)
        assert prm_memory(config, prm, config.prm.lora).weights - alone.weights == frozen_bytes * prm.parameters


def test_a_critic_is_planned_for_in_the_learner(make_config: MakeConfig) -> None:
    without, with_critic = (make_config(f"algorithm.estimator={estimator}", "learner.ranks=4") for estimator in ("rloo", "ppo"))
    plans = [plan_of(config) for config in (without, with_critic)]
    loads = [memory_of(plan, plan.policy)["learner"] for plan in plans if plan.policy]
    assert loads[1].optimizer == 2 * loads[0].optimizer
    assert plans[1].disk_bytes - plans[0].disk_bytes == 3 * 16 * facts(Path(without.model.path)).parameters
    assert ["critic" in dict(plan_lines(plan)) for plan in plans] == [False, True]


def test_settings_of_a_critic_are_checked_only_where_there_is_one(make_config: MakeConfig) -> None:
    wrong = ("critic.updates_per_batch=3", "critic.offload_optimizer=true")
    assert make_config(*wrong).contradictions() == []
    problems = make_config("algorithm.estimator=ppo", *wrong).contradictions()
    assert sorted(problem.partition("critic.")[2].partition(" ")[0] for problem in problems) == ["offload_optimizer", "updates_per_batch"]


def test_a_critic_of_another_tokenizer_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", tokenizer={"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "b": 1}}, "added_tokens": []})
    problems = plan_of(make_config("algorithm.estimator=ppo", f"critic.path={other}")).problems
    assert any(problem.startswith(f"critic.path = {other} has another tokenizer than model.path") for problem in problems)
    assert plan_of(make_config(f"critic.path={other}")).problems == []


GPUS = tuple(Gpu(str(index), 80 * GIB) for index in range(6))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, ("", "", "")),
        (1, None),
        (3, None),
        (4, ("01", "23", "23")),
        (5, ("01", "23", "23")),
        (6, ("01", "23", "45")),
    ],
)
def test_gpus_are_split_in_order_and_trainers_share_when_there_are_few(
    make_config: MakeConfig, count: int, expected: tuple[str, str, str] | None
) -> None:
    config = make_config("generator.tensor_parallel=2", "prm.ranks=2", "learner.ranks=2")
    devices = assign(config, GPUS[:count])
    names = devices and tuple("".join(gpu.name for gpu in devices.of(service)) for service in ("generator", "prm", "learner"))
    assert names == expected
    assert bool(check_machine.device_problems(config, GPUS[:count])) == (expected is None or count == 0)


def test_one_gpu_is_shared_by_all(make_config: MakeConfig) -> None:
    devices = assign(make_config(), GPUS[:1])
    assert devices == Devices(GPUS[:1], GPUS[:1], GPUS[:1])


@pytest.mark.parametrize(("count", "scorers"), [(4, (3,)), (3, (1,)), (1, (0,))])
def test_replicas_that_only_score_take_the_gpus_that_are_left_or_else_the_prms(
    make_config: MakeConfig, count: int, scorers: tuple[int, ...]
) -> None:
    devices = assign(make_config("scoring.replicas=2"), GPUS[:count])
    assert devices is not None
    assert devices.scorers == tuple(GPUS[index] for index in scorers)


def test_a_full_gpu_is_a_warning(make_config: MakeConfig) -> None:
    plan = plan_of(make_config(), Gpu("0", 2**20))
    assert plan.problems == []
    assert any("GPU 0 (1.0 MiB) may be too small for generator + prm + learner" in warning for warning in plan.warnings)
    show_plan(plan)


def test_visible_gpus_are_read_in_the_order_of_the_variable() -> None:
    listing = "0, GPU-aa, 1000\n1, GPU-bb, 2000\n"
    assert [gpu.name for gpu in parse_gpus(listing, None)] == ["0", "1"]
    assert parse_gpus(listing, "1") == [Gpu("1", 2000 * 2**20)]
    assert parse_gpus(listing, "GPU-bb,0") == [Gpu("GPU-bb", 2000 * 2**20), Gpu("0", 1000 * 2**20)]
    assert parse_gpus(listing, "") == []
    assert parse_gpus(listing, "0,-1,1") == [Gpu("0", 1000 * 2**20)]


def test_settings_choose_the_threads_of_trainers(make_config: MakeConfig) -> None:
    config = make_config("learner.threads=3")
    assert threads(config, "learner") == 3
    assert threads(config, "gateway") == 1
    assert threads(config, "generator") >= 1


NO_PRM = "algorithm.process_weight=0"


def test_a_run_on_outcomes_alone_plans_for_no_prm(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_prm, without = (plan_of(make_config(*overrides), *GPUS[:3]) for overrides in ((), (NO_PRM,)))
    assert without.problems == without.warnings == []
    assert without.policy is not None
    assert sorted(memory_of(without, without.policy)) == ["generator", "learner"]
    assert with_prm.disk_bytes - without.disk_bytes == 3 * 16 * without.policy.parameters
    assert (with_prm.devices.learner, without.devices) == (GPUS[2:3], Devices(GPUS[:1], (), GPUS[1:2]))
    assert dict(plan_lines(without))["prm"] == "none: this run has no PRM: algorithm.process_weight = 0"
    show_plan(without)
    shown = [line for line in capsys.readouterr().out.splitlines() if "prm" in line.lower()]
    assert len(shown) == 2, shown
    assert "no PRM" in shown[0]
    assert "none: this run has no PRM" in shown[1]
    names = [spec.name for spec in service_specs(without.config, tmp_path / "config.toml", without.devices, serve_only=False)]
    assert names == ["coordinator", "generator", "verifier", "learner", "gateway"]


def test_settings_of_a_prm_are_not_checked_where_there_is_none(make_config: MakeConfig) -> None:
    wrong = ("prm.ranks=33", "prm.updates_per_batch=5", "prm.device=cuda", "prm.initial_model=none", "prm.reference_model=none")
    assert plan_of(make_config(NO_PRM, *wrong)).problems == []
    problems = plan_of(make_config(*wrong)).problems
    assert {problem.split(" ")[0] for problem in problems} >= {"prm.ranks", "prm.device", "prm.initial_model", "prm.reference_model"}


def test_too_few_gpus_without_a_prm_are_the_learners_matter(make_config: MakeConfig) -> None:
    config = make_config(NO_PRM, "generator.tensor_parallel=2", "learner.ranks=2", "prm.ranks=4")
    assert assign(config, GPUS[:4]) == Devices(GPUS[:2], (), GPUS[2:4])
    (problem,) = check_machine.device_problems(config, GPUS[:3])
    assert "generator.tensor_parallel = 2, and the learner learner.ranks = 2; use fewer ranks" in problem
