"""Functions and objects in the style of other frameworks, as verifiers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, unscored
from oprime.runtime.errors import SettingsError
from oprime_verifier.external.results import Scale
from oprime_verifier.external.signatures import Adaptation, AsyncLoop, adapt
from oprime_verifier.external.styles import Parameters, style_of

REQUEST = VerificationRequest(
    kind="mine",
    response="so it is 8",
    golds=("8",),
    prompt="What is 5+3? ",
    data_source="sums",
    task_id="t1",
    options={"strict": True},
    metadata={"level": "easy"},
)


@dataclass
class RewardOutput:
    """As rllm has it."""

    reward: float
    is_correct: bool
    metadata: dict[str, Any] = field(default_factory=dict)


def judge(target: object, request: VerificationRequest = REQUEST, **how: Any) -> Outcome:
    loop = AsyncLoop()
    try:
        return adapt(target, Adaptation(**how), loop)(request)
    finally:
        loop.close()


# Plain functions.


def test_a_plain_function_gets_response_and_gold() -> None:
    assert judge(lambda response, gold: response.endswith(gold)).verdict is Verdict.CORRECT
    assert judge(lambda answer, target: 0.5).score == 0.5


def test_a_plain_function_may_take_more_by_name() -> None:
    seen: dict[str, Any] = {}

    def mine(response: str, gold: str, *, prompt: str, level: str, data_source: str, options: dict[str, Any]) -> float:
        seen.update(prompt=prompt, level=level, data_source=data_source, options=options)
        return 1.0

    assert judge(mine).verdict is Verdict.CORRECT
    assert seen == {"prompt": "What is 5+3? ", "level": "easy", "data_source": "sums", "options": {"strict": True}}


def test_a_plain_function_may_take_everything() -> None:
    seen: dict[str, Any] = {}

    def mine(response: str, gold: str, **meta: Any) -> bool:
        seen.update(meta)
        return True

    judge(mine, arguments={"tolerance": 0.1})
    assert (seen["level"], seen["task_id"], seen["tolerance"]) == ("easy", "t1", 0.1)
    assert "gold" not in seen


def test_a_setting_with_a_default_is_not_taken_for_the_gold() -> None:
    def short(response: str, limit: int = 100) -> bool:
        return len(response) <= limit

    assert judge(short).verdict is Verdict.CORRECT
    assert judge(short, arguments={"limit": 3}).verdict is Verdict.INCORRECT


def test_a_function_may_judge_the_response_alone() -> None:
    assert judge(lambda response: len(response) > 3).verdict is Verdict.CORRECT


def test_a_function_may_take_the_request_and_return_an_outcome() -> None:
    def mine(request: VerificationRequest) -> Outcome:
        return correct(answer=request.golds[0])

    assert judge(mine).answer == "8"


def test_any_of_several_golds_is_right() -> None:
    request = VerificationRequest(kind="mine", response="8", golds=("7", "8"))
    assert judge(lambda response, gold: response == gold, request).verdict is Verdict.CORRECT
    assert judge(lambda response, golds: len(golds) == 2, request).verdict is Verdict.CORRECT


def test_a_gold_that_could_not_be_compared_may_have_been_the_right_one() -> None:
    def fails_on_seven(response: str, gold: str) -> bool:
        return gold == "8" or 1 / (int(gold) - 7) > 0

    request = VerificationRequest(kind="mine", response="", golds=("7", "6"))
    assert judge(fails_on_seven, request).verdict is Verdict.INFRA_ERROR


def test_tests_take_the_place_of_a_gold() -> None:
    request = VerificationRequest(kind="mine", response="", tests='{"inputs": []}')
    assert judge(lambda response, ground_truth: "inputs" in ground_truth, request).verdict is Verdict.CORRECT


# Other frameworks.


def compute_score(data_source, solution_str, ground_truth, extra_info: Any = None, **kwargs):
    assert data_source == "sums"
    assert extra_info["level"] == "easy"
    return {"score": float(ground_truth in solution_str), "acc": True}


def compute_scores(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [{"score": float(gold in text)} for text, gold in zip(solution_strs, ground_truths, strict=True)]


def trl_chat(completions, solution, **kwargs):
    return [float(gold in chat[0]["content"]) for chat, gold in zip(completions, solution, strict=True)]


def trl_text(completions: list[str], ground_truth: list[str], **kwargs: Any) -> list[float | None]:
    return [float(gold in text) for text, gold in zip(completions, ground_truth, strict=True)]


def trl_all(prompts, completions, completion_ids=None, trainer_state=None, log_extra: Any = None, answer: Any = None, level=None):
    log_extra("level", level)
    return [float(chat[-1]["role"] == "assistant" and gold == "8") for chat, gold in zip(completions, answer, strict=True)]


def reward_func(queries, prompts, labels, **kwargs):
    scores = torch.tensor([float(label in query[len(prompt) :]) for query, prompt, label in zip(queries, prompts, labels, strict=True)])
    return {"rewards": 2 * scores - 1, "scores": scores, "extra_logs": {"scores": scores}}


def reward_fn(task_info, action):
    right = task_info["ground_truth"] in action
    return RewardOutput(reward=float(right), is_correct=right)


class RewardClass:
    """A callable object."""

    def __call__(self, task_info: dict[str, Any], action: str) -> RewardOutput:
        return reward_fn(task_info, action)


@pytest.mark.parametrize(
    "function",
    [compute_score, compute_scores, trl_chat, trl_text, trl_all, reward_func, reward_fn, RewardClass, RewardClass()],
)
def test_functions_of_other_frameworks_load_unchanged(function: object) -> None:
    assert judge(function).verdict is Verdict.CORRECT
    wrong = VerificationRequest(kind="mine", response="9", golds=("6",), data_source="sums", metadata={"level": "easy"})
    assert judge(function, wrong).verdict is Verdict.INCORRECT


@pytest.mark.parametrize(
    ("function", "style"),
    [
        (compute_score, "verl"),
        (compute_scores, "verl_batch"),
        (trl_chat, "trl"),
        (trl_text, "trl_text"),
        (reward_func, "openrlhf"),
        (reward_fn, "rllm"),
        (lambda response, gold: 1, "plain"),
        (lambda request: 1, "request"),
    ],
)
def test_the_style_shows_in_the_parameters(function: Callable[..., Any], style: str) -> None:
    assert style_of(Parameters.of(function)) == style


def test_a_setting_overrides_the_style() -> None:
    def looks_like_chat(completions, **kwargs):
        return [float(isinstance(completions[0], str))]

    assert judge(looks_like_chat).score == 0.0
    assert judge(looks_like_chat, style="trl_text").score == 1.0


def test_none_of_trl_does_not_apply() -> None:
    assert judge(lambda completions, **kwargs: [None]).verdict is Verdict.NOT_APPLICABLE


def test_openrlhf_keeps_the_reward_beside_the_score() -> None:
    assert judge(reward_func).components == {"reward": 1.0}
    assert judge(lambda queries, prompts, labels: torch.tensor([0.5])).score == 0.5


def test_the_golds_parameter_can_be_named() -> None:
    def mine(completions, final_value):
        return [float(final_value == ["8"])]

    assert judge(mine, gold_parameter="final_value").verdict is Verdict.CORRECT


# Objects, and asynchronous ones.


class Batch:
    """An object with the protocol of a plug-in."""

    name = "batch"
    kinds = ("sums",)

    async def verify_batch(self, requests: list[VerificationRequest]) -> list[Outcome]:
        return [correct() if request.kind == "sums" else incorrect() for request in requests]


class SyncBatch:
    """The same, without async."""

    def verify_batch(self, requests: list[VerificationRequest]) -> list[Outcome]:
        return [unscored(Verdict.UNDECIDED, "hard") for _ in requests]


async def async_plain(response: str, gold: str) -> bool:
    return gold in response


def test_objects_judge_batches() -> None:
    assert judge(Batch()).verdict is Verdict.CORRECT
    assert judge(Batch).verdict is Verdict.CORRECT
    assert judge(SyncBatch()).verdict is Verdict.UNDECIDED


def test_asynchronous_functions_share_one_loop() -> None:
    import asyncio

    loops: set[int] = set()

    async def mine(response: str, gold: str) -> bool:
        loops.add(id(asyncio.get_running_loop()))
        return True

    loop = AsyncLoop()
    verify = adapt(mine, Adaptation(), loop)
    assert [verify(REQUEST).verdict for _ in range(3)] == [Verdict.CORRECT] * 3
    loop.close()
    assert len(loops) == 1
    assert judge(async_plain).verdict is Verdict.CORRECT


# What goes wrong is never a score.


class TimeoutOutsideException(BaseException):
    """Some libraries' timeouts are no Exception."""


def raising(error: BaseException) -> Callable[[str, str], float]:
    def mine(response: str, gold: str) -> float:
        raise error

    return mine


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), TimeoutOutsideException(), MemoryError(), RecursionError()])
def test_whatever_is_raised_is_an_infrastructure_error(error: BaseException) -> None:
    outcome = judge(raising(error))
    assert (outcome.verdict, outcome.score, outcome.cacheable) == (Verdict.INFRA_ERROR, None, False)
    assert type(error).__name__ in outcome.reason


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda response, gold: float("nan"), "nan"),
        (lambda response, gold: 2, "range"),
        (lambda completions, **kw: [1.0, 0.0], "2 entries for 1 response"),
        (lambda completions, **kw: 1.0, "not a list"),
        (lambda completions, **kw: [], "0 entries"),
        (lambda queries, prompts, labels: {"extra_logs": {}}, "`rewards` is missing"),
        (lambda queries, prompts, labels: torch.ones(2), "2 entries"),
        (lambda task_info, action: "right", "a str"),
    ],
)
def test_what_breaks_the_contract_is_an_infrastructure_error(function: object, told: str) -> None:
    outcome = judge(function)
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert told in outcome.reason


def test_a_declared_range_is_used() -> None:
    assert judge(lambda response, gold: -1, scale=Scale(low=-1, high=1)).score == 0.0


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (42, "neither a function nor an object"),
        (lambda: 1, "by position"),
        (lambda gold, response: 1, "fn\\(response, gold\\)"),
        (lambda completions, completion_ids: 1, "token ids"),
        (lambda solution_str, reward_model_tokenizer: 1, "a tokenizer"),
    ],
)
def test_what_could_never_be_called_is_refused_at_the_start(target: object, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        adapt(target, Adaptation(), AsyncLoop())


def test_a_gold_parameter_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="'truth'"):
        adapt(lambda response, gold: 1, Adaptation(gold_parameter="truth"), AsyncLoop())
