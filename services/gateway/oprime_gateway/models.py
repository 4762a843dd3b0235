"""Requests and responses of the HTTP API. Their docstrings are the text of /openapi.json."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from oprime.core.verification import Verdict
from oprime_gateway.rewards import DISCOUNTED, Reduction

Granularity = Literal["token", "step", "sequence"]
Include = Literal["tokens", "offsets", "logprobs", "ref_logprobs"]
INT32_MAX = 2**31 - 1
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
Position = Annotated[int, Field(ge=0, le=INT32_MAX)]
Span = Annotated[list[Position], Field(min_length=2, max_length=2)]
"""[start, end)"""
Reducing = Annotated[Reduction, Field(strict=False)]


class ApiModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class RequestModel(ApiModel):
    """What clients send, exactly as the document has it: an integer is no text, no true and no 1.0."""

    model_config = ConfigDict(strict=True)


class TextPart(RequestModel):
    """A part of a message, as chat clients send it."""

    type: Literal["text"]
    """Only text can be scored."""
    text: str
    """Plain text."""


class Message(RequestModel):
    role: str = Field(min_length=1)
    """For example system, user or assistant."""
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    """Plain text, whole or in parts that follow each other."""

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


FORMS = (("prompt", "response"), ("messages",), ("prompt_token_ids", "response_token_ids"))
OF_ONE_FORM = {"raw": ("prompt", "response")}
"""Fields that may accompany one form only."""


def one_of_the_forms(schema: dict[str, Any]) -> None:
    """An input in OpenAPI: one object for each form, in which the fields of the others are absent or null."""
    properties = cast(dict[str, dict[str, Any]], schema.pop("properties"))
    schema.pop("additionalProperties", None)
    schema["oneOf"] = [
        {
            "type": "object",
            "title": " and ".join(form),
            "properties": {name: _of_form(name, about, form) for name, about in properties.items()},
            "required": list(form),
            "additionalProperties": False,
        }
        for form in FORMS
    ]


def _of_form(name: str, about: dict[str, Any], form: tuple[str, ...]) -> dict[str, Any]:
    if name in form:
        kept = {key: value for key, value in about.items() if key not in ("anyOf", "default")}
        return {**about["anyOf"][0], **kept}
    belongs_elsewhere = any(name in other for other in FORMS) or OF_ONE_FORM.get(name, form) != form
    return {"type": "null"} if belongs_elsewhere else about


class RewardInput(RequestModel):
    """One response to score: `prompt` + `response`, or `messages` (the last one is scored), or token ids of both."""

    model_config = ConfigDict(json_schema_extra=one_of_the_forms)

    id: str | None = None
    """Returned with the result."""
    prompt: str | None = None
    """Text of one user message; the model's chat template is applied."""
    response: str | None = None
    """Text of the response, scored up to and with the end token."""
    raw: bool | None = None
    """Whether `prompt` and `response` are text as the model reads it: no chat template is applied, no end token added, and names of
    special tokens stand for these tokens. White space behind an end token is not scored."""
    messages: Annotated[list[Message], Field(min_length=2)] | None = None
    """A conversation whose last message, the assistant's, is scored."""
    prompt_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    """Token ids in the PRM's own vocabulary, used as they are."""
    response_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    """Token ids of the response; the end token is scored only if it is among them."""

    @model_validator(mode="after")
    def has_one_form(self) -> Self:
        given = {name for form in FORMS for name in form if getattr(self, name) is not None}
        if given not in map(set, FORMS):
            raise ValueError(
                f"an input has prompt and response, or messages, or prompt_token_ids and response_token_ids; given: {sorted(given)}"
            )
        if self.raw is not None and "prompt" not in given:
            raise ValueError("raw is given without prompt and response, to which it belongs")
        return self

    @property
    def response_text(self) -> str | None:
        """What is scored, where that is a text."""
        return self.response if self.messages is None else self.messages[-1].text


class Steps(RequestModel):
    """How a response is cut into steps."""

    mode: Literal["delimiter", "char_spans", "token_spans", "none"] = "delimiter"
    """`delimiter` cuts after each run of `delimiter`; `char_spans` and `token_spans` take `spans`; `none` makes one step."""
    delimiter: str = Field(default="\n\n", min_length=1)
    """Text that ends a step; it belongs to the step that it ends."""
    spans: list[list[Span]] | None = None
    """For each input its steps, [start, end), in code points or in tokens; they cover the response without gap or overlap."""

    @model_validator(mode="after")
    def spans_go_with_their_modes(self) -> Self:
        wanted = self.mode in ("char_spans", "token_spans")
        if wanted != (self.spans is not None):
            raise ValueError(
                f"steps.spans {'is missing' if wanted else 'is given'}: it goes with the modes char_spans and token_spans alone"
            )
        return self


class ScoringOptions(RequestModel):
    """What every way to ask for rewards has in common."""

    model: str = "prm"
    """`prm`, or `prm@VERSION` to accept that version alone."""
    steps: Steps = Steps()
    """How responses are cut into steps."""
    step_reduction: Reducing = Reduction.SUM
    """From the token rewards of a step to the step's reward. `discounted_sum` is sum_i discount^i r_i and `discounted_mean` divides it by
    sum_i discount^i; `sum_per_token` and `sum_per_root_token` divide the sum by the number of tokens, and by its square root."""
    sequence_reduction: Reducing = Reduction.SUM
    """From step rewards to the sequence's reward; with steps.mode none, from token rewards."""
    discount: float | None = Field(default=None, gt=0, le=1)
    """For the reductions `discounted_sum` and `discounted_mean`."""
    end_token: Literal["include", "exclude"] = "include"  # noqa: S105 - no password
    """Whether the end token's reward counts. `exclude` leaves that token out of everything that is returned."""
    truncation: Literal["error", "left", "right"] = "error"
    """What becomes of an input that is longer than the model's context: it fails alone, or loses the beginning of its prompt (`left`) or
    the end of its response (`right`), and says so."""
    special_tokens: bool = False
    """Whether names of special tokens in the texts, such as `<|im_end|>`, stand for these tokens. They are plain text otherwise."""

    @model_validator(mode="after")
    def discounts_go_with_their_reductions(self) -> Self:
        wanted = not DISCOUNTED.isdisjoint((self.step_reduction, self.sequence_reduction))
        if wanted != (self.discount is not None):
            raise ValueError(f"discount is {'missing' if wanted else 'given'}: it goes with discounted_sum and discounted_mean alone")
        return self


class RewardsRequest(ScoringOptions):
    """Score responses with the implicit process reward model."""

    inputs: list[RewardInput] = Field(min_length=1)
    """Responses to score; each succeeds or fails alone."""
    granularity: list[Granularity] = Field(default=["step", "sequence"], min_length=1)
    """Which rewards to return."""
    include: list[Include] = []
    """What else to return about tokens."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64` returns the columns of numbers as base64 texts: float32 and int32, little-endian. A step without a reward is NaN in them."""

    @model_validator(mode="after")
    def one_list_of_spans_per_input(self) -> Self:
        spans = self.steps.spans
        if spans is not None and len(spans) != len(self.inputs):
            raise ValueError(f"steps.spans has {len(spans)} entries for {len(self.inputs)} inputs: give one list of spans per input")
        return self


Floats = list[float] | str
"""Numbers, or base64 of little-endian float32."""
Ints = list[int] | str
"""Numbers, or base64 of little-endian int32."""


class TokenColumns(ApiModel):
    """One value per response token, the end token included. Columns that were not asked for are null."""

    rewards: Floats | None = None
    """beta * (logprob - ref_logprob)."""
    ids: Ints | None = None
    """Token ids."""
    text: list[str] | None = None
    """Text of each token, decoded alone."""
    char_start: Ints | None = None
    """First code point of each token in the response."""
    char_end: Ints | None = None
    """Code point after each token. For token inputs, offsets count in the concatenated texts of the tokens."""
    logprobs: Floats | None = None
    """Log-probability under the PRM's own model, in nats."""
    ref_logprobs: Floats | None = None
    """Log-probability under the reference, in nats."""
    end_token: int | None = None
    """Index of the end token, if the response has one."""


class StepColumns(ApiModel):
    """One value per step."""

    rewards: list[float | None] | str
    """Null for a step in which no token starts, unless the reduction is a sum or prod, and for a number beyond float32."""
    char_start: Ints
    """First code point of each step."""
    char_end: Ints
    """Code point after each step."""
    token_start: Ints
    """First token of each step."""
    token_end: Ints
    """Token after each step."""
    end_token: int | None = None
    """Index of the step that holds the end token, which lies behind the last code point."""


class SequenceReward(ApiModel):
    reward: float | None
    """The response's reward; null where no step has one, and for a number beyond float32."""


class Truncated(ApiModel):
    """Tokens that the truncation left out."""

    prompt_tokens: int
    """At the beginning of the prompt."""
    response_tokens: int
    """At the end of the response, the end token included."""


class ItemError(ApiModel):
    detail: str
    """What is wrong with this input alone."""


class RewardItem(ApiModel):
    """The rewards of one input, or its error."""

    index: int
    """Place of the input in the request."""
    id: str | None = None
    """The input's id."""
    tokens: TokenColumns | None = None
    """Per token, if asked for."""
    steps: StepColumns | None = None
    """Per step, if asked for."""
    sequence: SequenceReward | None = None
    """For the whole response, if asked for."""
    truncated: Truncated | None = None
    """Set where the input was too long and `truncation` shortened it."""
    error: ItemError | None = None
    """Set instead of the rewards when this input could not be scored."""


class RewardsUsage(ApiModel):
    prompt_tokens: int
    """Tokens before those that were scored."""
    response_tokens: int
    """Tokens that were scored."""
    failed_inputs: int
    """Inputs that ended with an error."""


class Answered(ApiModel):
    """Who answered, and what a reward means."""

    id: str
    """Id of this answer."""
    created: int
    """Unix time in seconds."""
    model: str = "prm"
    """The model that answered."""
    model_revision: str
    """`prm@VERSION`; also the entity tag, for If-Match."""
    prm_version: int
    """Version of the implicit PRM; every reward of this answer comes from it."""
    beta: float
    """Scale in reward = beta * (logprob - ref_logprob)."""
    reference_model: str
    """The frozen reference."""
    scale: Literal["beta_log_ratio"] = "beta_log_ratio"
    """Token rewards are raw: neither normalised nor clipped."""


class RewardsResponse(Answered):
    object: Literal["rewards"] = "rewards"
    """Kind of this object."""
    data: list[RewardItem]
    """One entry per input, in order."""
    usage: RewardsUsage
    """What was done."""


class RewardsBegin(Answered):
    """First line of a stream."""

    object: Literal["rewards.begin"] = "rewards.begin"
    """Kind of this object."""


class StreamedItem(RewardItem):
    """One line of a stream for each input, in order."""

    object: Literal["rewards.item"] = "rewards.item"
    """Kind of this object."""


class RewardsEnd(ApiModel):
    """Last line of a stream. One without it was cut off, or ended with a line that is a Problem, for example 409 when the PRM went on to
    another version meanwhile; the lines before stand."""

    object: Literal["rewards.end"] = "rewards.end"
    """Kind of this object."""
    usage: RewardsUsage
    """What was done."""


class VerifyInput(RequestModel):
    """One response to judge."""

    request_id: str = ""
    """Returned with the result."""
    kind: str = Field(min_length=1)
    """Name of a verifier, for example math or code; GET /v1/verifiers lists them."""
    response: str
    """Text of the response."""
    golds: list[str] = []
    """Accepted answers; any of them is right."""
    tests: str | dict[str, Any] | list[Any] = ""
    """Tests of a code task, in one of the encodings of docs/verifier.md, as JSON or as text that holds it."""
    options: dict[str, Any] = {}
    """Options of the verifier, by name."""
    prompt: str = ""
    """The prompt, where a verifier needs it."""
    task_id: str = ""
    """Name of the task."""
    group_id: str = ""
    """Siblings of one prompt; they share golds and tests."""
    data_source: str = ""
    """Where the task comes from."""
    deadline_s: float = Field(default=0.0, ge=0)
    """Seconds until the answer is of no more use; 0 leaves it to the service."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seeds the programs that a code task runs."""
    metadata: dict[str, str] = {}
    """For plug-ins."""


class VerifyRequest(RequestModel):
    """Judge responses by their outcome."""

    inputs: list[VerifyInput] = Field(min_length=1)
    """Responses to judge."""


class VerifiedTest(ApiModel):
    index: int
    """Place of the test in the task."""
    verdict: Verdict
    cpu_s: float
    """Seconds of CPU time."""
    wall_s: float
    """Seconds that passed."""
    peak_bytes: int
    """Most memory in use."""


class VerifiedBy(ApiModel):
    name: str
    version: str
    config_hash: str
    """Equal for two services with the same settings."""
    sandbox_profile: str
    """Where model code ran; empty when none did."""


class VerifyItem(ApiModel):
    index: int
    """Place of the input in the request."""
    request_id: str
    """The input's."""
    verdict: Verdict
    """docs/verifier.md explains each."""
    status: Literal["scored", "invalid", "error"]
    """What a trainer makes of the verdict: `invalid` scores 0; `error` says nothing about the response."""
    score: float | None
    """Outcome reward in [0, 1]; null exactly when the status is error."""
    components: dict[str, float]
    """Parts of the score by name."""
    extracted: str
    """What was graded."""
    explanation: str
    """For a person."""
    tests: list[VerifiedTest]
    """Without hidden inputs or outputs."""
    timings: dict[str, float]
    """Seconds by phase."""
    verifier: VerifiedBy
    """Who judged."""
    flags: list[str]
    """Observations beside the verdict."""


class VerifyResponse(ApiModel):
    object: Literal["verdicts"] = "verdicts"
    """Kind of this object."""
    data: list[VerifyItem]
    """One entry per input, in order."""


class VerifierCard(ApiModel):
    name: str
    """Name to use as `kind`."""
    version: str
    description: str
    options_schema: dict[str, Any]
    """JSON schema of `options`; empty when it takes any."""
    problem: str
    """Why it cannot be used; empty when it can."""


class SandboxPart(ApiModel):
    name: str
    works: bool
    """Whether the layer is active, or the way out is blocked."""
    detail: str


class VerifiersResponse(ApiModel):
    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[VerifierCard]
    """What this service can judge."""
    serving: bool
    """Whether it judges now."""
    reason: str
    """What it lacks; empty when nothing."""
    sandbox_profile: str
    """Where model code runs."""
    sandbox_layers: list[SandboxPart]
    """What holds model code back."""
    sandbox_probes: list[SandboxPart]
    """Ways out that the last self-test tried."""


class ModelCard(ApiModel):
    id: str
    """Name to use as `model`."""
    object: Literal["model"] = "model"
    """Kind of this object."""
    revision: str
    """`prm@VERSION`, the revision that answers now."""
    prm_version: int
    """Version of the implicit PRM."""
    base_model: str
    """Model that the PRM started from."""
    reference_model: str
    """The frozen reference."""
    scored_tokens: int
    """Response tokens scored since the service started."""


class ModelsResponse(ApiModel):
    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[ModelCard]
    """The models."""


class RunCard(ApiModel):
    name: str
    """Name of the run."""
    active: bool
    """Whether the services behind this gateway belong to it."""
    steps_recorded: bool
    """Whether it has metrics."""
    result: str = ""
    """How it ended: ok, or the reason; empty until then."""
    step: float | None = None
    """Last train step in its metrics."""
    outcome_reward: float | None = None
    """Mean outcome reward of that step."""
    heldout_accuracy: float | None = None
    """Of the newest evaluation."""
    changed_at: float | None = None
    """When its metrics last grew, in seconds since 1970."""


class RunsResponse(ApiModel):
    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[RunCard]
    """Runs in the folder of runs, by name."""


class QueueStatus(ApiModel):
    stream: str
    """Name of the queue."""
    waiting: int
    """Entries that nobody has taken yet."""
    pending: int
    """Entries on loan to a worker."""
    oldest_seconds: float
    """Age of the oldest entry."""


class RunStatus(ApiModel):
    """What the coordinator says now."""

    state: str
    """starting, training, evaluating, finished or serving."""
    step: int
    """Last committed train step."""
    total_steps: int
    """Train steps of the run."""
    cut_batches: int
    """Batches cut so far."""
    live_groups: int
    """Groups under way."""
    ready_groups: int
    """Groups that wait for a batch."""
    acceptance_rate: float | None
    """Share of groups that pass the prompt filter; null before the first group was decided."""
    bottleneck: str
    """Whom the others wait for, and why if it gave no report; empty when nobody waits."""
    stalled: str
    """Why nothing moves, once nothing has moved for coordinator.stall_s; else empty."""
    ledger: dict[str, int]
    """Rollouts by state; issued = trained + baseline + filtered + dropped + dead + live."""
    queues: list[QueueStatus]
    """The queues, in the order of the pipeline."""
    metrics: dict[str, float | None]
    """Newest value of each metric."""


class RunResponse(ApiModel):
    name: str
    """Name of the run."""
    active: bool
    """Whether the services behind this gateway belong to it."""
    status: RunStatus | None
    """Null when the run is not active or its coordinator does not answer."""
    status_error: str
    """Why there is no status."""
    rows: list[dict[str, object]]
    """Rows of metrics.jsonl, oldest first."""
    cursor: int
    """Send it back as `cursor` to get only the rows that came since."""
    reset: bool
    """The rows start anew: forget those of earlier answers."""


class ServiceReadiness(ApiModel):
    ready: bool
    """Whether every service is ready."""
    services: dict[str, bool]
    """Readiness of each service."""


class Problem(ApiModel):
    """RFC 9457 problem details."""

    type: Literal["about:blank"] = "about:blank"
    """Kind of problem."""
    title: str
    """The status in words."""
    status: int
    """HTTP status."""
    detail: str
    """What, which value, the rule, the remedy."""
    errors: list[dict[str, object]] | None = None
    """For invalid requests: place and rule of each fault."""
