"""Every estimator and loss once more, in plain Python floats: one sum at a time, as the equation reads.

Nothing here calls oprime. Tests compare the tensor code with these on random batches.
"""

import math

Row = list[float]
Rows = list[Row]


# Rewards


def scale_of(rewards: Rows, floor: float) -> float:
    """What batch_norm divides by."""
    largest = max((abs(sum(row[t:])) for row in rewards for t in range(len(row))), default=0.0)
    return 1.0 if largest < floor else largest + 1e-6


def normalised(rewards: Rows, floor: float) -> Rows:
    scale = scale_of(rewards, floor)
    return [[reward / scale for reward in row] for row in rewards]


def on_last_token(rewards: Rows) -> Rows:
    """Sequence granularity."""
    return [[0.0] * (len(row) - 1) + [sum(row)] for row in rewards]


def discounted(rewards: Row, discount: float) -> Row:
    """G_t = sum over s >= t of discount^(s - t) * r_s."""
    return [sum(discount ** (s - t) * rewards[s] for s in range(t, len(rewards))) for t in range(len(rewards))]


# Estimators. Each gives, per rollout, the returns of the process rewards and of the outcome reward.


def mean(values: Row) -> float:
    return sum(values) / len(values)


def deviation(values: Row, ddof: int) -> float:
    centre = mean(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - ddof))


def members(group_ids: list[int], i: int) -> list[int]:
    return [j for j in range(len(group_ids)) if group_ids[j] == group_ids[i]]


def _reward_mean(row: Row, granularity: str) -> float:
    return row[-1] if granularity == "sequence" else mean(row)


def _minus(row: Row, baseline: float, granularity: str, factor: float = 1.0) -> Row:
    if granularity == "sequence":
        return [0.0] * (len(row) - 1) + [factor * row[-1] - baseline]
    return [factor * reward - baseline for reward in row]


def _with_outcome(process: Row, outcome: float, discounts: tuple[float, float]) -> tuple[Row, Row]:
    return discounted(process, discounts[0]), discounted([0.0] * (len(process) - 1) + [outcome], discounts[1])


def rloo(
    rewards: Rows, outcomes: Row, ids: list[int], i: int, *, loo: str, granularity: str, discounts: tuple[float, float]
) -> tuple[Row, Row]:
    group = members(ids, i)
    size = len(group)
    siblings = [j for j in group if j != i]
    outcome = outcomes[i] - mean([outcomes[j] for j in siblings])
    if loo == "paper":
        baseline = mean([_reward_mean(rewards[j], granularity) for j in siblings])
        return _with_outcome(_minus(rewards[i], baseline, granularity), outcome, discounts)
    baseline = sum(_reward_mean(rewards[j], granularity) for j in group) / (size - 1)
    return _with_outcome(_minus(rewards[i], baseline, granularity, size / (size - 1)), outcome, discounts)


def reinforce(rewards: Rows, outcomes: Row, i: int, *, discounts: tuple[float, float]) -> tuple[Row, Row]:
    return _with_outcome(rewards[i], outcomes[i], discounts)


def grpo(
    rewards: Rows, outcomes: Row, ids: list[int], i: int, *, ddof: int | None, granularity: str, discounts: tuple[float, float]
) -> tuple[Row, Row]:
    """Without `ddof` nothing is divided by a deviation."""
    group = members(ids, i)
    means = [_reward_mean(rewards[j], granularity) for j in group]
    scores = [outcomes[j] for j in group]
    process, outcome = _minus(rewards[i], mean(means), granularity), outcomes[i] - mean(scores)
    if ddof is None:
        return _with_outcome(process, outcome, discounts)
    spread = max(deviation(means, ddof), 1e-4)
    return _with_outcome([reward / spread for reward in process], outcome / max(deviation(scores, ddof), 1e-6), discounts)


def grpo_over_tokens(
    rewards: Rows, outcomes: Row, ids: list[int], i: int, *, granularity: str, discounts: tuple[float, float]
) -> tuple[Row, Row]:
    every = [reward for j in members(ids, i) for reward in (rewards[j][-1:] if granularity == "sequence" else rewards[j])]
    process = [reward / max(deviation(every, 1), 1e-4) for reward in _minus(rewards[i], mean(every), granularity)]
    _, outcome = grpo(rewards, outcomes, ids, i, ddof=1, granularity=granularity, discounts=discounts)
    return discounted(process, discounts[0]), outcome


def remax(
    rewards: Rows, outcomes: Row, greedy: Row, greedy_means: Row, i: int, *, granularity: str, discounts: tuple[float, float]
) -> tuple[Row, Row]:
    return _with_outcome(_minus(rewards[i], greedy_means[i], granularity), outcomes[i] - greedy[i], discounts)


def prm_value(rewards: Rows, outcomes: Row, i: int, *, discounts: tuple[float, float]) -> tuple[Row, Row]:
    row = rewards[i]
    return [-sum(row[:t]) for t in range(len(row))], discounted([0.0] * (len(row) - 1) + [outcomes[i]], discounts[1])


def gae(rewards: Row, values: Row, discount: float, trace_decay: float) -> Row:
    """A_t = sum over s >= t of (gamma lambda)^(s-t) delta_s."""
    ahead = [*values[1:], 0.0]
    deltas = [reward + discount * after - value for reward, after, value in zip(rewards, ahead, values, strict=True)]
    return discounted(deltas, discount * trace_decay)


def whitened(rows: Rows) -> Rows:
    every = [value for row in rows for value in row]
    centre = mean(every)
    variance = sum((value - centre) ** 2 for value in every) / max(len(every) - 1, 1)
    return [[(value - centre) / math.sqrt(variance + 1e-8) for value in row] for row in rows]


# PRM losses


def softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def cross_entropy(score: float, outcome: float) -> float:
    """-[o log sigmoid(s) + (1 - o) log(1 - sigmoid(s))]."""
    return outcome * softplus(-score) + (1 - outcome) * softplus(score)


def pair_other(scores: Row, outcomes: Row, ids: list[int], i: int) -> float:
    """Mean score of those that rollout i is compared with."""
    group = members(ids, i)
    if outcomes[i] > 0.5:
        opponents = [scores[j] for j in group if outcomes[j] < outcomes[i]]
    else:
        opponents = [scores[j] for j in group if outcomes[j] > outcomes[i]]
    return mean(opponents) if opponents else 0.0


def pair_loss(score: float, outcome: float, other: float) -> float:
    sign = 1 if outcome > 0.5 else -1 if outcome < 0.5 else 0
    return softplus(-sign * (score - other))


def best_of_k_weight(ranking: Row, ids: list[int], i: int) -> float:
    group = members(ids, i)
    no_better = sum(1 for j in group if ranking[j] <= ranking[i])
    return len(group) * (no_better / len(group)) ** (len(group) - 1)


def balance(outcomes: Row, ids: list[int], i: int) -> tuple[float, float]:
    """Difficulty offset and rarity weight of rollout i."""
    group = members(ids, i)
    usual = min(max(mean([outcomes[j] for j in group]), 1e-6), 1 - 1e-6)
    rarity = {j: 1 - usual if outcomes[j] > 0.5 else usual for j in group}
    return math.log(usual / (1 - usual)), rarity[i] * len(group) / sum(rarity.values())


def prefix_value_loss(rewards: Row, outcome: float, margin: float, offset: float, weight: float) -> float:
    total = 0.0
    for t in range(1, len(rewards) + 1):
        value = sum(rewards[:t]) / t
        total += outcome * softplus(margin - offset - value) + (1 - outcome) * softplus(margin + offset + value)
    return weight * total / len(rewards)


# Policy losses


def share(lengths: list[int], ids: list[int], i: int, aggregation: str, constant: int = 7) -> float:
    """Weight of one token of rollout i in the loss of the whole step."""
    if aggregation in ("sequence_sums", "constant"):
        return 1 / (len(lengths) * (constant if aggregation == "constant" else 1))
    if aggregation == "tokens":
        return 1 / sum(lengths)
    if aggregation == "sequences":
        return 1 / (len(lengths) * lengths[i])
    return 1 / (len(set(ids)) * sum(lengths[j] for j in members(ids, i)))


def importance_weight(proximal: Row, behaviour: Row, t: int, *, correction: str, cap: float, band: tuple[float, float]) -> float:
    product = 1.0
    for near, far in zip(proximal, behaviour, strict=True):
        product *= math.exp(near - far)
    weight = math.exp(proximal[t] - behaviour[t])
    geometric_mean = product ** (1 / len(proximal))
    return {
        "none": 1.0,
        "token": min(weight, cap),
        "sequence": min(product, cap),
        "band": weight if band[0] <= weight <= band[1] else 0.0,
        "sequence_band": product if band[0] <= product <= band[1] else 0.0,
        "geometric_band": min(weight, cap) if band[0] <= geometric_mean <= band[1] else 0.0,
    }[correction]


def clipped_surrogate(ratio: float, advantage: float, low: float, high: float, dual: float | None) -> float:
    clipped = min(max(ratio, 1 - low), 1 + high)
    objective = min(advantage * ratio, advantage * clipped)
    if dual is not None and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


def response_ratio(policy: Row, proximal: Row) -> float:
    """GSPO's: the geometric mean of the tokens' ratios."""
    return math.exp(mean([near - far for near, far in zip(policy, proximal, strict=True)]))


def cispo_surrogate(logprob: float, held_ratio: float, advantage: float, low: float, high: float) -> float:
    """`held_ratio` is a constant: it does not move with `logprob`."""
    return -min(max(held_ratio, 1 - low), 1 + high) * advantage * logprob


def token_kl(policy: float, reference: float, estimator: str) -> float:
    difference = policy - reference
    return {"k1": difference, "k2": difference**2 / 2, "k3": math.exp(-difference) - 1 + difference}[estimator]


def value_loss(value: float, before: float, target: float, clip: float | None) -> float:
    loss = (value - target) ** 2
    if clip is not None:
        near = min(max(value, before - clip), before + clip)
        loss = max(loss, (near - target) ** 2)
    return loss / 2
