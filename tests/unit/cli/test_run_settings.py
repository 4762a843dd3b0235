"""RUN/config.toml is the run's settings: what a person changes in it counts at the next start, or is refused by name."""

import re
import tomllib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from oprime.runtime.errors import SettingsError
from oprime_cli.commands import up
from oprime_cli.main import main
from oprime_cli.overrides import apply_override
from oprime_cli.run_config import RunConfig
from oprime_cli.running.changes import MAY_CHANGE, Change, changes
from oprime_cli.running.run_folder import RunFolder, is_open, prepare_folder
from oprime_cli.settings_docs import settings_page

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def folder(make_config: MakeConfig) -> RunFolder:
    config = make_config("endpoints.gateway=127.0.0.1:8080")
    folder = prepare_folder(config, fresh=False, command="train one.toml")
    folder.begin(config)
    return folder


def edit(folder: RunFolder, *overrides: str) -> None:
    """What a person does with an editor."""
    document: dict[str, Any] = tomllib.loads(folder.config.read_text(encoding="utf-8"))
    for text in overrides:
        apply_override(document, text)
    folder.config.write_text(tomli_w.dumps(document), encoding="utf-8")


def with_addresses(config: RunConfig, url: str, **endpoints: str) -> RunConfig:
    return config.model_copy(
        update={"queue": config.queue.model_copy(update={"url": url}), "endpoints": config.endpoints.model_copy(update=endpoints)}
    )


REAL = {service: f"127.0.0.1:{port}" for port, service in enumerate(("coordinator", "generator", "verifier", "prm", "learner"), start=7001)}


def session(folder: RunFolder) -> RunConfig:
    """A session begins, with addresses of its own."""
    config = folder.load_settings()
    real = with_addresses(config, "unix:///run/redis.sock", **REAL)
    folder.note_session(config, real)
    return real


def test_settings_are_what_the_run_was_begun_with(folder: RunFolder, make_config: MakeConfig) -> None:
    assert folder.load_settings() == make_config("endpoints.gateway=127.0.0.1:8080")
    assert folder.changes(folder.load_settings()) == []


def test_a_change_in_the_file_counts_and_is_said_once(folder: RunFolder) -> None:
    session(folder)
    edit(folder, "learner.learning_rate=1e-7", "run.steps=9", "queue.lease_s=5")
    config = folder.load_settings()
    assert (config.learner.learning_rate, config.run.steps, config.queue.lease_s) == (1e-7, 9, 5.0)
    assert [str(change) for change in folder.changes(config)] == [
        "run.steps 4 -> 9",
        "queue.lease_s 30 -> 5",
        "learner.learning_rate 5e-07 -> 1e-07",
    ]
    session(folder)
    assert folder.changes(folder.load_settings()) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampling.group_size=8", "sampling.group_size 4 -> 8"),
        ("sampling.max_prompt_tokens=31", "sampling.max_prompt_tokens 32 -> 31"),
        ("run.seed=1", "run.seed 0 -> 1"),
        ("model.path=/elsewhere", "-> /elsewhere"),
        ("model.dtype=bfloat16", "model.dtype float32 -> bfloat16"),
        ("coordinator.groups_per_batch=16", "coordinator.groups_per_batch 8 -> 16"),
        ("coordinator.filter.low=0.1", "coordinator.filter.low 0.2 -> 0.1"),
        ("algorithm.estimator=grpo", "algorithm.estimator rloo -> grpo"),
        ("algorithm.process_weight=0", "algorithm.process_weight 1 -> 0"),
        ("staleness.max_staleness=0", "staleness.max_staleness 1 -> 0"),
        ("tasks.chain.operations=3", "tasks.chain.operations 8 -> 3"),
        ("prm.loss=dpo", "prm.loss ce -> dpo"),
        ("learner.updates_per_batch=2", "learner.updates_per_batch 1 -> 2"),
        ("learner.adam_beta1=0.8", "learner.adam_beta1 0.9 -> 0.8"),
        ("store.url=/elsewhere", "store.url  -> /elsewhere"),
        ("generator.backend=transformers", "generator.backend vllm -> transformers"),
        ('verifier.plugins={mine = "m:f"}', "verifier.plugins.mine (not set) -> m:f"),
        ("sft.steps=3", "sft.steps (not set) -> 3"),
    ],
)
def test_a_change_of_what_the_run_computes_is_refused_with_both_values_and_the_remedy(
    folder: RunFolder, override: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session(folder)
    edit(folder, override)
    for command in (["resume", str(folder.path)], ["up", str(folder.path)], ["ledger", str(folder.path)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert said in error
        assert f"{folder.config} has changed in what a run cannot go on with" in error
        assert "or begin a new run" in error


def test_resume_says_what_has_changed(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    # A model that is gone ends the command before it starts anything.
    edit(folder, "prm.learning_rate=2e-6")
    (folder.path.parent.parent / "model/model.safetensors").unlink()
    assert main(["resume", str(folder.path)]) == 2
    printed = capsys.readouterr()
    assert "resuming with prm.learning_rate 1e-06 -> 2e-06" in printed.out
    assert "no weights" in printed.err


def test_steps_that_were_made_cannot_be_taken_back(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.metrics.write_text('{"kind": "step", "step": 3}\n')
    edit(folder, "run.steps=2")
    assert main(["resume", str(folder.path)]) == 2
    assert "run.steps = 2 is below the 3 steps that run one has made: set it to 3 or more" in capsys.readouterr().err


def test_every_name_that_may_change_is_a_setting() -> None:
    names = [*re.findall(r"^\| `([\w.]+)` \|", settings_page(), re.MULTILINE), "verifier.sandbox.engine"]
    assert [pattern for pattern in MAY_CHANGE if not any(fnmatchcase(name, pattern) for name in names)] == []
    assert sorted(set(MAY_CHANGE)) == sorted(MAY_CHANGE)


def test_the_page_on_operations_lists_every_name_that_may_change() -> None:
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text(encoding="utf-8")
    assert [name for name in MAY_CHANGE if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", [*MAY_CHANGE])
def test_a_name_in_the_table_is_allowed(name: str) -> None:
    assert Change(name.replace("*", "any"), 1, 2).allowed


def test_documents_are_compared_setting_by_setting() -> None:
    before = {"a": {"b": 1, "c": {"d": [1, 2]}}, "run": {"directory": "x"}, "gone": {"e": 1.5}}
    after = {"a": {"b": 1, "c": {"d": [1, 3]}}, "run": {"directory": "y"}, "new": {"f": True}}
    assert [str(change) for change in changes(before, after)] == [
        "a.c.d [1, 2] -> [1, 3]", "new.f (not set) -> True", "gone.e 1.5 -> (not set)",
    ]  # fmt: skip


# Addresses


def test_a_session_shows_its_addresses_and_the_next_one_chooses_anew(folder: RunFolder) -> None:
    asked = folder.load_settings()
    assert is_open(asked)
    real = session(folder)
    assert RunConfig.load(folder.config) == real
    assert folder.load_settings(real_addresses=True) == real
    assert not is_open(real)
    assert folder.load_settings() == asked
    session(folder)
    assert folder.load_settings() == asked


def test_an_address_that_a_person_wrote_is_kept(folder: RunFolder) -> None:
    session(folder)
    edit(folder, "endpoints.prm=127.0.0.1:9001", "queue.url=redis://redis.example")
    config = folder.load_settings()
    assert (config.endpoints.prm, config.endpoints.learner, config.endpoints.gateway) == ("127.0.0.1:9001", "127.0.0.1:0", "127.0.0.1:8080")
    assert config.queue.url == "redis://redis.example"
    folder.note_session(config, with_addresses(config, config.queue.url, **REAL | {"prm": "127.0.0.1:9001"}))
    assert folder.load_settings() == config


def test_a_session_that_died_between_its_two_files_leaves_no_address_fixed(folder: RunFolder) -> None:
    asked = folder.load_settings()
    session(folder)
    old = folder.config.read_text(encoding="utf-8")
    folder.note_session(
        asked, with_addresses(asked, "unix:///run/other.sock", **{name: f"127.0.0.1:{8001 + place}" for place, name in enumerate(REAL)})
    )
    folder.config.write_text(old, encoding="utf-8")
    assert folder.load_settings() == asked
    session(folder)
    assert folder.load_settings() == asked


def test_a_change_while_the_run_is_about_to_start_is_not_written_over(folder: RunFolder) -> None:
    config = folder.load_settings()
    edit(folder, "learner.learning_rate=1e-7")
    with pytest.raises(SettingsError, match=r"was changed while the run was about to start \(learner.learning_rate 5e-07 -> 1e-07\)"):
        folder.note_session(config, with_addresses(config, "unix:///run/redis.sock", **REAL))
    assert folder.load_settings().learner.learning_rate == 1e-7


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_without_the_record_nothing_is_compared_and_nothing_goes_on(folder: RunFolder, damage: Callable[[Path], Any]) -> None:
    damage(folder.started)
    with pytest.raises(SettingsError, match=r"started.json is missing or damaged: .*put it back, or begin a new run"):
        folder.load_settings()


def test_a_password_in_an_address_is_for_its_owner_alone(folder: RunFolder) -> None:
    assert [path.stat().st_mode & 0o077 for path in (folder.config, folder.started)] == [0, 0]


def test_a_run_that_moved_to_another_directory_has_not_changed(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    moved = RunFolder(folder.path.rename(tmp_path / "other/one"))
    assert moved.load_settings().run.folder == tmp_path / "other/one"
    assert moved.changes(moved.load_settings()) == []


def test_the_file_says_who_may_change_what(folder: RunFolder) -> None:
    assert folder.config.read_text(encoding="utf-8").startswith("# The settings of this run")


def test_up_takes_addresses_for_an_existing_run_and_nothing_else(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str, int]] = []

    def start(run: RunFolder, _timeout_s: float) -> None:
        settings = run.load_settings()
        served.append((settings.endpoints.gateway, settings.gateway.max_request_items))

    monkeypatch.setattr(up, "_start", start)
    changed = ["--set", "endpoints.gateway=127.0.0.1:8081", "--set", "gateway.max_request_items=7"]
    assert main(["up", str(folder.path), *changed]) == 0
    assert served == [("127.0.0.1:8081", 7)]


@pytest.mark.parametrize("override", ["learner.learning_rate=1e-3", "endpoints.gatway=127.0.0.1:8081", "gateway.max_request_items=0"])
def test_up_refuses_other_changes_of_an_existing_run_and_writes_none_down(
    folder: RunFolder, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = folder.config.read_bytes()
    assert main(["up", str(folder.path), "--set", override]) == 2
    assert override.partition("=")[0] in capsys.readouterr().err
    assert folder.config.read_bytes() == before
