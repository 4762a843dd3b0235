"""docs/exercise.md: its solution is three files, which their tests and the command line find; nothing else names them."""

from pathlib import Path

import pytest

from guide import DOCS, example, run_with_files

COMMAND_LINE = "import sys; from oprime_cli.main import main; sys.exit(main(sys.argv[1:]))"
PYTEST = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
BEST = ("algorithm.estimator=best", "algorithm.process_weight=0")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    for place, name in (("estimators", "best"), ("prm_losses", "margin"), ("tests", "backwards")):
        for file in (folder / place / f"{name}.py", folder / "tests" / f"test_{name}.py"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(example(file.stem, "exercise"), encoding="utf-8")
    return folder


def files(toys: Path) -> dict[str, Path]:
    return {name: toys / name for name in ("estimators", "prm_losses")}


def test_the_tests_of_the_solution_pass(toys: Path) -> None:
    tests = [str(path) for path in toys.glob("tests/test_*.py")]
    passed = run_with_files(files(toys), PYTEST, "-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={toys}", *tests)
    assert "5 passed" in passed.stdout, passed.stdout + passed.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (BEST, "g = 1, q = 0.5"),
        (("prm.loss=margin", "prm.score_margin=2"), "max(0, m - sign(2 r_o - 1) s); m = 2"),
    ],
)
def test_explain_shows_the_formulas(toys: Path, settings: tuple[str, ...], said: str) -> None:
    shown = run_with_files(files(toys), COMMAND_LINE, "explain", str(DOCS.parent / "deploy/config/demo.toml"), *_set(settings))
    assert said in " ".join(shown.stdout.replace("│", " ").split()) or said in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((*BEST, "algorithm.best_share=2"), "algorithm.best_share: Input should be less than or equal to 1 (given: 2)"),
        (("algorithm.best_share=0.7",), "it is for best only; set algorithm.best_share=0.5"),
        (("algorithm.estimator=best",), "which takes no process rewards: set algorithm.process_weight=0"),
        ((*BEST, "sampling.group_size=1"), 'sampling.group_size = 1 with algorithm.estimator = "best"'),
        (("prm.loss=margin", "prm.score_margin=0"), "prm.score_margin: Input should be greater than 0"),
        (("prm.score_margin=2",), "it is for margin only; set prm.score_margin=1"),
    ],
)
def test_what_the_page_calls_refused_is_refused(toys: Path, settings: tuple[str, ...], said: str) -> None:
    refused = run_with_files(files(toys), COMMAND_LINE, "explain", str(DOCS.parent / "deploy/config/demo.toml"), *_set(settings))
    assert refused.returncode == 2
    assert said in refused.stderr


def _set(settings: tuple[str, ...]) -> list[str]:
    return [text for one in settings for text in ("--set", one)]
