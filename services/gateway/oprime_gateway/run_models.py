"""Answers of the routes about a run's rollouts and curves. Their docstrings are the text of /openapi.json."""

from typing import Literal

from pydantic import Field

from oprime_gateway.models import ApiModel


class RolloutSummary(ApiModel):
    step: int
    """Train step that took it."""
    group_id: int
    """Group of its siblings."""
    index: int
    """Its place among them."""
    outcome_reward: float | None
    """What the verifier gave."""
    outcome_status: str
    """scored, invalid or error."""
    finish_reason: str
    """stop, or length where it was cut at the token limit."""
    tokens: int
    """Length of the response in tokens that are trained on."""
    process_reward: float | None
    """Sum of its process rewards."""
    lowest_reward: float | None
    """Least process reward of a token."""
    prm_version: int
    """What scored it."""
    prompt: str
    """The first 200 characters."""
    actions: list[str]
    """Named actions that the response took, in order."""
    keeps_action_form: bool | None
    """Whether it keeps their form; null where it took none."""


class RolloutsResponse(ApiModel):
    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[RolloutSummary]
    """One page, in the order that was asked for."""
    total: int
    """How many rollouts fulfil the conditions, on all pages."""
    files: int
    """Files of samples that the run has."""
    files_read: int
    """Files that are in the index; while they are fewer, newest first, the same request finds more a moment later."""


class SampledRollout(ApiModel):
    """A response token by token; each list has one value per token that is trained on. Null: not recorded in this run."""

    index: int
    """Its place among its siblings."""
    outcome_reward: float | None
    """What the verifier gave."""
    outcome_status: str
    """scored, invalid or error."""
    finish_reason: str
    """stop or length."""
    tokens: list[str]
    """Text of each token. Written by a model: show it as text, never as markup."""
    process_rewards: list[float | None]
    """beta * (log-prob of the PRM - log-prob of its reference)."""
    behaviour_logprobs: list[float | None] | None = None
    """Log-prob under the weights that sampled it."""
    reference_logprobs: list[float | None] | None = None
    """Log-prob under the reference of the PRM."""
    weight_versions: list[int | None] | None = None
    """Version of the weights that sampled it."""
    advantages: list[float | None] | None = None
    """What the policy learned from."""
    policy_logprobs: list[float | None] | None = None
    """Log-prob under the policy that was about to learn from it."""
    first_wrong_token: int | None = None
    """Token that begins the first wrong step, where the task knows its steps (the built-in chains); null where all are right too."""


class GroupPlace(ApiModel):
    step: int
    """Train step that took it."""
    group_id: int
    """Its group id."""


class SampledGroup(ApiModel):
    step: int
    """Train step."""
    group_id: int
    """Its group id, which is the position of its prompt."""
    prompt: str
    """The prompt as the model saw it. Show it as text."""
    prm_version: int
    """What scored it."""
    before: GroupPlace | None
    """The sampled group before it, by train step and group id; null at the run's first."""
    after: GroupPlace | None
    """The one after it; null at the newest."""
    siblings: list[RolloutSummary]
    """All rollouts of the group."""
    rollouts: list[SampledRollout]
    """Those that were asked for, token by token."""


class MetricSeries(ApiModel):
    steps: list[int]
    """Train steps, ascending."""
    values: dict[str, list[float | None]]
    """By metric, one value per step; null where a row has none."""
    names: list[str]
    """All metrics of the newest row."""
    rows: int
    """Rows before thinning."""


class CurvesResponse(ApiModel):
    step: MetricSeries
    """Metrics of train steps."""
    evaluation: MetricSeries
    """Metrics of held-out evaluations."""


class RunSettings(ApiModel):
    settings: dict[str, str | int | float | bool]
    """By dotted name, those that decide what a run computes; addresses, stores and files of keys are left out."""
    summary: dict[str, object] = Field(default_factory=dict)
    """summary.json, once the run has ended."""
    has_report: bool
    """Whether GET /v1/runs/{name}/report has one."""
    has_samples: bool
    """Whether rollouts were sampled."""
