"""What algorithm a run's settings choose. Pure: settings in, words and formulas out.

Formulas use the symbols of docs/algorithm.md: y^i one of K responses to prompt x, r_o its outcome reward, r_t the process reward of
token t, m_i the mean process reward of response i.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from oprime_cli.run_config import RunConfig


@dataclass(frozen=True, slots=True)
class Term:
    name: str
    formula: str
    chosen_by: tuple[str, ...]
    """Settings with their values."""


ESTIMATORS = {
    "rloo": "leave-one-out baselines (paper, Eq. 5)",
    "reinforce": "REINFORCE without a baseline (paper, Eq. 8)",
    "grpo": "GRPO, standardised within the group (paper, Eq. 7)",
    "remax": "ReMax, the policy's own greedy response as the baseline (arXiv 2310.10505)",
    "prm_value": "the implicit PRM as a value model (paper, section 5.4)",
    "ppo": "PPO, generalised advantage estimation over a critic",
}
PROCESS_TERMS = {
    "rloo paper": "P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j over the siblings j)",
    "rloo released": "P_t = sum_{s>=t} g^(s-t) (K/(K-1) r_s - sum of m_j over the group / (K-1))",
    "reinforce": "P_t = sum_{s>=t} g^(s-t) r_s",
    "grpo": "P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j) / max(std of m_j, 1e-4), over the group, std over K-1",
    "remax": "P_t = sum_{s>=t} g^(s-t) (r_s - m of the greedy response)",
    "prm_value": "P_t = -v(y_<t), with v(y_<t) = sum_{s<t} r_s",
}
OUTCOME_TERMS = {
    "rloo": "O_t = g^(T-t) (r_o - mean of r_o over the siblings)",
    "reinforce": "O_t = g^(T-t) r_o",
    "grpo": "O_t = g^(T-t) (r_o - mean of r_o) / max(std of r_o, 1e-6), over the group, std over K-1",
    "remax": "O_t = g^(T-t) (r_o - r_o of the greedy response)",
    "prm_value": "O_t = g^(T-t) r_o",
}
MODES = {
    "double_forward": "update on the batch, then score it with the updated PRM",
    "single_forward": "score the batch, then update",
    "reverse": "score the batch, gather the pair statistics from the scores, then update",
    "offline": "never update",
}
PAIR = (
    "-log sigmoid(s_i - mean s_j of siblings with lower r_o) if r_o > 1/2, "
    "-log sigmoid(mean s_j of siblings with higher r_o - s_i) if r_o < 1/2"
)
PRM_LOSSES = {
    "ce": "-[r_o log sigmoid(s) + (1 - r_o) log(1 - sigmoid(s))], s = sum_t r_t before normalisation",
    "dpo": f"{PAIR}; s_j from before the update, without gradient",
    "bon_acc": f"K (share of the group with r_o no higher)^(K-1) * {PAIR}; s_j from before the update, without gradient",
    "bon_rm": f"K (share of the group with s no higher)^(K-1) * {PAIR}; s_j from before the update, without gradient",
}
CORRECTIONS = {
    "token": "w = min(pi_proximal / pi_behaviour, {cap}) per token, no gradient",
    "sequence": "w = min(product over the response of pi_proximal / pi_behaviour, {cap}), no gradient",
    "band": "w = pi_proximal / pi_behaviour where it lies in [{low}, {high}], else 0; no gradient",
    "none": "w = 1",
}
KL = {
    "k1": "KL_t = d, d = log pi_theta - log pi_start",
    "k2": "KL_t = d^2 / 2, d = log pi_theta - log pi_start",
    "k3": "KL_t = exp(-d) - 1 + d, d = log pi_theta - log pi_start",
}
AGGREGATIONS = {
    "tokens": "sum over tokens of L_t / all response tokens of the optimizer step",
    "sequences": "mean over rollouts of the mean of L_t over the response",
    "groups": "mean over groups of the mean of L_t over all tokens of the group",
}


def summary(config: RunConfig) -> Iterator[str]:
    """One train step in words."""
    algorithm, size = config.algorithm, config.sampling.group_size
    sources = [
        f"{weight:g} x {name} rewards"
        for weight, name in ((algorithm.process_weight, "process"), (algorithm.outcome_weight, "outcome"))
        if weight > 0
    ]
    yield f"Sample {size} response(s) to each prompt and verify them; {config.coordinator.groups_per_batch} groups make a train step."
    if algorithm.needs_greedy_baseline:
        yield "Besides, take the greedy response to each prompt (temperature 0): verified and scored as a baseline, never trained on."
    yield f"PRM: {MODES[config.prm.update]}."
    yield f"Advantages: {ESTIMATORS[algorithm.estimator]}, from {' + '.join(sources)}."
    if algorithm.needs_critic:
        yield (
            f"Critic: its values from before the step are the baseline; then {config.critic.updates_per_batch} optimizer step(s) per batch "
            "towards the returns."
        )
    yield (
        f"Policy: {config.learner.updates_per_batch} optimizer step(s) per batch, on rollouts that are at most "
        f"{config.staleness.max_staleness} version(s) old."
    )


def terms(config: RunConfig) -> Iterator[Term]:
    """Every term of the algorithm, in the order in which a step computes them."""
    yield Term("kept groups", _kept_groups(config), _chosen(config.coordinator.filter, "coordinator.filter", *_FILTER))
    if config.algorithm.kl_coefficient > 0 and config.algorithm.kl_in == "reward":
        yield Term("KL in the reward", _kl_in_reward(config), _algorithm(config, "kl_coefficient", "kl_in", "kl_estimator"))
    yield from _process_reward_terms(config)
    yield from _advantage_terms(config)
    yield from _loss_terms(config)


_FILTER = ("enabled", "low", "high", "drop_truncated", "drop_zero_variance", "longest_response_tokens")


def _kept_groups(config: RunConfig) -> str:
    chosen = config.coordinator.filter
    rules = [
        (chosen.low > 0 or chosen.high < 1, f"{chosen.low:g} <= mean r_o <= {chosen.high:g}"),
        (chosen.drop_truncated, "no response cut at the token limit"),
        (chosen.drop_zero_variance, "not all r_o equal"),
        (chosen.longest_response_tokens > 0, f"no response over {chosen.longest_response_tokens} tokens"),
    ]
    kept = " and ".join(text for applies, text in rules if applies and chosen.enabled)
    return kept or "all"


def _kl_in_reward(config: RunConfig) -> str:
    algorithm = config.algorithm
    return f"r_o := r_o - {algorithm.kl_coefficient:g} sum_t KL_t; {KL[algorithm.kl_estimator]}, pi_theta as the step begins"


def _process_reward_terms(config: RunConfig) -> Iterator[Term]:
    algorithm, prm = config.algorithm, config.prm
    reference = "pi_behaviour" if prm.reference == "policy" else "pi_ref"
    yield Term(
        "process reward",
        f"r_t = {prm.beta:g} (log pi_phi(y_t) - log {reference}(y_t)), the end token included",
        _chosen(prm, "prm", "beta", "reference", "initial_model", "reference_model"),
    )
    if prm.update != "offline":
        yield Term("PRM loss", f"mean over rollouts of {PRM_LOSSES[prm.loss]}", _chosen(prm, "prm", "loss", "update"))
    if algorithm.process_weight == 0:
        return
    if algorithm.granularity == "sequence":
        yield Term("granularity", "r_T := sum_t r_t on the last token, 0 before it; m_i = r_T", _algorithm(config, "granularity"))
    yield Term("normalisation", _normalisation(config), _algorithm(config, *_NORMALISATION[algorithm.process_normalisation]))


_NORMALISATION = {
    "batch_norm": ("process_normalisation", "normalisation_floor"),
    "per_rank": ("process_normalisation", "normalisation_chunks", "normalisation_floor"),
    "none": ("process_normalisation",),
}


def _normalisation(config: RunConfig) -> str:
    algorithm = config.algorithm
    where = {"batch_norm": "the batch", "per_rank": f"each of {algorithm.normalisation_chunks} parts of the batch"}
    if algorithm.process_normalisation == "none":
        return "none"
    return (
        f"r_t := r_t / (max over {where[algorithm.process_normalisation]} of |sum_{{s>=t}} r_s| + 1e-6), "
        f"left alone while that maximum is below {algorithm.normalisation_floor:g}"
    )


def _advantage_terms(config: RunConfig) -> Iterator[Term]:
    algorithm = config.algorithm
    if algorithm.needs_critic:
        yield from _critic_terms(config)
        return
    rloo = algorithm.estimator == "rloo"
    if algorithm.process_weight > 0:
        formula = PROCESS_TERMS[f"rloo {algorithm.loo}" if rloo else algorithm.estimator]
        discount = "" if algorithm.estimator == "prm_value" else f"; g = {algorithm.process_discount:g}"
        settings = ("estimator", *(("loo",) if rloo else ()), "process_discount")
        yield Term("process part", f"{formula}{discount}", _algorithm(config, *settings))
    if algorithm.outcome_weight > 0:
        formula = f"{OUTCOME_TERMS[algorithm.estimator]}; g = {algorithm.outcome_discount:g}, T the last token"
        yield Term("outcome part", formula, _algorithm(config, "estimator", "outcome_discount"))
    parts = [f"{weight:g} {name}" for weight, name in ((algorithm.process_weight, "P_t"), (algorithm.outcome_weight, "O_t")) if weight > 0]
    yield Term(
        "advantage",
        f"A_t = {' + '.join(parts)}{_whitened(config)}",
        _algorithm(config, "process_weight", "outcome_weight", "whiten_advantages"),
    )


def _whitened(config: RunConfig) -> str:
    text = ", then (A_t - mean) / sqrt(variance + 1e-8) over all response tokens of the batch"
    return text if config.algorithm.whiten_advantages else ""


def _critic_terms(config: RunConfig) -> Iterator[Term]:
    """PPO: from both rewards and a critic's values to advantages and the critic's own loss."""
    algorithm, critic = config.algorithm, config.critic
    process = f"{algorithm.process_weight:g} r_t" if algorithm.process_weight > 0 else "0"
    outcome = f", and {algorithm.outcome_weight:g} r_o besides at the last token T" if algorithm.outcome_weight > 0 else ""
    yield Term("token reward", f"e_t = {process}{outcome}", _algorithm(config, "estimator", "process_weight", "outcome_weight"))
    yield Term(
        "value",
        f"V_t of what precedes token t, from before the step; layers of {critic.path or config.model.path} below a linear head, which "
        "starts at 0; V_{T+1} = 0",
        _chosen(critic, "critic", "path") or _chosen(config.model, "model", "path"),
    )
    yield Term(
        "advantage",
        f"A_t = sum_{{s>=t}} (g l)^(s-t) (e_s + g V_{{s+1}} - V_s); g = {algorithm.outcome_discount:g}, "
        f"l = {algorithm.trace_decay:g}{_whitened(config)}",
        _algorithm(config, "process_discount", "outcome_discount", "trace_decay", "whiten_advantages"),
    )
    near = f"(V_before + clip(V - V_before, -{critic.value_clip:g}, {critic.value_clip:g}) - R)^2"
    squares = f"max((V - R)^2, {near})" if critic.value_clip > 0 else "(V - R)^2"
    yield Term(
        "critic loss",
        f"1/2 {squares}, R = A_t before whitening + V_before, weighed per token as the policy loss",
        _chosen(critic, "critic", "value_clip", "updates_per_batch", "learning_rate"),
    )


def _loss_terms(config: RunConfig) -> Iterator[Term]:
    algorithm = config.algorithm
    proximal = "the policy itself" if config.learner.updates_per_batch == 1 else "the policy as the train step began"
    yield Term(
        "ratio",
        f"rho = pi_theta / pi_proximal, pi_proximal being {proximal}; pi = softmax(logits / {config.sampling.temperature:g})",
        (*_chosen(config.learner, "learner", "updates_per_batch"), *_chosen(config.sampling, "sampling", "temperature")),
    )
    weight = CORRECTIONS[algorithm.correction].format(
        cap=f"{algorithm.importance_cap:g}", low=f"{algorithm.band_low:g}", high=f"{algorithm.band_high:g}"
    )
    bounds = {"band": ("band_low", "band_high"), "none": ()}.get(algorithm.correction, ("importance_cap",))
    yield Term("correction for old weights", weight, _algorithm(config, "correction", *bounds))
    yield Term("token loss", _token_loss(config), _algorithm(config, "policy_loss", "clip_low", "clip_high", "dual_clip"))
    if algorithm.kl_coefficient > 0 and algorithm.kl_in == "loss":
        note = " (its gradient is 0 on average)" if algorithm.kl_estimator == "k1" else ""
        formula = f"L_t := L_t + {algorithm.kl_coefficient:g} KL_t; {KL[algorithm.kl_estimator]}{note}"
        yield Term("KL in the loss", formula, _algorithm(config, "kl_coefficient", "kl_in", "kl_estimator"))
    if algorithm.entropy_coefficient > 0:
        formula = f"L_t := L_t - {algorithm.entropy_coefficient:g} H_t; H_t = -sum_v pi_theta(v) log pi_theta(v), v over the vocabulary"
        yield Term("entropy bonus", formula, _algorithm(config, "entropy_coefficient"))
    yield Term("policy loss", AGGREGATIONS[algorithm.aggregation], _algorithm(config, "aggregation"))


def _token_loss(config: RunConfig) -> str:
    algorithm = config.algorithm
    low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
    if algorithm.policy_loss == "cispo":
        return f"L_t = -w A clip(rho, {low:g}, {high:g}) log pi_theta, the clipped ratio without gradient"
    clipped = f"max(-A rho, -A clip(rho, {low:g}, {high:g}))"
    if algorithm.dual_clip > 0:
        return f"L_t = w {clipped}, where A < 0 at most w * (-{algorithm.dual_clip:g} A)"
    return f"L_t = w {clipped}"


def _algorithm(config: RunConfig, *names: str) -> tuple[str, ...]:
    return _chosen(config.algorithm, "algorithm", *names)


def _chosen(section: Any, prefix: str, *names: str) -> tuple[str, ...]:
    """`section.name = value` of each setting; empty texts are left out."""
    values = {name: getattr(section, name) for name in names}
    return tuple(f"{prefix}.{name} = {_value(value)}" for name, value in values.items() if value != "")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
