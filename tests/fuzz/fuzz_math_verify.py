"""Math-Verify as a second opinion: PYTHONPATH=tests:. python tests/fuzz/fuzz_math_verify.py [SECONDS] [SEED] (make fuzz).

Golds of the public benchmarks where they are present, else of the conformance suite, are written otherwise (so that both verifiers should
accept them) or damaged (so that both should not). Prints each pair on which the two verdicts differ, as a row of a case file without its
verdict: whoever looks at it adds the verdict, and the row becomes a case in tests/unit/verifier/math/cases. What Math-Verify accepts
of damaged golds by its own policies is counted and not printed.
"""

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from bench.verifier import own_or_benchmark_golds
from math_verify import parse, verify

from e2e.verifier_math.damage import damaged
from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.verifier import close, verify_math, warm_up

_FRACTION = re.compile(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}")
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|in|neq)|,|\\text")


def _in_line(text: str) -> str:
    return _FRACTION.sub(r"(\1)/(\2)", text)


REWRITES: dict[str, Callable[[str], str]] = {
    "fraction in line": _in_line,
    "display fraction": lambda text: text.replace("\\frac", "\\dfrac"),
    "with a name": lambda text: text if _RELATION.search(text) else f"z = {text}",
    "with dots for products": lambda text: re.sub(r"(?<=\d)\s*(?=\\sqrt|\\pi|[a-z](?![a-z]))", r" \\cdot ", text),
    "roots as powers": lambda text: re.sub(r"\\sqrt\{([^{}]+)\}", r"(\1)^{1/2}", text),
    "brackets that grow": lambda text: text.replace("(", "\\left(").replace(")", "\\right)") if "\\left" not in text else text,
    "letters in braces": lambda text: re.sub(r"(?<![\\a-zA-Z{])([a-z])(?![a-zA-Z}])", r"{\1}", text) if "\\text" not in text else text,
    "plus nothing": lambda text: text if _RELATION.search(text) else f"{text} + 0",
    "times one": lambda text: text if _RELATION.search(text) else f"1 \\cdot ({text})",
    "powers in braces": lambda text: re.sub(r"\^(\w)", r"^{\1}", text),
}
"""Ways to write an answer otherwise that keep its meaning."""


def pairs(golds: list[str], chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """(what was done, answer, gold), without end."""
    while True:
        gold = chance.choice(golds)
        if chance.random() < 0.5:
            found = [(name, rewrite(gold)) for name, rewrite in REWRITES.items()]
            done, answer = chance.choice([(name, text) for name, text in found if text != gold] or [("nothing", gold)])
        else:
            done, answer = chance.choice(list(islice(damaged(gold), 40)) or [("nothing", gold)])
        yield done, answer, gold


def ours(answer: str, gold: str) -> Verdict:
    return verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": True})).verdict


def theirs(answer: str, gold: str) -> bool:
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")))


def main(seconds: float, seed: int) -> None:
    golds, counts = own_or_benchmark_golds(), Counter[str]()
    warm_up()
    until = time.monotonic() + seconds
    try:
        for done, answer, gold in pairs(golds, random.Random(seed)):
            if time.monotonic() > until:
                break
            verdict, accepted = ours(answer, gold), theirs(answer, gold)
            counts["pairs"] += 1
            if (verdict is Verdict.CORRECT) == accepted:
                continue
            is_policy = accepted and done not in REWRITES
            counts["only Math-Verify accepts a damaged gold" if is_policy else f"{verdict.value}, Math-Verify {accepted}"] += 1
            if not is_policy:
                row = {"answer": answer, "gold": gold, "done": done, "ours": verdict.value, "theirs": accepted}
                sys.stdout.write(f"{json.dumps(row)}\n")
    finally:
        close()
    sys.stderr.write(f"{json.dumps(counts)}\n")


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("60", "0")[len(sys.argv) - 1 :]]
    main(float(arguments[0]), int(arguments[1]))
