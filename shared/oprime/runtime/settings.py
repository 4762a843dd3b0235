"""The sections of a run's TOML file that several services read, and how a service reads them.

A service declares the sections it needs as a subclass of `ServiceSettings`; sections of other services are passed over,
unknown ones are refused, and so are settings that contradict each other (`setting_rules`). `oprime_cli.run_config` puts all sections
together.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oprime.core import corrections, estimators, policy_losses
from oprime.core.advantage import Choices, Estimator, Need
from oprime.core.aggregation import AGGREGATION_FORMULAS
from oprime.core.importance import Correction
from oprime.core.kl import KL_FORMULAS
from oprime.core.policy_loss import PolicyLoss
from oprime.runtime.errors import SettingsError, did_you_mean
from oprime.runtime.one_file_settings import Folders, a_file_of, chosen_from, idle_settings, with_own_settings
from oprime.runtime.queue_url import without_password
from oprime.runtime.secret_files import read_secret
from oprime.runtime.setting_rules import SHARED_RULES, Rule

SECTIONS = (
    "run", "model", "tasks", "sampling", "algorithm", "staleness", "endpoints", "queue", "payloads", "store",
    "coordinator", "generator", "verifier", "prm", "scoring", "learner", "critic", "gateway", "sft", "offline_prm",
    "kubernetes", "tracking",
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
    evaluate_on: tuple[str, ...] = ()
    """Benchmarks to evaluate on besides, before, during and after training: names of `oprime eval list`, or files in a format of
    docs/tasks.md. The run's generators sample them aside from training."""
    evaluate_on_every: int = Field(default=50, ge=0)
    """Evaluate on them every so many steps, besides before and after; 0 means only then."""
    evaluate_on_samples: int = Field(default=1, gt=0)
    """Responses to each of their problems; 1 is greedy."""
    evaluate_on_data: tuple[str, ...] = ()
    """Where the files of benchmarks are: folders, or BENCHMARK=FILE (docs/evaluation.md)."""
    checkpoint_every: int = Field(default=10, gt=0)
    """Save a checkpoint every so many steps, and after the last."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Number of newest complete checkpoints to keep."""
    heartbeat_s: float = Field(default=1.0, gt=0)
    """Seconds between two status reports of a service."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What services log: `debug` has a line for each rollout, `info` one for each group, batch and step."""
    when_finished: Literal["exit", "serve"] = "serve"
    """What services that containers or pods start do once the run has finished: `exit` ends each with code 0 when it has nothing left to
    do, the coordinator last; `serve` keeps them up, so that the gateway goes on scoring. `oprime train` and `oprime up` stop theirs."""

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


class ProseSection(Section):
    """The built-in task in words: word problems and small functions by turns (see `oprime.tasks.prose`)."""

    teacher_seed: int = Field(default=7, ge=0)
    """Seed of the teacher's misconceptions."""
    train_problems: int = Field(default=100_000, gt=0)
    """Size of the training set."""
    heldout_problems: int = Field(default=256, gt=0)
    """Size of the held-out set."""


class TasksSection(Section):
    source: Literal["chain", "prose", "rows"] = "rows"
    """`chain` and `prose` are built-in tasks (docs/tasks.md); `rows` reads files."""
    train: str = ""
    """JSONL or parquet file, or `hf://datasets/OWNER/NAME/FILE`, with training rows."""
    heldout: str = ""
    """The same for held-out rows."""
    reader: str = ""
    """What makes tasks of rows: `eurus`, `question_answer` (docs/tasks.md), or a reader of your own, `module:NAME` or
    `path/to/file.py:NAME` (docs/extending.md). Empty recognises each file by its first row."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, and count them, instead of stopping."""
    chain: ChainSection = ChainSection()
    """Settings of `source = "chain"`."""
    prose: ProseSection = ProseSection()
    """Settings of `source = "prose"`."""


class SamplingSection(Section):
    group_size: int = Field(default=4, ge=1)
    """K, the number of responses per prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature. The policy that is trained is the one that samples: its log-probs, entropy and KL are those after it, like the
    behaviour log-probs. PRM and held-out accuracy are at temperature 1."""
    max_prompt_tokens: int = Field(default=1024, gt=0)
    """Longer training prompts are passed over when their turn comes, and counted; a longer held-out prompt is refused at the start."""
    max_response_tokens: int = Field(default=3072, gt=0)
    """Responses are cut at this length. With `max_prompt_tokens` it may be as large as the model's context (max_position_embeddings);
    generator and trainers refuse more before anything is sampled."""

    @property
    def most_tokens(self) -> int:
        """Of a prompt and its response."""
        return self.max_prompt_tokens + self.max_response_tokens


ALGORITHM_FILES: Folders = {"estimator": estimators, "policy_loss": policy_losses, "correction": corrections}
"""The settings of [algorithm] whose values are files."""


class CommonAlgorithmSection(Section):
    """Settings of [algorithm] that do not belong to single files."""

    estimator: Annotated[str, a_file_of(estimators)] = chosen_from(estimators, default="rloo", meaning="Advantage estimator.")
    process_weight: float = Field(default=1.0, ge=0)
    """Weight of the process rewards' return; 0 trains on outcomes alone, without the PRM service."""
    outcome_weight: float = Field(default=1.0, ge=0)
    """Weight of the outcome rewards' return."""
    process_discount: float = Field(default=1.0, ge=0, le=1)
    """Discount gamma of process rewards."""
    outcome_discount: float = Field(default=1.0, ge=0, le=1)
    """Discount gamma of the outcome reward."""
    granularity: Literal["token", "sequence"] = "token"
    """`token` rewards every response token (Eq. 3); `sequence` puts their sum on the last token."""
    process_credit: Literal["sum", "min"] = "sum"
    """`sum` takes process rewards as they are, so that a token is paid for all that follow it; `min` weighs them so that their sum is
    nearly the smallest, before granularity and normalisation: one good token cannot pay for a bad one."""
    credit_temperature: float = Field(default=0.1, gt=0)
    """Temperature of `process_credit = "min"`, in the units of process rewards before normalisation (beta included): the lower, the nearer
    to the smallest reward."""
    process_normalisation: Literal["batch_norm", "per_rank", "none"] = "batch_norm"
    """`batch_norm` divides process rewards by the largest absolute process return of the whole batch; `per_rank` does so in each of
    `normalisation_chunks` parts of the batch, as the released code does on every rank for itself."""
    normalisation_chunks: int = Field(default=8, ge=1)
    """Even parts, in order, that `per_rank` cuts a batch into; at most one per rollout. The paper's run had 8 ranks. It does not
    depend on the ranks of this run."""
    normalisation_floor: float = Field(default=1e-3, ge=0)
    """Below this largest return, normalisation leaves the rewards alone (at the start, PRM = reference)."""
    normalisation_noise: float = Field(default=3.0, ge=0)
    """Where the PRM measures the rounding noise of its rewards (prm.measure_noise_every), the floor is at least so many times the largest
    return that noise alone has in the rollouts on which it was measured; 0 leaves the floor as it is. The batch has more rollouts, whose
    largest is larger: 2 times for a hundred times as many."""
    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0 and variance 1 over all response tokens of the batch."""
    whitening_guard: float = Field(default=0.1, ge=0)
    """f of min(1, w_o std(O) / (f w_p std(P))), by which whitened advantages are multiplied: where outcomes hardly vary over the batch, as
    without the prompt filter, whitening would make what the PRM says, noise included, the whole gradient. 0 turns it off."""
    overlong_buffer: int = Field(default=0, ge=0)
    """c of DAPO's soft over-long penalty: within so many tokens of sampling.max_response_tokens the outcome reward falls evenly, by
    `overlong_penalty` at the limit itself. 0 means off. Filter and PRM see the verifier's outcomes as they are."""
    overlong_penalty: float = Field(default=1.0, gt=0)
    """p of the over-long penalty: what a response of sampling.max_response_tokens loses."""
    mask_truncated: bool = False
    """Whether responses that were cut at the token limit have no loss (DAPO's over-long filtering). They stay in all statistics: in their
    siblings' baselines, normalisation and whitening, and in what the PRM learns from; tokens and rollouts of the loss are counted without
    them. Groups with such responses must pass (coordinator.filter.drop_truncated off)."""
    policy_loss: Annotated[str, a_file_of(policy_losses)] = chosen_from(
        policy_losses, default="clip", meaning="Loss of a token, with the ratio of policy to proximal probability."
    )
    correction: Annotated[str, a_file_of(corrections)] = chosen_from(
        corrections, default="token", meaning="Correction for rollouts of older weights: the weight w = proximal / behaviour probability."
    )
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL between policy and model.path. Above 0 the learner holds a frozen copy of that model."""
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        default="k3",
        description=f"With d = log pi - log pi_ref: {', '.join(f'{name} = {text}' for name, text in KL_FORMULAS.items())}. In the loss k2 "
        "has the gradient of the KL; that of k1 is 0 on average.",
    )
    kl_in: Literal["loss", "reward"] = "loss"
    """`loss` adds kl_coefficient * KL per token to the loss; `reward` subtracts kl_coefficient * sum_t KL_t from the outcome reward."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus: this times the entropy of each token's distribution (nats, after temperature) comes off its loss."""
    aggregation: Literal["tokens", "sequences", "sequence_sums", "constant", "groups"] = Field(
        default="tokens",
        description="What weighs the same in an optimizer step's loss: all response tokens, all rollouts, or all groups. With "
        "`sequence_sums` and `constant` every token of every batch weighs the same, however long responses are. "
        + ". ".join(f"`{name}`: {text}" for name, text in AGGREGATION_FORMULAS.items())
        + ", with L_t the loss of a token.",
    )
    constant_tokens: int = Field(default=0, ge=0)
    """M of `aggregation = "constant"`, tokens: usually sampling.max_response_tokens. Needed for it, and only for it."""


class AlgorithmSection(with_own_settings(CommonAlgorithmSection, ALGORITHM_FILES)):
    """The RL algorithm; see docs/algorithm.md for each equation."""

    @property
    def chosen_estimator(self) -> Estimator:
        return estimators.named(self.estimator).with_settings(dict(self))

    @property
    def chosen_policy_loss(self) -> PolicyLoss:
        return policy_losses.named(self.policy_loss).with_settings(dict(self))

    @property
    def chosen_correction(self) -> Correction:
        return corrections.named(self.correction).with_settings(dict(self))

    @property
    def choices(self) -> Choices:
        """What every estimator sees of these settings."""
        return Choices(
            process_weight=self.process_weight,
            outcome_weight=self.outcome_weight,
            process_discount=self.process_discount,
            outcome_discount=self.outcome_discount,
        )

    @property
    def needs_siblings(self) -> bool:
        """Whether rollouts are compared with the other rollouts of their group."""
        return Need.SIBLINGS in self.chosen_estimator.needs

    @property
    def needs_prm(self) -> bool:
        """Whether process rewards are part of the advantages; every estimator multiplies them by their weight, `prm_value` too."""
        return self.process_weight > 0

    @property
    def guards_whitening(self) -> bool:
        """Whether whitening is held back where outcomes do not vary: with rewards of both kinds."""
        return self.whiten_advantages and self.whitening_guard > 0 and self.process_weight > 0 and self.outcome_weight > 0

    @property
    def needs_critic(self) -> bool:
        """Whether a learned value is the baseline."""
        return Need.CRITIC in self.chosen_estimator.needs

    @property
    def needs_greedy_baseline(self) -> bool:
        """Whether rollouts are compared with the policy's greedy response to their prompt."""
        return Need.GREEDY_RESPONSE in self.chosen_estimator.needs

    @model_validator(mode="after")
    def settings_fit_together(self) -> Self:
        problems = [
            *self._weights_that_do_nothing(),
            *self._credit_problems(),
            *self._constant_problems(),
            *self._overlong_problems(),
            *idle_settings(self, "algorithm", ALGORITHM_FILES),
        ]
        for choice in (self.chosen_estimator, self.chosen_policy_loss, self.chosen_correction):
            problems += choice.contradictions()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _constant_problems(self) -> list[str]:
        tokens, aggregation = self.constant_tokens, self.aggregation
        if aggregation == "constant" and tokens == 0:
            return [
                'algorithm.aggregation = "constant" divides by algorithm.constant_tokens, which is 0: set it to what never changes, '
                "such as sampling.max_response_tokens"
            ]
        if aggregation != "constant" and tokens > 0:
            return [
                f'algorithm.constant_tokens ({tokens}) does nothing with algorithm.aggregation = "{aggregation}": set '
                "algorithm.constant_tokens=0, or algorithm.aggregation=constant"
            ]
        return []

    def _credit_problems(self) -> list[str]:
        if self.process_credit == "min" or self.credit_temperature == type(self).model_fields["credit_temperature"].default:
            return []
        return [
            f'algorithm.credit_temperature ({self.credit_temperature:g}) does nothing with algorithm.process_credit = "sum": set '
            "algorithm.process_credit=min"
        ]

    def _overlong_problems(self) -> list[str]:
        buffer, penalty = self.overlong_buffer, self.overlong_penalty
        if buffer == 0 and penalty != 1:
            return [f"algorithm.overlong_penalty ({penalty:g}) does nothing with algorithm.overlong_buffer = 0: set the buffer, in tokens"]
        if buffer > 0 and self.outcome_weight == 0:
            return [
                f"algorithm.overlong_buffer ({buffer}) does nothing with algorithm.outcome_weight = 0: the penalty comes off the outcome; "
                "set algorithm.overlong_buffer=0"
            ]
        return []

    def _weights_that_do_nothing(self) -> list[str]:
        if self.process_weight == 0 and self.outcome_weight == 0:
            return ["algorithm.process_weight and algorithm.outcome_weight are both 0: there is nothing to learn from; set one above 0"]
        weights: dict[Literal["process", "outcome"], float] = {"process": self.process_weight, "outcome": self.outcome_weight}
        return [
            f'algorithm.{source}_weight ({weight:g}) does nothing with algorithm.estimator = "{self.estimator}", which takes no {source} '
            f"rewards: set algorithm.{source}_weight=0"
            for source, weight in weights.items()
            if weight > 0 and not self.chosen_estimator.takes(source)
        ]


class StalenessSection(Section):
    max_staleness: int = Field(default=1, ge=0)
    """S: no token of a trained rollout is older than S weight versions. 0 is the synchronous algorithm."""


class TlsSection(Section):
    """Certificates, as PEM files. They are read anew when they change, so that renewing them needs no restart."""

    certificate_file: Path | None = None
    """Certificate that is shown to the other side, with those between it and its authority."""
    key_file: Path | None = None
    """The certificate's private key, unencrypted; only this user should be able to read it."""
    authority_file: Path | None = None
    """Certificates of the authorities that the other side's certificate must be from."""

    @property
    def files(self) -> dict[str, Path]:
        """The files that are named, by setting."""
        return {name: path for name in TlsSection.model_fields if (path := getattr(self, name)) is not None}


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
    scorers: tuple[str, ...] = ()
    """gRPC addresses of the replicas that only score (`scoring.replicas`), one each, or a name that all of them share. Empty lets `oprime
    train` and `oprime up` choose free ports of 127.0.0.1."""
    learner: str = "127.0.0.1:0"
    """gRPC address of the learner."""
    gateway: str = "127.0.0.1:0"
    """HTTP address of the gateway."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port on which every service answers /metrics (Prometheus), /healthz (alive) and /readyz (ready for work); 0 means not at all. Where
    services share a machine (`oprime train`, `oprime up`) they take this port and those after it, and RUN.scrape.json tells Prometheus
    who has which."""
    traces_url: str = ""
    """Collector that takes traces over OTLP by gRPC, http://HOST:PORT or, encrypted, https://HOST:PORT; empty means no traces."""
    traces_share: float = Field(default=1.0, gt=0, le=1)
    """Share of prompts, evaluations and requests that are traced, each whole or not at all."""
    reflection: bool = True
    """Whether gRPC servers describe their services to whoever asks (grpcurl and the like)."""
    bind: str = ""
    """Interface that services listen on, for example 0.0.0.0 in a container; empty means the address above."""
    insecure: bool = False
    """Let gRPC servers listen where other machines reach them without `tls`. Whoever reaches them can then use them: for networks that
    hold nobody but the run, such as an internal network of containers. The gateway needs keys all the same."""
    tls: TlsSection = TlsSection()
    """mTLS between services: all three files, or none. Whoever has a certificate of the authority counts as a service of the run, so the
    authority should be the run's own. Certificates must have the names in the addresses above."""

    @property
    def metrics_interface(self) -> str:
        return self.bind or "127.0.0.1"

    def listen(self, service: str) -> str:
        return self.listen_at(getattr(self, service))

    def listen_at(self, address: str) -> str:
        """Where the server behind `address` listens."""
        return f"{self.bind}:{address.rpartition(':')[2]}" if self.bind else address

    def local(self, service: str) -> str:
        """Where programs on the service's own machine find it: with certificates, by the name that is in them."""
        return getattr(self, service) if self.tls.files and service != "gateway" else self.listen(service)


PLACEHOLDER = "{service}"
"""What stands for a service's name in [queue]."""


class QueueSection(Section):
    url: str = "embedded"
    """`embedded` starts a Redis of the run's own; else the address of one that evicts nothing (maxmemory-policy noeviction): redis://,
    rediss:// (encrypted) or unix://, with the number of a database at its end, and options such as ?ssl_ca_certs=/path/ca.pem."""
    username: str = Field(default="", pattern=r"^[A-Za-z0-9_.{}-]*$")
    """User of Redis that the password belongs to; empty means the default one. `{service}` stands for the service's name (coordinator,
    generator, verifier, prm, learner; operator for commands): `oprime redis-acl` makes such users."""
    password_file: Path | None = None
    """File with the password of Redis, if it needs one. `{service}` stands for the service's name, as above."""
    tls: TlsSection = TlsSection()
    """For rediss://: the authority of Redis's certificate (empty: the public ones), and the certificate and key to show it, if it asks."""
    lease_s: float = Field(default=30.0, gt=0)
    """Seconds after which an entry whose worker went silent is given to another. Workers renew at a third of it."""
    max_deliveries: int = Field(default=3, ge=1)
    """An entry that failed this often becomes a dead letter."""

    @property
    def password(self) -> str | None:
        """The password in `password_file`. Raises SettingsError when the file cannot be read."""
        if self.password_file is None:
            return None
        return read_secret(self.password_file, "queue.password_file").decode("utf-8", "surrogateescape")

    def as_user(self, service: str) -> "QueueSection":
        """The same with a service's name for `{service}`."""
        path = self.password_file
        return self.model_copy(
            update={
                "username": self.username.replace(PLACEHOLDER, service),
                "password_file": path and Path(str(path).replace(PLACEHOLDER, service)),
            }
        )


class PayloadsSection(Section):
    store: str = "redis"
    """Where rollouts, tests of tasks and token rewards are while they are under way. `redis` keeps them in the memory of the queue's
    server: simple, and right while the batches under way fit into it. For larger runs, the absolute path of a directory that all
    services see, or a URL (s3://BUCKET/FOLDER, gs://, or another kind that fsspec has a package for). A rollout takes about 12 bytes a
    token: 256 prompts x 16 rollouts x 32,768 tokens are 1.6 GB a batch."""

    @property
    def directory(self) -> Path | None:
        """The directory that `store` names; None if it is `redis` or a URL."""
        scheme, separator, rest = self.store.rpartition("://")
        return Path(rest) if (not separator and self.store != "redis") or scheme in ("file", "local") else None


class StoreSection(Section):
    url: str = ""
    """Where weight versions live: a directory or any fsspec URL; empty means RUN/weights."""
    keep_versions: int = Field(default=4, ge=2)
    """Newest versions to keep, besides those that a checkpoint or a replica needs."""
    transfer: Literal["store", "nccl"] = "store"
    """How weights reach generators. `store`: they fetch each version from the store. `nccl`: the learner also sends it from GPU to GPU,
    with vLLM's weight transfer, and the store serves those that miss it. For generators with backend "vllm"; the learner needs the package
    vllm too, and endpoints.learner must name an address of its machine that generators reach. Not yet run on GPUs."""
    full_every: int = Field(default=1, ge=1)
    """Store every so manyth version whole and the others as what changed: less to write and to fetch where the store is on a network, at
    the cost of a whole copy in the cache of each machine ($XDG_CACHE_HOME/oprime, else ~/.cache/oprime). 1 stores all of them whole."""


class TrackingSection(Section):
    """Trackers that a run's numbers, tables and settings also go to. None can stop a run."""

    tensorboard: Literal["auto", "on", "off"] = "auto"
    """TensorBoard: event files in RUN/tracking/tensorboard. `auto` writes them where the package tensorboard is installed."""
    wandb: bool = False
    """Weights & Biases. Without a login (WANDB_API_KEY, or `wandb login`), or with offline, in RUN/tracking/wandb, for `wandb sync`."""
    mlflow: bool = False
    """MLflow, at mlflow_url."""
    mlflow_url: str = ""
    """MLflow's tracking server, such as http://mlflow:5000; empty means MLFLOW_TRACKING_URI, or else files in RUN/tracking/mlflow."""
    trackio: bool = False
    """trackio, in its own local database (`trackio show`)."""
    project: str = Field(default="oprime", min_length=1)
    """Name under which trackers put runs together: project, experiment."""
    offline: bool = False
    """Nothing is sent over the network: wandb and MLflow keep files."""
    rows: int = Field(default=32, ge=0)
    """Rows of a table: held-out problems of an evaluation, sampled rollouts; 0 sends no tables."""


class ServiceSettings(BaseModel):
    """Base of a service's settings: the sections it declares as fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ClassVar[str] = ""
    """The service whose settings these are, as a user of the queue."""
    run: RunSection

    rules: ClassVar[tuple[Rule, ...]] = SHARED_RULES
    """What is checked beyond single sections. A rule about a section that the service does not read is passed over."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a run's TOML file. Raises SettingsError with file, setting, value and rule."""
        return cls.from_document(read_toml(path), origin=str(path))

    @classmethod
    def from_document(cls, document: dict[str, Any], *, origin: str) -> Self:
        """Read and check a document. Raises SettingsError with every contradiction between settings."""
        settings = cls.read(document, origin=origin)
        problems = settings.contradictions()
        if problems:
            raise SettingsError(f"{origin}: {'; '.join(problems)}")
        queue: QueueSection | None = getattr(settings, "queue", None)
        return settings.model_copy(update={"queue": queue.as_user(cls.service)}) if queue and cls.service else settings

    @classmethod
    def read(cls, document: dict[str, Any], *, origin: str) -> Self:
        """Read a document section by section, contradictions between them unchecked."""
        unknown = sorted(set(document) - set(SECTIONS))
        if unknown:
            meant = did_you_mean(unknown[0], SECTIONS)
            raise SettingsError(f"{origin}: unknown section [{unknown[0]}]{meant}; sections are {', '.join(SECTIONS)}")
        wanted = {name: section for name, section in document.items() if name in cls.model_fields}
        try:
            return cls.model_validate(wanted)
        except ValidationError as error:
            raise SettingsError(f"{origin}: {describe(error, cls)}") from error

    def contradictions(self) -> list[str]:
        """What contradicts each other, a sentence each: settings, values, rule and remedy."""
        problems: list[str] = []
        for rule in self.rules:
            sections = {name: getattr(self, name, None) for name in signature(rule).parameters}
            if None not in sections.values():
                problems += rule(**sections)
        return problems


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"no settings file {path}: give the path of a TOML file, for example deploy/config/demo.toml") from error
    except IsADirectoryError as error:
        raise SettingsError(f"{path} is a folder: give the path of a TOML file; a run's settings are in its config.toml") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from error


SECRET_NAME = re.compile(r"(^|\.)(\w*(password|secret|api_?keys?)|((access|auth|bearer)_)?token)$", re.IGNORECASE)


def describe(error: ValidationError, settings: type[BaseModel] | None = None) -> str:
    """One line per problem: setting, rule and the value that was given, unless that may be a secret. `settings` knows the right names."""
    lines: list[str] = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden" and SECRET_NAME.search(name):
            lines.append(f"unknown setting {name}: secrets come from files, so name one in queue.password_file or gateway.api_keys_file")
        elif problem["type"] == "extra_forbidden":
            meant = did_you_mean(str(problem["loc"][-1]), _names_beside(settings, problem["loc"]))
            lines.append(f"unknown setting {name} = {problem['input']!r}{meant}: see docs/settings.md for the names")
        elif problem["type"] == "missing":
            lines.append(f"setting {name} is missing: add it (docs/settings.md)")
        else:
            value = problem["input"]
            shown = without_password(value) if isinstance(value, str) else value
            given = f" (given: {shown!r})" if not isinstance(value, dict) else ""
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(line.lstrip(": ") for line in lines)


def _names_beside(settings: type[BaseModel] | None, place: Sequence[str | int]) -> Iterable[str]:
    """Names of the section that `place` is in."""
    for part in place[:-1]:
        field = settings.model_fields.get(str(part)) if settings else None
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        settings = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return settings.model_fields if settings else ()
