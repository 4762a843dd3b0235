"""What enters the core is checked where nothing but the product runs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from oprime.core.advantage import GreedyRewards
from oprime.core.masked import masked_mean

CORE = Path(__file__).resolve().parents[3] / "shared" / "oprime" / "core"
OUT_OF_STEP = "import torch; from oprime.core.masked import masked_mean; masked_mean(torch.ones(2, 3), torch.ones(2, 1, dtype=torch.bool))"


def test_an_axis_of_two_lengths_is_refused_by_its_name() -> None:
    with pytest.raises(TypeCheckError, match=r"parameter 'mask'(?s:.*)rollout=2\ntoken=3"):
        masked_mean(torch.ones(2, 3), torch.ones(2, 1, dtype=torch.bool))


def test_what_a_record_is_made_of_is_checked() -> None:
    with pytest.raises(TypeCheckError, match=r"parameter 'process_mean'"):
        GreedyRewards(outcome=torch.ones(2), process_mean=torch.ones(3))


@pytest.mark.parametrize(("off", "code"), [("0", 1), ("1", 0)])
def test_checks_act_without_a_test_runner_and_can_be_left_out(off: str, code: int) -> None:
    environment = os.environ | {"JAXTYPING_DISABLE": off}
    result = subprocess.run([sys.executable, "-c", OUT_OF_STEP], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert ("TypeCheckError" in result.stderr) == bool(code)


def test_nothing_that_takes_or_holds_tensors_goes_unchecked() -> None:
    unchecked = [f"{path.relative_to(CORE)}: {name}" for path in sorted(CORE.rglob("*.py")) for name in _unchecked(path)]
    assert not unchecked, "decorate with @checked"


def _unchecked(path: Path) -> list[str]:
    """Public functions and records of a module whose annotations name axes, without `@checked`."""
    return [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and any(f"{kind}[" in _annotations(node) for kind in ("Float", "Int", "Bool", "Int64"))
        and "checked" not in map(ast.unparse, node.decorator_list)
    ]


def _annotations(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        return " ".join(ast.unparse(line.annotation) for line in node.body if isinstance(line, ast.AnnAssign))
    return ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")
