"""The implicit PRM as a value model: process rewards are not rewards here but differences of values, so they take no discount."""

from collections.abc import Iterator

from oprime.core.advantage import AdvantageTerm, Choices, Estimate, Estimator, Rewards, SourceReturns, outcome_part, weighted
from oprime.core.masked import at_last_token, returns


def prm_value(rewards: Rewards, choices: Choices) -> Estimate:
    inside = rewards.process.where(rewards.is_trained, 0.0)
    value = inside.cumsum(dim=1) - inside
    outcome = returns(at_last_token(rewards.outcome, rewards.is_trained), rewards.is_trained, choices.outcome_discount)
    return weighted(SourceReturns(process=(-value).where(rewards.is_trained, 0.0), outcome=outcome), choices)


def contradictions(*, granularity: str, process_discount: float, process_credit: str) -> Iterator[str]:
    if granularity == "sequence":
        yield (
            'algorithm.estimator = "prm_value" needs a value per token, but algorithm.granularity = "sequence": '
            "set algorithm.granularity=token"
        )
    if process_discount != 1:
        yield (
            f'algorithm.estimator = "prm_value" takes values, not returns: algorithm.process_discount ({process_discount:g}) '
            "would do nothing; set algorithm.process_discount=1"
        )
    if process_credit != "sum":
        yield (
            f'algorithm.estimator = "prm_value" takes values, which are sums of rewards, but algorithm.process_credit = '
            f'"{process_credit}": set algorithm.process_credit=sum'
        )


ESTIMATOR = Estimator(
    about="the implicit PRM as a value model",
    source="paper, section 5.4",
    formulas=(
        AdvantageTerm(term="process part", text="P_t = -v(y_<t), with v(y_<t) = sum_{s<t} r_s", source="process"),
        outcome_part("O_t = g^(T-t) r_o"),
    ),
    estimate=prm_value,
    by_group=True,
    process_is_baseline=True,
    contradictions=contradictions,
)
