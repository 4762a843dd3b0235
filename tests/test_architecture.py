"""What holds for the code as a whole: who imports what, and that generated files and documents are in step with it."""

import re
import subprocess
import sys
from pathlib import Path

import grpc_tools
import pytest
from fastapi.routing import APIRoute
from grpc_tools import protoc

from oprime_cli.run_config import RunConfig
from oprime_cli.settings_docs import section_type, setting_names, settings_page
from oprime_gateway.api import router
from oprime_proto.v1 import coordinator_pb2, generator_pb2, learner_pb2, prm_pb2, verifier_pb2

ROOT = Path(__file__).parents[1]
SERVICES = sorted(path.name for path in (ROOT / "services").glob("*") if path.is_dir())
LIGHT_MODULES = ["oprime_cli.main", "oprime_cli.run_config", *(f"oprime_{service}.config" for service in SERVICES)]
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "matplotlib", "redis")
RPCS = [
    f"{service.name}.{method.name}"
    for file in (coordinator_pb2, generator_pb2, learner_pb2, prm_pb2, verifier_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def test_there_are_six_services() -> None:
    assert SERVICES == ["coordinator", "gateway", "generator", "learner", "prm", "verifier"]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_settings_and_the_command_line_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_help_imports_no_torch() -> None:
    code = "import sys; from oprime_cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage: oprime")
    assert shown.splitlines()[-1] == "False"


def test_the_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def test_every_setting_is_on_its_page() -> None:
    page = settings_page()
    names = list(setting_names())
    assert "coordinator.filter.low" in names
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_every_setting_says_what_it_means() -> None:
    def silent(section: type, prefix: str) -> list[str]:
        found: list[str] = []
        for name, field in section.model_fields.items():  # pyright: ignore[reportAttributeAccessIssue]
            inner = section_type(field.annotation)
            found += silent(inner, f"{prefix}.{name}") if inner else []
            found += [] if inner or field.description else [f"{prefix}.{name}"]
        return found

    assert silent(RunConfig, "") == []


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_documented(rpc: str) -> None:
    assert f"| `{rpc}` |" in (ROOT / "docs/api.md").read_text(encoding="utf-8")


def test_every_http_route_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    routes = [f"{method} {route.path}" for route in router.routes if isinstance(route, APIRoute) for method in route.methods]
    assert "POST /v1/rewards" in routes
    assert [route for route in routes if f"| `{route}` |" not in page] == []


def test_every_function_that_the_algorithm_page_names_exists() -> None:
    page = (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.py): (\w+)`(?:, `(\w+)`)?", page)
    assert len(named) > 20
    core = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "shared/oprime/core").glob("*.py")}
    functions = [(file, function) for file, *both in named for function in both if function]
    assert [(file, function) for file, function in functions if f"\ndef {function}(" not in core.get(file, "")] == []


def test_generated_protobuf_code_is_up_to_date(tmp_path: Path) -> None:
    sources = [str(path.relative_to(ROOT / "proto")) for path in sorted((ROOT / "proto/oprime_proto/v1").glob("*.proto"))]
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", *out, *sources]) == 0
    fresh = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "oprime_proto/v1").iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "proto/oprime_proto/v1").glob("*_pb2*.py*")}
    assert sorted(fresh) == sorted(committed)
    assert [name for name in fresh if fresh[name] != committed[name]] == [], "run `make proto`"


def test_imports_follow_the_arrows() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_make_target_has_a_help_line() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE)
    assert "help" in targets
    assert targets == helped


def test_all_packages_are_in_the_distribution() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = [*ROOT.glob("shared/oprime*"), *ROOT.glob("proto/oprime_proto"), *ROOT.glob("services/*/oprime_*")]
    missing = [path.relative_to(ROOT).as_posix() for path in packages if f'"{path.relative_to(ROOT).as_posix()}"' not in pyproject]
    assert missing == []
    assert [path for path in packages if not (path / "py.typed").is_file()] == []
