"""`oprime eval compare`: which two evaluations are meant, and what of them can be compared."""

from pathlib import Path

from oprime.evaluation.compare import Comparison, compared
from oprime.evaluation.folder import EvaluationFolder
from oprime_cli.evaluating.targets import results_folder
from oprime_cli.running.failures import UsageError


def compare(first: str, second: str, *, seed: int = 0) -> Comparison:
    """Raises UsageError where nothing can be compared."""
    one, other = evaluation_folder(first), evaluation_folder(second)
    found = compared(one, other, seed=seed)
    if not found.rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.left_out.items())
        why = reasons or f"{first} has {', '.join(one.results())}, and {second} has {', '.join(other.results())}"
        raise UsageError(f"{one.path} and {other.path} have no benchmark with the same problems ({why}): evaluate both on the same ones")
    return found


def evaluation_folder(text: str) -> EvaluationFolder:
    """A folder of results, or where those of RUN[@STEP] or MODEL are."""
    path = Path(text)
    if any(path.glob("*/result.json")):
        return EvaluationFolder(path)
    return EvaluationFolder(results_folder(text))
