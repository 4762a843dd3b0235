"""ReMax: the policy's own greedy response to the prompt is the baseline."""

from oprime.core.advantage import Choices, Estimate, Estimator, Need, Rewards, earned_ahead, outcome_part, process_part


def remax(rewards: Rewards, choices: Choices) -> Estimate:
    """Raises ValueError without greedy baselines."""
    greedy = rewards.required_greedy()
    return earned_ahead(rewards, choices, rewards.process - greedy.process_mean[:, None], rewards.outcome - greedy.outcome)


ESTIMATOR = Estimator(
    about="ReMax, the policy's own greedy response as the baseline",
    source="arXiv 2310.10505",
    formulas=(
        process_part("P_t = sum_{s>=t} g^(s-t) (r_s - m of the greedy response)"),
        outcome_part("O_t = g^(T-t) (r_o - r_o of the greedy response)"),
    ),
    estimate=remax,
    by_group=True,
    needs=frozenset({Need.GREEDY_RESPONSE}),
)
