"""The benchmarks that oprime knows. A new one is a module here and its line in BENCHMARKS."""

from oprime.evaluation.benchmark import Benchmark
from oprime.evaluation.benchmarks.aime import AIME_2024, AIME_2025
from oprime.evaluation.benchmarks.amc import AMC
from oprime.evaluation.benchmarks.gsm8k import GSM8K
from oprime.evaluation.benchmarks.human_eval import HUMAN_EVAL
from oprime.evaluation.benchmarks.leetcode import LEETCODE
from oprime.evaluation.benchmarks.livecodebench import LIVECODEBENCH
from oprime.evaluation.benchmarks.math500 import MATH_500
from oprime.evaluation.benchmarks.mbpp import MBPP
from oprime.evaluation.benchmarks.minerva_math import MINERVA_MATH
from oprime.evaluation.benchmarks.olympiadbench import OLYMPIADBENCH
from oprime.runtime.errors import SettingsError, did_you_mean

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        AIME_2024, AIME_2025, AMC, MATH_500, MINERVA_MATH, OLYMPIADBENCH, LEETCODE, LIVECODEBENCH, GSM8K, HUMAN_EVAL, MBPP,
    )
}  # fmt: skip


def benchmark_named(name: str, setting: str) -> Benchmark:
    """Raises SettingsError for one that does not exist."""
    if name not in BENCHMARKS:
        raise SettingsError(f"{setting} {name}: no such benchmark{did_you_mean(name, BENCHMARKS)}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
