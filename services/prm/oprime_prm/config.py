"""Settings of the implicit PRM."""

from typing import Literal

from pydantic import Field

from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    QueueSection,
    RunSection,
    SamplingSection,
    ServiceSettings,
    StoreSection,
)
from oprime.runtime.training_settings import TrainerSection


class PrmSection(TrainerSection):
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW (paper, section 4.1)."""
    gradient_clip: float = Field(default=10.0, gt=0)
    """Largest gradient norm."""
    beta: float = Field(default=0.05, gt=0)
    """Scale that turns a log-probability ratio into a reward (paper, Eq. 3)."""
    update: Literal["double_forward", "single_forward", "reverse", "offline"] = "double_forward"
    """`double_forward` updates, then scores with the new version; `single_forward` scores with the version before the
    update; `reverse` does too, and gathers from those scores the statistics that pair losses need; `offline` never updates."""
    loss: Literal["ce", "dpo", "bon_acc", "bon_rm"] = "ce"
    """Loss on outcomes, a mean over rollouts. `ce`: cross-entropy of r_o and sigmoid(sum_t r_t) (paper, Eq. 4). `dpo`: -log sigmoid(score -
    mean score of siblings of lower outcome), or below an outcome of 1/2 -log sigmoid(mean score of siblings of higher outcome - score), the
    siblings' side detached (appendix C.2). `bon_acc` and `bon_rm` weigh it by K * (share of the group no better)^(K - 1), ranked by outcome
    or by score. All but `ce` need update = "reverse"."""
    reference: Literal["sft", "policy"] = "sft"
    """pi_ref of Eq. 3. `sft`: a frozen model. `policy`: the log-probs with which each rollout was sampled; needs temperature 1. Score
    requests are answered with the frozen model in both cases."""
    initial_model: str = ""
    """Start the PRM from this model instead of model.path; also one that was trained offline."""
    reference_model: str = ""
    """The frozen model of reference = "sft"; empty means the model that the PRM starts from. A PRM that was trained offline needs the
    model that it was trained from."""
    sampled_groups: int = Field(default=1, ge=0)
    """Groups per step whose rollouts are kept, with their process rewards, in RUN/samples."""
    max_score_items: int = Field(default=256, ge=1)
    """Most responses in one Score request."""


class PrmSettings(ServiceSettings):
    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    store: StoreSection = StoreSection()
    prm: PrmSection = PrmSection()
