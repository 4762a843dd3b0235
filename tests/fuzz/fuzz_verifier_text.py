"""Coverage-guided fuzzing of what reads hostile text: python tests/fuzz/fuzz_verifier_text.py {math,code} [-runs=N] (make fuzz).

Whatever the text, a reader ends with a result or with its own named error; anything else is a crash that atheris keeps as a file.
"""

import contextlib
import importlib
import sys
from typing import Any

# Installed by `make fuzz` alone, and without types.
atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["oprime_verifier"]):
    from oprime_verifier.code.compare import OutputRule, outputs_match
    from oprime_verifier.code.extract import NoCodeError, extract_program
    from oprime_verifier.code.formats import parse_tests
    from oprime_verifier.code.options import Comparison
    from oprime_verifier.code.suite import BadTaskError
    from oprime_verifier.math.options import MathOptions
    from oprime_verifier.math.read.extract import extract
    from oprime_verifier.math.read.reader import read

OPTIONS = MathOptions()


def fuzz_math(data: bytes) -> None:
    """Extraction, clean-up and parser; never sympy."""
    text = data.decode("utf-8", "replace")
    extract(text, OPTIONS)
    read(text)


def fuzz_code(data: bytes) -> None:
    """Finding the program, comparing outputs, reading tests."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(NoCodeError):
        extract_program(text)
    with contextlib.suppress(BadTaskError):
        parse_tests(text)
    half = len(data) // 2
    for mode in Comparison:
        outputs_match(data[:half], data[half:], OutputRule(mode, 1e-6, 1e-6))


TARGETS = {"math": fuzz_math, "code": fuzz_code}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
