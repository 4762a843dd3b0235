"""What `oprime eval` may be asked to evaluate, and which weights of a run that names."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from oprime.adapters.store_weights import StoreWeights
from oprime.runtime.errors import SettingsError
from oprime_cli.evaluating.targets import find_target
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import UsageError
from oprime_cli.running.run_folder import RunFolder
from unit.cli.conftest import TENSORS

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def run(tmp_path: Path, make_config: MakeConfig, model: Path) -> Path:
    """A run with versions 0 and 3."""
    config = make_config(f"run.directory={tmp_path}")
    folder = config.run.folder
    RunFolder(folder).begin(config)
    store = StoreWeights(str(folder / "weights"), template=model, dtype="float32")
    for version in (0, 3):
        store.publish(version, ((name, torch.zeros(shape)) for name, shape in TENSORS.items()), parent=None)
    return folder


@pytest.mark.parametrize(("asked", "version"), [("", 3), ("@0", 0), ("@3", 3)])
def test_a_run_is_its_newest_weights_or_those_of_a_step(run: Path, asked: str, version: int) -> None:
    target = find_target(f"{run}{asked}")
    assert (target.kind, target.name, target.step) == ("run", f"{run.name}@{version}", version)
    assert Path(target.place).name == f"v{version:08d}"
    assert target.folder == run / "evaluations" / f"step-{version:06d}"
    assert target.adapter is None
    assert set(target.settings) == {"model", "generator", "verifier", "learner"}


def test_weights_that_a_run_does_not_have_are_refused_with_those_it_has(run: Path) -> None:
    with pytest.raises(SettingsError, match=r"@2: the run has no such weight version; it has 0, 3"):
        find_target(f"{run}@2")


def test_a_version_that_is_an_adapter_goes_on_the_runs_first_weights(run: Path, model: Path) -> None:
    weights = run / "weights"
    (weights / "v00000003" / "adapter_config.json").write_text("{}")
    target = find_target(str(run))
    assert (target.place, target.adapter) == (str(weights / "v00000000"), weights / "v00000003")
    assert find_target(f"{run}@0").adapter is None
    shutil.rmtree(weights / "v00000000")
    assert find_target(str(run)).place == str(model), "the store need not have kept them"


def test_what_is_none_of_these_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no run .*, no model .*, no URL, and no \.jsonl file"):
        find_target(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"names a model of a server"):
        find_target(str(tmp_path), model="m")
