"""The verifier beside what it is measured against, on the same pairs and programs in one run: python -m bench.verifier.

Mathematics: pairs/s and agreement beside Math-Verify alone, on benchmark golds from `../shared/data` where they are present
(each gold against itself and against another problem's), else on the conformance suite's cases. Code: tests/s in the sandbox
beside the same with no lock closed, a cold `python` and a cold `python -I -S`, per test, for tasks with one test and with many. Test
source: asserts/s beside a cold `python` per assert and per task. Machines differ and are noisy: compare the figures of one run.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple
from unittest.mock import patch

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.math.verifier import verify_math, warm_up
from oprime_verifier.sandbox import zygote_process
from oprime_verifier.sandbox.native import NativeSandbox

Work = TypeVar("Work")
Rest = TypeVarTuple("Rest")

DATA = Path(__file__).resolve().parents[1] / "../shared/data"


@dataclass(frozen=True, slots=True)
class Timed:
    """How long each of several things took, in seconds."""

    seconds: tuple[float, ...]

    @property
    def per_second(self) -> float:
        return len(self.seconds) / sum(self.seconds)

    def at(self, share: float) -> float:
        """Milliseconds that `share` of them did not exceed."""
        return 1000 * sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def line(self, name: str) -> str:
        return (
            f"{name:34} {self.per_second:10.1f}/s   p50 {self.at(0.5):8.2f} ms   p99 {self.at(0.99):8.1f} ms   max {self.at(1.0):8.0f} ms"
        )


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- mathematics ---


def gold_pairs(count: int, chance: random.Random) -> list[tuple[str, str]]:
    """(answer, gold): half the golds against themselves, half against another problem's."""
    golds = own_or_benchmark_golds()
    chance.shuffle(golds)
    same = [(gold, gold) for gold in golds[: count // 2]]
    other = [(golds[place - 1], golds[place]) for place in range(len(golds))][: count - len(same)]
    pairs = same + other
    chance.shuffle(pairs)
    return pairs


def own_or_benchmark_golds() -> list[str]:
    """Golds of public benchmarks where they are present, else those of the conformance suite."""
    return _golds() or _own_cases()


def _golds() -> list[str]:
    found: list[str] = []
    for name in ("math500.json", "olympiadbench.jsonl"):
        path = DATA / name
        if path.exists():
            found += _column(path)
    return found


def _column(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        table = json.loads(text)["expected_answer"]
        return [str(value) for value in (table.values() if isinstance(table, dict) else table)]
    rows = [json.loads(line) for line in text.splitlines()]
    return [str(answer).strip("$") for row in rows for answer in row["final_answer"][:1]]


def _own_cases() -> list[str]:
    folder = Path(__file__).resolve().parents[1] / "services/verifier/oprime_verifier/conformance/cases"
    return [json.loads(line)["gold"] for path in sorted(folder.glob("math*.jsonl")) for line in path.read_text().splitlines()]


def math_figures(pairs: Sequence[tuple[str, str]]) -> list[str]:
    from math_verify import parse, verify

    warm_up()
    parse("$1$")
    ours: list[Verdict] = []
    theirs: list[bool] = []

    def judge(answer: str, gold: str) -> None:
        ours.append(verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": True})).verdict)

    def judge_theirs(answer: str, gold: str) -> None:
        theirs.append(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")))

    own = Timed(tuple(timed(lambda pair=pair: judge(*pair)) for pair in pairs))
    other = Timed(tuple(timed(lambda pair=pair: judge_theirs(*pair)) for pair in pairs))
    decided = [
        (mine is Verdict.CORRECT) == yes for mine, yes in zip(ours, theirs, strict=True) if mine in (Verdict.CORRECT, Verdict.INCORRECT)
    ]
    counts = Counter(verdict.value for verdict in ours)
    return [
        f"mathematics: {len(pairs)} pairs, one process",
        own.line("  oprime"),
        other.line("  Math-Verify alone"),
        f"  speed {own.per_second / other.per_second:.1f}x; agreement {statistics.mean(decided):.2%} of {len(decided)} decided pairs",
        f"  verdicts: {', '.join(f'{count} {name}' for name, count in counts.most_common())}",
    ]


# --- code ---

PROGRAMS = (
    "print(sum(map(int, input().split())))",
    "import sys\nvalues = [int(x) for x in sys.stdin.read().split()]\nprint(max(values) - min(values))",
    "from collections import Counter\nprint(Counter(input().split()).most_common(1)[0][1])",
    "a, b = map(int, input().split()[:2])\nwhile b:\n    a, b = b, a % b\nprint(a)",
)


ROUNDS = 6
PLAIN, LEAN = (), ("-I", "-S")
"""Flags of a cold interpreter: as people start it, and with all left out that can be."""


def run_cold(program: str, stdin: str, flags: Sequence[str] = PLAIN) -> bytes:
    command = [sys.executable, *flags, "-c", program]
    return subprocess.run(command, input=stdin.encode(), capture_output=True, check=True, timeout=10).stdout


CodeTask = tuple[str, list[tuple[str, str]]]
"""A program, and (stdin, expected output) of each test."""
TESTS_OF_A_TASK = (1, 20)
"""APPS has 21 on average, other sets have up to hundreds."""


def code_tasks(count: int, tests: int, chance: random.Random) -> list[CodeTask]:
    """With so many tests in all; each program another one, as each response is."""
    tasks: list[CodeTask] = []
    for place in range(count // tests):
        program = f"{PROGRAMS[place % len(PROGRAMS)]}\n# {tests}, {place}"
        inputs = [" ".join(str(chance.randrange(1, 1000)) for _ in range(8)) + "\n" for _ in range(tests)]
        tasks.append((program, [(stdin, run_cold(program, stdin).decode()) for stdin in inputs]))
    return tasks


def unlocked(tasks: Sequence[CodeTask]) -> list[float]:
    """The same without any lock."""
    with patch.object(zygote_process, "SCRIPT", Path(__file__).with_name("unlocked_zygote.py")):
        return sandboxed(tasks)


def sandboxed(tasks: Sequence[CodeTask]) -> list[float]:
    """Seconds per test, through the code verifier and a sandbox of this process."""
    sandbox = NativeSandbox()
    verifier = CodeVerifier(sandbox)
    try:
        return _through(verifier, tasks)
    finally:
        sandbox.close()


def _through(verifier: CodeVerifier, tasks: Sequence[CodeTask]) -> list[float]:
    seconds: list[float] = []
    for program, cases in [as_another(tasks[0]), *tasks]:
        tests = json.dumps({"inputs": [stdin for stdin, _ in cases], "outputs": [expected for _, expected in cases]})
        request = VerificationRequest(kind="code", response=program, tests=tests, options={"bare": True})
        started = time.perf_counter()
        outcome = verifier.verify(request)
        seconds.append((time.perf_counter() - started) / len(cases))
        if outcome.verdict is not Verdict.CORRECT:
            raise RuntimeError(f"a right program was judged {outcome.verdict}: {outcome.reason}")
    return seconds[1:]


def cold_runs(tasks: Sequence[CodeTask], flags: Sequence[str]) -> list[float]:
    return [timed(partial(_run_each, task, flags)) / len(task[1]) for task in tasks]


def _run_each(task: CodeTask, flags: Sequence[str]) -> None:
    for stdin, _ in task[1]:
        run_cold(task[0], stdin, flags)


def as_another(work: tuple[str, *Rest]) -> tuple[str, *Rest]:
    """The same work for another program, to warm up with: what is judged twice would be answered from memory."""
    return (f"{work[0]}\n# to warm up", *work[1:])


def code_figures(count: int, tests: int, processes: int, chance: random.Random) -> list[str]:
    tasks = code_tasks(count, tests, chance)
    shares = [tasks[place::processes] for place in range(processes)]
    ways: dict[str, Callable[[Sequence[CodeTask]], list[float]]] = {
        "oprime's sandbox": sandboxed,
        "the same, sandbox off": unlocked,
        "cold python": partial(cold_runs, flags=PLAIN),
        "cold python -I -S": partial(cold_runs, flags=LEAN),
    }
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(sandboxed, [share[:2] for share in shares]))
        lines = beside_each_other(pool, ways, shares)
    title = (
        f"code: {count} tests, {tests} in a task, each in a process of its own; figures per test, {processes} at a time (of one of them)"
    )
    return [title, *lines]


# --- test source ---

FUNCTIONS = (
    ("def f(x):\n    return sorted(x)[::-1]", "sorted({0}, reverse=True)"),
    ("def f(x):\n    total = 0\n    for n in x:\n        total += n\n    return total", "sum({0})"),
    ("from collections import Counter\ndef f(x):\n    return dict(Counter(x))", "{{n: {0}.count(n) for n in {0}}}"),
)
ASSERTS = 10
"""In a task: HumanEval has about eight, LeetCode's data sets a hundred."""


def assert_tasks(count: int, chance: random.Random) -> list[tuple[str, list[str]]]:
    """(program, asserts)."""
    tasks: list[tuple[str, list[str]]] = []
    for place in range(count):
        program, expected = FUNCTIONS[place % len(FUNCTIONS)]
        inputs = [[chance.randrange(9) for _ in range(6)] for _ in range(ASSERTS)]
        # Each program another one, as each response is.
        tasks.append((f"{program}\n# {place}", [f"assert f({one}) == {eval(expected.format(one))!r}" for one in inputs]))  # noqa: S307 - our own
    return tasks


def sandboxed_asserts(tasks: Sequence[tuple[str, list[str]]]) -> list[float]:
    sandbox = NativeSandbox()
    verifier = CodeVerifier(sandbox)
    seconds: list[float] = []
    try:
        for program, asserts in [as_another(tasks[0]), *tasks]:
            request = VerificationRequest(kind="code", response=program, tests=json.dumps(asserts), options={"bare": True})
            started = time.perf_counter()
            outcome = verifier.verify(request)
            seconds.append((time.perf_counter() - started) / len(asserts))
            if outcome.verdict is not Verdict.CORRECT:
                raise RuntimeError(f"a right program was judged {outcome.verdict}: {outcome.reason}")
    finally:
        sandbox.close()
    return seconds[1:]


def cold_asserts(tasks: Sequence[tuple[str, list[str]]], together: bool) -> list[float]:
    """Seconds per assert: all asserts of a task in one cold interpreter, or each in one of its own."""
    seconds: list[float] = []
    for program, asserts in tasks:
        for part in [asserts] if together else [[one] for one in asserts]:
            source = "\n".join([program, *part])
            seconds.append(timed(partial(run_cold, source, "")) / len(part))
    return seconds


def assert_figures(count: int, processes: int, chance: random.Random) -> list[str]:
    tasks = assert_tasks(count, chance)
    shares = [tasks[place::processes] for place in range(processes)]
    ways: dict[str, Callable[[Sequence[tuple[str, list[str]]]], list[float]]] = {
        "oprime's sandbox": sandboxed_asserts,
        "cold python per assert": partial(cold_asserts, together=False),
        "cold python per task": partial(cold_asserts, together=True),
    }
    with ProcessPoolExecutor(processes) as pool:
        lines = beside_each_other(pool, ways, shares)
    return [f"test source: {count} tasks of {ASSERTS} asserts, figures per assert, {processes} at a time (of one of them)", *lines]


def beside_each_other(
    pool: ProcessPoolExecutor, ways: Mapping[str, Callable[[Sequence[Work]], list[float]]], shares: Sequence[Sequence[Work]]
) -> list[str]:
    """A line for each way to do the same; the first is ours. By turns, so that a busy moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS):
        work = [part for share in shares if (part := share[turn::ROUNDS])]
        for name, way in ways.items():
            seconds[name] += [one for part in pool.map(way, work) for one in part]
    timings = {name: Timed(tuple(each)) for name, each in seconds.items()}
    own = next(iter(timings.values())).per_second
    return [f"{timing.line(f'  {name}')}   oprime is {own / timing.per_second:.1f}x" for name, timing in timings.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description="The verifier beside Math-Verify and cold subprocesses.")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--tests", type=int, default=1200)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    chance = random.Random(0)  # noqa: S311 - the same pairs each time
    print("\n".join(math_figures(gold_pairs(arguments.pairs, chance))))
    for tests in TESTS_OF_A_TASK:
        print("\n".join(code_figures(arguments.tests, tests, arguments.processes, chance)))
    print("\n".join(assert_figures(arguments.tests // 2 // ASSERTS, arguments.processes, chance)))


if __name__ == "__main__":
    main()
