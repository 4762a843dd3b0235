"""PPO: generalised advantage estimation over a critic's values, on the sum of both rewards. `core/critic.py` has how a critic learns."""

from collections.abc import Iterator

from jaxtyping import Bool, Float

from oprime.core.advantage import AdvantageTerm, Choices, Estimate, Estimator, Need, Rewards, returns_of_sources
from oprime.core.checked import checked
from oprime.core.masked import at_last_token
from oprime.core.one_file import OwnSetting
from oprime.core.tensors import Tensor


def ppo(rewards: Rewards, choices: Choices, *, trace_decay: float) -> Estimate:
    """Raises ValueError without values."""
    discount = choices.outcome_discount
    value = rewards.required_values().where(rewards.is_trained, 0.0)
    advantages = generalised_advantages(
        token_rewards(rewards, choices), value, rewards.is_trained, discount=discount, trace_decay=trace_decay
    )
    return Estimate(
        advantages=advantages,
        # The estimate is linear in the rewards, and each source's part of it is its return, discounted by gamma lambda.
        sources=returns_of_sources(rewards, rewards.process, rewards.outcome, discount * trace_decay, discount * trace_decay),
        value_targets=(advantages + value).where(rewards.is_trained, 0.0),
    )


@checked
def token_rewards(rewards: Rewards, choices: Choices) -> Float[Tensor, "rollout token"]:
    """One reward per token of both sources."""
    outcome = at_last_token(rewards.outcome, rewards.is_trained)
    process = rewards.process.where(rewards.rewarded & rewards.is_trained, 0.0)
    return choices.process_weight * process + choices.outcome_weight * outcome


@checked
def generalised_advantages(
    rewards: Float[Tensor, "rollout token"],
    values: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    *,
    discount: float,
    trace_decay: float,
) -> Float[Tensor, "rollout token"]:
    """`values[t]` is V of what precedes token t. A response is one contiguous run of tokens; whatever stands outside it counts as 0."""
    reward, value = rewards.where(is_trained, 0.0), values.where(is_trained, 0.0)
    result = value.new_zeros(value.shape)
    next_value, ahead = value.new_zeros(len(value), 1), value.new_zeros(len(value), 1)
    for token in range(value.shape[1] - 1, -1, -1):
        here = slice(token, token + 1)
        delta = reward[:, here] + discount * next_value - value[:, here]
        ahead = (delta + discount * trace_decay * ahead).where(is_trained[:, here], 0.0)
        next_value = value[:, here]
        result[:, here] = ahead
    return result


def contradictions(*, process_discount: float, outcome_discount: float) -> Iterator[str]:
    if process_discount != outcome_discount:
        yield (
            f'algorithm.estimator = "ppo" adds both rewards before it discounts them, but algorithm.process_discount '
            f"({process_discount:g}) and algorithm.outcome_discount ({outcome_discount:g}) differ: make them equal"
        )


ESTIMATOR = Estimator(
    about="PPO, generalised advantage estimation over a critic",
    source="arXiv 1506.02438, arXiv 1707.06347",
    formulas=(
        AdvantageTerm(
            term="token reward",
            text="e_t = w_p r_t, and w_o r_o besides at the last token T",
            symbols={"w_p": "process_weight", "w_o": "outcome_weight"},
        ),
        AdvantageTerm(
            term="advantage",
            text="A_t = sum_{s>=t} (g l)^(s-t) (e_s + g V_{s+1} - V_s)",
            symbols={"g": "outcome_discount", "l": "trace_decay"},
        ),
    ),
    estimate=ppo,
    by_group=True,
    needs=frozenset({Need.CRITIC}),
    settings=(
        OwnSetting(
            name="trace_decay",
            default=1.0,
            low=0.0,
            high=1.0,
            meaning="lambda of generalised advantage estimation. At 1 the advantage is the return less the value, at 0 the error of one "
            "token's value.",
        ),
    ),
    contradictions=contradictions,
)
