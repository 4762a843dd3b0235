"""What a train step computes besides the files that settings choose: each formula once, for `oprime explain` and docs/algorithm.md.

Loads no torch. Symbols of docs/algorithm.md; the settings that a symbol stands for have their section before them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from oprime.core.aggregation import AGGREGATION_FORMULAS
from oprime.core.kl import KL_FORMULAS
from oprime.core.one_file import Formula


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFormula:
    """The formulas of one thing: by what chooses between them, or one under an empty name."""

    about: str
    by_value: Mapping[str, Formula]
    function: str
    """The file below shared/oprime/core, and the function in it."""
    settings: tuple[str, ...] = ()


def _always(text: str, symbols: Mapping[str, str] | None = None) -> Mapping[str, Formula]:
    return {"": Formula(text=text, symbols=symbols or {})}


OVERLONG = StepFormula(
    about="over-long penalty (DAPO, arXiv 2503.14476, Eq. 13)",
    by_value=_always(
        "r_o := r_o - p min(max(|y| - (L - c), 0), c) / c, |y| the tokens of the response, before any baseline",
        {"p": "algorithm.overlong_penalty", "L": "sampling.max_response_tokens", "c": "algorithm.overlong_buffer"},
    ),
    function="overlong.py: overlong_penalties",
)
PROCESS_REWARD = StepFormula(
    about="process reward (Eq. 3)",
    by_value=_always("r_t = b (log pi_phi(y_t) - log pi_ref(y_t)), the end token included", {"b": "prm.beta"}),
    function="implicit_reward.py: token_process_rewards",
    settings=("prm.beta", "prm.reference", "prm.initial_model", "prm.reference_model", "prm.score_dtype"),
)
CREDIT = StepFormula(
    about="credit (min: PURE, arXiv 2504.15275)",
    by_value={
        "sum": Formula(text="r_t as it is, so that a response's credit is the sum of its tokens'"),
        "min": Formula(
            text="r_t := r_t exp(-r_t / u) / sum_s exp(-r_s / u), so that a response's credit is nearly the smallest of its tokens'",
            symbols={"u": "algorithm.credit_temperature"},
        ),
    },
    function="process_credit.py: minimum_form",
    settings=("algorithm.process_credit",),
)
GRANULARITY = StepFormula(
    about="granularity",
    by_value={
        "token": Formula(text="r_t on every token"),
        "sequence": Formula(text="r_T := sum_t r_t on the last token, 0 before it; m_i = r_T"),
    },
    function="implicit_reward.py: sequence_process_rewards",
    settings=("algorithm.granularity",),
)
_FLOOR = {"f": "algorithm.normalisation_floor", "q": "algorithm.normalisation_noise"}
_SCALED = (
    "r_t := r_t / (max over {where} of |sum_{{s>=t}} r_s| + 1e-6), left alone while that maximum is below max(f, q e), e the same maximum "
    "of the rounding noise where that is measured"
)
NORMALISATION = StepFormula(
    about="normalisation",
    by_value={
        "batch_norm": Formula(text=_SCALED.format(where="the batch"), symbols=_FLOOR),
        "per_rank": Formula(
            text=_SCALED.format(where="each of n even parts of the batch"),
            symbols={"n": "algorithm.normalisation_chunks", **_FLOOR},
        ),
        "none": Formula(text="none"),
    },
    function="implicit_reward.py: normalisation_scale, chunk_scales",
    settings=("algorithm.process_normalisation",),
)
_WEIGHTS = {"w_p": "algorithm.process_weight", "w_o": "algorithm.outcome_weight"}
WEIGHTED = StepFormula(
    about="advantage, where the estimator gives parts",
    by_value={
        "both": Formula(text="A_t = w_p P_t + w_o O_t", symbols=_WEIGHTS),
        "process": Formula(text="A_t = w_p P_t", symbols={"w_p": _WEIGHTS["w_p"]}),
        "outcome": Formula(text="A_t = w_o O_t", symbols={"w_o": _WEIGHTS["w_o"]}),
    },
    function="advantage.py: weighted",
)
WHITENING = StepFormula(
    about="whitening",
    by_value={
        "guarded": Formula(
            text="(A_t - mean) / sqrt(variance + 1e-8) over all response tokens of the batch, times min(1, w_o std(O) / (f w_p std(P)))",
            symbols={"f": "algorithm.whitening_guard"},
        ),
        "plain": Formula(text="(A_t - mean) / sqrt(variance + 1e-8) over all response tokens of the batch"),
    },
    function="masked.py: masked_whiten; advantage.py: whitening_factor",
    settings=("algorithm.whiten_advantages",),
)
VALUE_LOSS = StepFormula(
    about="critic loss",
    by_value={
        "clipped": Formula(
            text="1/2 max((V - R)^2, (V_before + clip(V - V_before, -c, c) - R)^2), R = A_t before whitening + V_before, weighed per token "
            "as the policy loss",
            symbols={"c": "critic.value_clip"},
        ),
        "free": Formula(text="1/2 (V - R)^2, R = A_t before whitening + V_before, weighed per token as the policy loss"),
    },
    function="critic.py: value_loss",
    settings=("critic.updates_per_batch", "critic.learning_rate"),
)
CORRECTED = StepFormula(
    about="correction for old weights",
    by_value=_always("L_t := w L_t, w of the file that algorithm.correction names"),
    function="importance.py: importance_weights",
)
KL = StepFormula(
    about="KL to the start",
    by_value={
        name: Formula(
            text=f"KL_t = {text}, d = log pi_theta - log pi_start" + (" (as a loss its gradient is 0 on average)" * (name == "k1"))
        )
        for name, text in KL_FORMULAS.items()
    },
    function="kl.py: token_kl",
    settings=("algorithm.kl_estimator",),
)
KL_APPLIED = StepFormula(
    about="... in the loss, or in the reward",
    by_value={
        "loss": Formula(text="L_t := L_t + k KL_t", symbols={"k": "algorithm.kl_coefficient"}),
        "reward": Formula(
            text="r_o := r_o - k sum_t KL_t, before any baseline, pi_theta as the step begins", symbols={"k": "algorithm.kl_coefficient"}
        ),
    },
    function="policy_loss.py: policy_loss; kl.py: outcome_rewards_less_kl",
    settings=("algorithm.kl_in",),
)
ENTROPY_BONUS = StepFormula(
    about="entropy bonus",
    by_value=_always(
        "L_t := L_t - h H_t, H_t = -sum_v pi_theta(v) log pi_theta(v) over the vocabulary", {"h": "algorithm.entropy_coefficient"}
    ),
    function="policy_loss.py: policy_loss",
)
AGGREGATION = StepFormula(
    about="policy loss",
    by_value={
        name: Formula(text=text, symbols={"M": "algorithm.constant_tokens"} if name == "constant" else {})
        for name, text in AGGREGATION_FORMULAS.items()
    },
    function="aggregation.py: token_shares",
    settings=("algorithm.aggregation",),
)

TRUNCATED = StepFormula(
    about="truncated responses (DAPO's over-long filtering)",
    by_value=_always(
        "L_t := 0 for responses that were cut at the token limit, and the policy loss counts tokens and rollouts without them"
    ),
    function="aggregation.py: token_shares",
    settings=("algorithm.mask_truncated",),
)

STEP_FORMULAS = (
    OVERLONG, PROCESS_REWARD, CREDIT, GRANULARITY, NORMALISATION, WEIGHTED, WHITENING, VALUE_LOSS, CORRECTED, KL, KL_APPLIED, ENTROPY_BONUS,
    TRUNCATED, AGGREGATION,
)  # fmt: skip
"""In the order of a step."""
