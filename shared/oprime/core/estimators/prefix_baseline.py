"""Prefix values as the baseline: the outcome less the probability, after the tokens so far, that the response ends right."""

from collections.abc import Iterator

from oprime.core.advantage import AdvantageTerm, Choices, Estimate, Estimator, Need, Rewards, SourceReturns, outcome_part, weighted
from oprime.core.implicit_values import prefix_values
from oprime.core.masked import at_last_token, returns
from oprime.core.one_file import OwnSetting
from oprime.core.outcome_balance import balance
from oprime.core.tensors import Tensor


def prefix_baseline(rewards: Rewards, choices: Choices, *, value_offset: bool) -> Estimate:
    is_trained = rewards.is_trained
    values = _values_before(rewards)
    if value_offset:
        found = balance(rewards.outcome, rewards.group_ids, difficulty_offset=True, rarity_weight=False)
        values = values + found["offsets"][:, None]
    outcome = returns(at_last_token(rewards.outcome, is_trained), is_trained, choices.outcome_discount)
    return weighted(SourceReturns(process=(-values.sigmoid()).where(is_trained, 0.0), outcome=outcome), choices)


def _values_before(rewards: Rewards) -> Tensor:
    """v of what precedes each token; 0 before the first."""
    values = prefix_values(rewards.process, rewards.is_trained)
    return values.roll(1, dims=1).where(rewards.is_trained.cumsum(dim=1) > 1, 0.0)


def contradictions(*, granularity: str, process_discount: float, process_normalisation: str, process_credit: str) -> Iterator[str]:
    needed = {"granularity": (granularity, "token"), "process_discount": (process_discount, 1)}
    needed |= {"process_normalisation": (process_normalisation, "none"), "process_credit": (process_credit, "sum")}
    for name, (value, only) in needed.items():
        if value != only:
            yield (
                f'algorithm.estimator = "prefix_baseline" reads the PRM\'s rewards as values of prefixes, token by token and as they are, '
                f"but algorithm.{name} is {value}: set algorithm.{name}={only}"
            )


ESTIMATOR = Estimator(
    about="the outcome less the probability that the prefix ends right",
    source="prefix values of IPVRM, arXiv 2604.13197, as a baseline",
    formulas=(
        AdvantageTerm(
            term="process part",
            text="P_t = -sigmoid(v_{t-1}), v_t = 1/t sum_{s<=t} r_s, v_0 = 0",
            source="process",
            when={"value_offset": False},
        ),
        AdvantageTerm(
            term="process part",
            text="P_t = -sigmoid(v_{t-1} + b), v_t = 1/t sum_{s<=t} r_s, v_0 = 0, b = log(u / (1 - u)), u the mean of r_o over the group, "
            "at least 1e-6 away from 0 and 1",
            source="process",
            when={"value_offset": True},
        ),
        outcome_part("O_t = g^(T-t) r_o"),
    ),
    estimate=prefix_baseline,
    by_group=True,
    needs=frozenset({Need.SIBLINGS}),
    process_is_baseline=True,
    prm_losses=frozenset({"prefix_value"}),
    settings=(
        OwnSetting(
            name="value_offset",
            default=False,
            meaning="Whether b, what the group's mean outcome foretells, is added to values: on where the PRM was trained with "
            "prm.difficulty_offset, and only there.",
        ),
    ),
    contradictions=contradictions,
)
