"""The sections of a run's TOML file that several services read, and how a service reads them.

A service declares the sections it needs as a subclass of `ServiceSettings`; sections of other services are passed over,
unknown ones are refused. `oprime_cli.run_config` puts all of them together and checks what spans sections.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oprime.runtime.errors import SettingsError

SECTIONS = (
    "run", "model", "tasks", "sampling", "algorithm", "staleness", "endpoints", "queue", "store",
    "coordinator", "generator", "verifier", "prm", "learner", "critic", "gateway", "sft",
)  # fmt: skip


class Section(BaseModel):
    """A frozen, closed and documented group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RunSection(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its files are in `directory`/`name`."""
    directory: Path = Path("runs")
    """Folder that holds all runs."""
    seed: int = Field(default=0, ge=0)
    """Seeds the order of prompts and every rollout."""
    steps: int = Field(gt=0)
    """Train steps to run."""
    evaluate_every: int = Field(default=10, ge=0)
    """Evaluate held-out accuracy every so many steps, besides before and after; 0 means only then."""
    checkpoint_every: int = Field(default=10, gt=0)
    """Save a checkpoint every so many steps, and after the last."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Number of newest complete checkpoints to keep."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    """Seconds between two status reports of a service."""

    @property
    def folder(self) -> Path:
        return self.directory / self.name


class ModelSection(Section):
    path: str
    """Hugging Face causal language model that the policy, the implicit PRM and its reference start from: a directory or hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type. Master weights are always float32."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of the training forward pass."""
    gradient_checkpointing: bool = False
    """Recompute layer activations in the backward pass."""
    trust_remote_code: bool = False
    """Run model code from the model's repository. Leave off unless you read that code."""


class ChainSection(Section):
    """The built-in task: seeded arithmetic chains (see `oprime.tasks.chain`)."""

    operations: int = Field(default=8, ge=1, le=64)
    """Reasoning steps per problem."""
    teacher_seed: int = Field(default=7, ge=0)
    """Seed of the noisy teacher's misconceptions."""
    train_problems: int = Field(default=100_000, gt=0)
    """Size of the training set."""
    heldout_problems: int = Field(default=256, gt=0)
    """Size of the held-out set."""


class TasksSection(Section):
    source: Literal["chain", "rows"] = "rows"
    """`chain` is the built-in task; `rows` reads files in the Eurus-2-RL-Data schema."""
    train: str = ""
    """JSONL or parquet file, or `hf://datasets/OWNER/NAME/FILE`, with training rows."""
    heldout: str = ""
    """The same for held-out rows."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, and count them, instead of stopping."""
    chain: ChainSection = ChainSection()
    """Settings of the built-in task."""


class SamplingSection(Section):
    group_size: int = Field(default=4, ge=1)
    """K, the number of responses per prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature. The policy that is trained is the one that samples: its log-probs, entropy and KL are those after it, like the
    behaviour log-probs. PRM and held-out accuracy are at temperature 1."""
    max_prompt_tokens: int = Field(default=1024, gt=0)
    """Longer training prompts are passed over when their turn comes, and counted; a longer held-out prompt is refused at the start."""
    max_response_tokens: int = Field(default=3072, gt=0, le=16_384)
    """Responses are cut at this length. 16,384 is the most that one queue entry carries."""


class AlgorithmSection(Section):
    """The RL algorithm; see docs/algorithm.md for each equation."""

    estimator: Literal["rloo", "reinforce", "grpo", "remax", "prm_value", "ppo"] = "rloo"
    """Advantage estimator. `rloo`: leave-one-out baselines (paper, Eq. 5). `grpo`: standardised within the group (Eq. 7; unbiased
    deviation, floored at 1e-4 for process rewards). `reinforce`: no baseline (Eq. 8). `remax`: the policy's own greedy response is the
    baseline (ReMax, arXiv 2310.10505); it is one more response per prompt, verified and scored but never trained on. `prm_value`: the
    implicit PRM as a value model, r_o - v(y_<t) (section 5.4). `ppo`: generalised advantage estimation over the values of a critic
    (section [critic])."""
    loo: Literal["paper", "released"] = "paper"
    """Leave-one-out on process rewards (`rloo`): Eq. 5 of the paper, or its released code (scaled by K/(K-1))."""
    process_weight: float = Field(default=1.0, ge=0)
    """Weight of the process rewards' return; 0 trains on outcomes alone."""
    outcome_weight: float = Field(default=1.0, ge=0)
    """Weight of the outcome rewards' return."""
    process_discount: float = Field(default=1.0, ge=0, le=1)
    """Discount gamma of process rewards."""
    outcome_discount: float = Field(default=1.0, ge=0, le=1)
    """Discount gamma of the outcome reward."""
    trace_decay: float = Field(default=1.0, ge=0, le=1)
    """lambda of generalised advantage estimation (`ppo`): A_t = sum_{s>=t} (gamma lambda)^(s-t) (r_s + gamma V_{s+1} - V_s). At 1 the
    advantage is the return less the value, at 0 the error of one token's value."""
    granularity: Literal["token", "sequence"] = "token"
    """`token` rewards every response token (Eq. 3); `sequence` puts their sum on the last token."""
    process_normalisation: Literal["batch_norm", "per_rank", "none"] = "batch_norm"
    """`batch_norm` divides process rewards by the largest absolute process return of the whole batch; `per_rank` does so in each of
    `normalisation_chunks` parts of the batch, as the released code does on every rank for itself."""
    normalisation_chunks: int = Field(default=8, ge=1)
    """Even parts, in order, that `per_rank` cuts a batch into; at most one per rollout. The paper's run had 8 ranks. It does not
    depend on the ranks of this run."""
    normalisation_floor: float = Field(default=1e-3, ge=0)
    """Below this largest return, normalisation leaves the rewards alone (at the start, PRM = reference)."""
    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0 and variance 1 over all response tokens of the batch."""
    policy_loss: Literal["clip", "cispo"] = "clip"
    """`clip`: max(-A r, -A clip(r)), PPO. `cispo`: -A clip(r) log pi with the clipped ratio held, so that clipped tokens keep a gradient.
    r = policy / proximal probability."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """Lower side of the policy clip: ratios below 1 - clip_low are clipped; 1 means no lower side."""
    clip_high: float = Field(default=0.2, gt=0)
    """Upper side of the policy clip: ratios above 1 + clip_high are clipped."""
    dual_clip: float = Field(default=0.0, ge=0)
    """Dual clip c > 1: where the advantage A is negative, a token's loss is at most -c A. 0 means off."""
    correction: Literal["token", "sequence", "band", "none"] = "token"
    """Correction for rollouts of older weights, with w = proximal / behaviour probability: `token` weighs by min(w, importance_cap) per
    token, `sequence` by min(product of w, importance_cap) per response, `band` by w inside [band_low, band_high] and 0 outside."""
    importance_cap: float = Field(default=2.0, ge=1)
    """Truncated importance sampling: largest weight of a token or a sequence."""
    band_low: float = Field(default=0.5, gt=0, le=1)
    """Smallest weight that `correction = "band"` keeps."""
    band_high: float = Field(default=2.0, ge=1)
    """Largest weight that `correction = "band"` keeps."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL between policy and model.path. Above 0 the learner holds a frozen copy of that model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """With d = log pi - log pi_ref: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. In the loss k2 has the gradient of the KL; that of k1 is 0
    on average."""
    kl_in: Literal["loss", "reward"] = "loss"
    """`loss` adds kl_coefficient * KL per token to the loss; `reward` subtracts kl_coefficient * sum_t KL_t from the outcome reward."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus: this times the entropy of each token's distribution (nats, after temperature) comes off its loss."""
    aggregation: Literal["tokens", "sequences", "groups"] = "tokens"
    """What weighs the same in an optimizer step's loss: all response tokens, all rollouts, or all groups."""

    @property
    def needs_siblings(self) -> bool:
        """Whether rollouts are compared with the other rollouts of their group."""
        return self.estimator in ("rloo", "grpo")

    @property
    def needs_critic(self) -> bool:
        """Whether a learned value is the baseline."""
        return self.estimator == "ppo"

    @property
    def needs_greedy_baseline(self) -> bool:
        """Whether rollouts are compared with the policy's greedy response to their prompt."""
        return self.estimator == "remax"

    @model_validator(mode="after")
    def settings_fit_together(self) -> Self:
        problem = next((text for applies, text in self._contradictions() if applies), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        value = self.estimator == "prm_value"
        return (
            (
                self.process_weight == 0 and self.outcome_weight == 0,
                "algorithm.process_weight and algorithm.outcome_weight are both 0: there is nothing to learn from; set one above 0",
            ),
            (
                0 < self.dual_clip <= 1,
                f"algorithm.dual_clip ({self.dual_clip:g}) must be above 1, or 0 to turn it off: 3 is usual",
            ),
            (
                self.dual_clip > 0 and self.policy_loss == "cispo",
                f'algorithm.dual_clip ({self.dual_clip:g}) does nothing with algorithm.policy_loss = "cispo": set algorithm.dual_clip=0',
            ),
            (
                value and self.granularity == "sequence",
                'algorithm.estimator = "prm_value" needs a value per token, but algorithm.granularity = "sequence": '
                "set algorithm.granularity=token",
            ),
            (
                value and self.process_discount != 1,
                f'algorithm.estimator = "prm_value" takes values, not returns: algorithm.process_discount ({self.process_discount:g}) '
                "would do nothing; set algorithm.process_discount=1",
            ),
            (
                self.needs_critic and self.process_discount != self.outcome_discount,
                f'algorithm.estimator = "ppo" adds both rewards before it discounts them, but algorithm.process_discount '
                f"({self.process_discount:g}) and algorithm.outcome_discount ({self.outcome_discount:g}) differ: make them equal",
            ),
            (
                self.trace_decay != 1 and not self.needs_critic,
                f'algorithm.trace_decay ({self.trace_decay:g}) does nothing with algorithm.estimator = "{self.estimator}": only "ppo" has '
                "values to mix; set algorithm.trace_decay=1",
            ),
        )


class StalenessSection(Section):
    max_staleness: int = Field(default=1, ge=0)
    """S: no token of a trained rollout is older than S weight versions. 0 is the synchronous algorithm."""


class EndpointsSection(Section):
    """Where services reach each other. Port 0 lets `oprime train` and `oprime up` choose a free one."""

    coordinator: str = "127.0.0.1:0"
    """gRPC address of the coordinator."""
    generator: str = "127.0.0.1:0"
    """gRPC address of the generator; several replicas share one name."""
    verifier: str = "127.0.0.1:0"
    """gRPC address of the verifier; several replicas share one name."""
    prm: str = "127.0.0.1:0"
    """gRPC address of the PRM."""
    learner: str = "127.0.0.1:0"
    """gRPC address of the learner."""
    gateway: str = "127.0.0.1:0"
    """HTTP address of the gateway."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port on which coordinator, generator and verifier answer Prometheus at /metrics; 0 means not at all. For services with
    an address of their own; the gateway has /metrics beside its API."""
    reflection: bool = True
    """Whether gRPC servers describe their services to whoever asks (grpcurl and the like)."""
    bind: str = ""
    """Interface that services listen on, for example 0.0.0.0 in a container; empty means the address above."""

    @property
    def metrics_interface(self) -> str:
        return self.bind or "127.0.0.1"

    def listen(self, service: str) -> str:
        address: str = getattr(self, service)
        return f"{self.bind}:{address.rpartition(':')[2]}" if self.bind else address


class QueueSection(Section):
    url: str = "embedded"
    """`embedded` starts a Redis of the run's own; else a redis://, rediss:// or unix:// address."""
    password_file: Path | None = None
    """File with the password of Redis, if it needs one."""
    lease_s: float = Field(default=30.0, gt=0)
    """Seconds after which an entry whose worker went silent is given to another. Workers renew at a third of it."""
    max_deliveries: int = Field(default=3, ge=1)
    """An entry that failed this often becomes a dead letter."""

    @property
    def password(self) -> str | None:
        """The password in `password_file`. Raises SettingsError when the file cannot be read."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"queue.password_file ({self.password_file}) cannot be read: {error.strerror}") from error


class StoreSection(Section):
    url: str = ""
    """Where weight versions live: a directory or any fsspec URL; empty means RUN/weights."""
    keep_versions: int = Field(default=4, ge=2)
    """Newest versions to keep, besides those that a checkpoint or a replica needs."""


class ServiceSettings(BaseModel):
    """Base of a service's settings: the sections it declares as fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a run's TOML file. Raises SettingsError with file, setting, value and rule."""
        return cls.from_document(read_toml(path), origin=str(path))

    @classmethod
    def from_document(cls, document: dict[str, Any], *, origin: str) -> Self:
        unknown = sorted(set(document) - set(SECTIONS))
        if unknown:
            raise SettingsError(f"{origin}: unknown section [{unknown[0]}]; sections are {', '.join(SECTIONS)}")
        wanted = {name: section for name, section in document.items() if name in cls.model_fields}
        try:
            return cls.model_validate(wanted)
        except ValidationError as error:
            raise SettingsError(f"{origin}: {describe(error)}") from error


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"no settings file {path}: give the path of a TOML file, for example deploy/config/demo.toml") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from error


def describe(error: ValidationError) -> str:
    """One line per problem: setting, rule and the value that was given."""
    lines: list[str] = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name} = {problem['input']!r}: see docs/settings.md for the names")
        elif problem["type"] == "missing":
            lines.append(f"setting {name} is missing: add it (docs/settings.md)")
        else:
            given = f" (given: {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(line.lstrip(": ") for line in lines)
