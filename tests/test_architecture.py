"""What holds for the code as a whole: who imports what, and that generated files and documents are in step with it."""

import re
import subprocess
import sys
from pathlib import Path

import grpc_tools
import pytest
from fastapi.routing import APIRoute
from grpc_tools import protoc
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from oprime.core.step_formulas import STEP_FORMULAS, StepFormula
from oprime_cli.algorithm_docs import FOLDERS, table_of, table_of_the_step, with_tables
from oprime_cli.metrics_docs import metrics_page
from oprime_cli.run_config import RunConfig
from oprime_cli.settings_docs import section_type, settings_page
from oprime_gateway import evaluations, run_pages
from oprime_gateway.adapters import routers
from oprime_gateway.api import rewards_router, router
from oprime_gateway.best_of_n import router as best_of_n
from oprime_proto.v1 import coordinator_pb2, generator_pb2, learner_pb2, prm_pb2, verifier_pb2

ROOT = Path(__file__).parents[1]
SERVICES = sorted(path.name for path in (ROOT / "services").glob("*") if path.is_dir())
SHIMS = [f"oprime.client.shims.{name}" for name in ("verl", "trl", "prime_rl", "skyrl")]
LIGHT_MODULES = [
    "oprime_cli.main",
    "oprime_cli.run_config",
    "oprime_cli.commands.score",
    "oprime.client",
    *SHIMS,
    *(f"oprime_{service}.config" for service in SERVICES),
]
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


def test_the_metrics_page_is_up_to_date() -> None:
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == metrics_page(), "run `make docs`"


def test_the_tables_on_the_algorithm_page_are_up_to_date() -> None:
    page = (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")
    assert page == with_tables(page), "run `make docs`"
    for table in (table_of_the_step(), *map(table_of, FOLDERS.values())):
        assert with_tables(page.replace(table, "")) == page


@pytest.mark.parametrize("formulas", STEP_FORMULAS, ids=lambda formulas: formulas.about)
def test_a_formula_of_the_step_names_a_function_and_settings_that_exist(formulas: StepFormula) -> None:
    known = set(settings_of(RunConfig))
    assert {*formulas.settings, *(name for formula in formulas.by_value.values() for name in formula.symbols.values())} <= known
    for place in formulas.function.split("; "):
        file, _, functions = place.partition(": ")
        code = (ROOT / "shared/oprime/core" / file).read_text(encoding="utf-8")
        assert [name for name in functions.split(", ") if f"def {name}(" not in code] == []


def settings_of(section: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """All settings by full name, such as `coordinator.filter.low`."""
    found: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        inner = section_type(field.annotation)
        found |= settings_of(inner, f"{prefix}{name}.") if inner else {f"{prefix}{name}": field}
    return found


def test_every_setting_is_on_its_page_with_its_meaning() -> None:
    page, known = settings_page(), settings_of(RunConfig)
    assert "coordinator.filter.low" in known
    assert [name for name in known if f"| `{name}` |" not in page] == []
    assert [name for name, field in known.items() if not field.description] == []


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_documented(rpc: str) -> None:
    assert f"| `{rpc}` |" in (ROOT / "docs/api.md").read_text(encoding="utf-8")


def test_every_http_route_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    routes = [
        f"{method} {route.path}"
        for one in (rewards_router, router, run_pages.router, evaluations.router, best_of_n, *routers())
        for route in one.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    ]
    assert "POST /v1/rewards" in routes
    assert [route for route in routes if f"| `{route}` |" not in page] == []


def test_every_function_that_the_algorithm_page_names_exists() -> None:
    page = (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.py): (\w+)`(?:, `(\w+)`)?", page)
    assert len(named) >= 15
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
    packages = [
        *ROOT.glob("shared/oprime"),
        *ROOT.glob("cli/oprime_cli"),
        *ROOT.glob("proto/oprime_proto"),
        *ROOT.glob("services/*/oprime_*"),
    ]
    missing = [path.relative_to(ROOT).as_posix() for path in packages if f'"{path.relative_to(ROOT).as_posix()}"' not in pyproject]
    assert missing == []
    assert [path for path in packages if not (path / "py.typed").is_file()] == []
