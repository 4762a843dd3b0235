"""Best of N by a PRM: of the samples that an evaluation kept, which one does it choose, and how often is that right?"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.core.sample_statistics import estimate
from oprime.evaluation.benchmark import Problem
from oprime.evaluation.folder import read_json, write_json, write_whole
from oprime.evaluation.results import ProblemResult
from oprime.evaluation.samples import Sample
from oprime.runtime.errors import OprimeError, SettingsError, WeightsRefusedError
from oprime_cli.evaluating.targets import ADAPTER_CONFIG
from oprime_cli.prm_eval.best_of import Candidates, Choose, any_right, best_of_n, best_scored, first, majority, weighted_majority
from oprime_cli.running.run_folder import RUNS, RunFolder, find_run

if TYPE_CHECKING:
    from oprime_cli.prm_eval.models import LocalPrm, PrmSource

RANKINGS = ("sum", "mean", "min_step")
REWARDS = "rewards.jsonl"
PASS_SAMPLES = 256
"""Samples that are scored and written together."""
_AS_BAD_AS_CAN_BE = -1e30
"""For a response that the PRM's context does not hold; JSON has no word for infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """Which PRM is asked."""

    source: "PrmSource"
    separator: str = "\n\n"
    """What stands between reasoning steps."""

    @property
    def identity(self) -> dict[str, Any]:
        """What its scores are told apart by."""
        return {**asdict(self.source), "separator": self.separator}


def find_reward_model(text: str, reference: str | None, beta: float | None, separator: str) -> RewardModel:
    """A PRM of `oprime prm train`, a model with --reference and --beta, or that of RUN[@VERSION]. Raises SettingsError."""
    from oprime_cli.prm_eval.models import PrmSource, prm_source

    path, at, version = text.rpartition("@")
    pinned = bool(at) and version.isdecimal()
    run = path if pinned else text
    if not any(RunFolder(place.absolute()).exists() for place in (Path(run), RUNS / run)):
        return RewardModel(source=prm_source(text, reference, beta), separator=separator)
    config = find_run(run).load_settings()
    start = config.prm.initial_model or config.model.path
    weights = _version_of_run(find_run(run), start, int(version) if pinned else None)
    is_adapter = (weights / ADAPTER_CONFIG).is_file()
    source = PrmSource(
        prm=start if is_adapter else str(weights),
        reference=reference or config.prm.reference_model or start,
        beta=beta or config.prm.beta,
        adapter=str(weights) if is_adapter else None,
    )
    return RewardModel(source=source, separator=separator)


def _version_of_run(folder: RunFolder, start: str, version: int | None) -> Path:
    store = StoreWeights(str(folder.path / "prm_weights"), template=model_directory(start))
    versions = store.versions()
    chosen = version if version is not None else max(versions, default=None)
    if chosen is None or chosen not in versions:
        raise SettingsError(f"--reward-model: run {folder.path} has {'no such PRM version' if versions else 'no PRM weights'}")
    try:
        return store.fetch(chosen).directory
    except WeightsRefusedError as error:
        raise SettingsError(f"--reward-model {folder.path}@{chosen} cannot be used: {error}") from error


class StoredRewards:
    """Scores of samples by one PRM, one line each, so that an interrupted evaluation scores none twice."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = dict(identity)
        self._known: dict[tuple[str, int], Mapping[str, float]] = {}
        written = read_json(path.with_suffix(".model.json"))
        if written == self._identity and path.exists():
            self._known = {(row["problem"], row["sample"]): row["scores"] for row in _whole_rows(path)}

    def missing(self, samples: Sequence[Sample]) -> list[Sample]:
        return [one for one in samples if one.key not in self._known]

    def __getitem__(self, key: tuple[str, int]) -> Mapping[str, float]:
        return self._known[key]

    def add(self, samples: Sequence[Sample], scores: Sequence[Mapping[str, float]]) -> None:
        """Raises OprimeError if the disk refuses."""
        self._known |= {one.key: dict(found) for one, found in zip(samples, scores, strict=True)}
        rows = [{"problem": problem, "sample": sample, "scores": found} for (problem, sample), found in self._known.items()]
        write_json(self._path.with_suffix(".model.json"), self._identity)
        write_whole(self._path, "".join(json.dumps(row) + "\n" for row in rows))


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise OprimeError(f"{path} cannot be read ({error}): remove it, and the samples are scored again") from error


def score_samples(
    prm: "LocalPrm", model: RewardModel, problems: Sequence[Problem], samples: Sequence[Sample], folder: Path, note: Callable[[int], None]
) -> StoredRewards:
    """Scores of all samples; `note` hears how many are there. Raises OprimeError if they cannot be kept."""
    stored = StoredRewards(folder / REWARDS, model.identity)
    asked = {problem.id: problem for problem in problems}
    left = stored.missing(samples)
    for start in range(0, len(left), PASS_SAMPLES):
        part = left[start : start + PASS_SAMPLES]
        note(len(samples) - len(left) + start)
        stored.add(part, _scores(prm, [(asked[one.problem], one) for one in part], model.separator))
    note(len(samples))
    return stored


def _scores(prm: "LocalPrm", pairs: Sequence[tuple[Problem, Sample]], separator: str) -> list[dict[str, float]]:
    from oprime_cli.prm_eval.judging import ranked_response

    encoded = [prm.encoder.encode(problem.task.messages, [sample.response])[0] for problem, sample in pairs]
    found = prm.score(encoded, lambda done: None)
    ranked = [
        ranked_response(sample.response, tokens, scores, separator)
        for (_, sample), tokens, scores in zip(pairs, encoded, found, strict=True)
    ]
    return [{way: max(value, _AS_BAD_AS_CAN_BE) for way, value in one.items()} for one in ranked]


def best_of(
    results: Sequence[ProblemResult], samples: Sequence[Sample], stored: StoredRewards, ks: Sequence[int], seed: int
) -> dict[str, dict[str, Any]]:
    """By the way of choosing and N, the mean score of what is chosen, with its interval."""
    of_problem: dict[str, list[Sample]] = {}
    for one in sorted(samples, key=lambda sample: sample.sample):
        of_problem.setdefault(one.problem, []).append(one)
    candidates = [_candidates(result, of_problem[result.problem], stored) for result in results]
    voted = all(result.answers for result in results)
    return {
        way: {
            str(n): asdict(estimate([best_of_n([one], n, choose) for one in candidates], seed=seed))
            for n in ks
            if n <= min(map(len, candidates))
        }
        for way, choose in _ways(voted=voted).items()
    }


def _ways(*, voted: bool) -> dict[str, Choose]:
    ranked = {f"prm_{way}": best_scored(way) for way in RANKINGS}
    votes = {"majority": majority, **{f"votes_{way}": weighted_majority(way) for way in RANKINGS}} if voted else {}
    return {"first": first, **ranked, **votes, "any_right": any_right}


def _candidates(result: ProblemResult, samples: Sequence[Sample], stored: StoredRewards) -> Candidates:
    answers = result.answers or (None,) * len(samples)
    return Candidates(
        outcome_rewards=result.scores,
        answers=["" if answer is None else str(answer) for answer in answers],
        scores={way: [stored[one.key][way] for one in samples] for way in RANKINGS},
    )
