"""What algorithm a run's settings choose. Pure: settings in, words and formulas out.

Formulas use the symbols of docs/algorithm.md: y^i one of K responses to prompt x, r_o its outcome reward, r_t the process reward of
token t, m_i the mean process reward of response i.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oprime.core import step_formulas as step
from oprime.core.one_file import Formula
from oprime.runtime.settings import Section
from oprime_cli.run_config import RunConfig


@dataclass(frozen=True, slots=True)
class Term:
    name: str
    formula: str
    chosen_by: tuple[str, ...]
    """Settings with their values."""


MODES = {
    "double_forward": "update on the batch, then score it with the updated PRM",
    "single_forward": "score the batch, then update",
    "reverse": "score the batch, gather the pair statistics from the scores, then update",
    "offline": "never update",
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
    prm = f"{MODES[config.prm.update]}; loss: {config.prm.chosen_loss.described}"
    yield f"PRM: {prm}." if algorithm.needs_prm else "PRM: none, nothing needs its rewards."
    yield f"Advantages, from {' + '.join(sources)}: {algorithm.chosen_estimator.described}."
    if algorithm.needs_critic:
        yield (
            f"Critic: its values from before the step are the baseline; then {config.critic.updates_per_batch} optimizer step(s) per batch "
            "towards the returns."
        )
    yield (
        f"Policy: {config.learner.updates_per_batch} optimizer step(s) per batch, on rollouts that are at most "
        f"{config.staleness.max_staleness} version(s) old."
    )
    yield f"Loss of a token: {algorithm.chosen_policy_loss.described}. Its weight: {algorithm.chosen_correction.described}."


def terms(config: RunConfig) -> Iterator[Term]:
    """Every term of the algorithm, in the order in which a step computes them."""
    yield from _adapter_terms(config)
    yield Term("kept groups", _kept_groups(config), _chosen(config.coordinator.filter, "coordinator.filter", *_FILTER))
    if config.algorithm.overlong_buffer > 0:
        yield _step_term(config, "over-long penalty", step.OVERLONG)
    if config.algorithm.kl_coefficient > 0 and config.algorithm.kl_in == "reward":
        yield _kl_term(config)
    yield from _process_reward_terms(config)
    yield from _advantage_terms(config)
    yield from _loss_terms(config)


def _adapter_terms(config: RunConfig) -> Iterator[Term]:
    """What is trained of the models, where that is not all."""
    prm = [("PRM", "prm", config.prm.lora)] if config.algorithm.needs_prm else []
    for model, section, lora in (("policy", "learner", config.learner.lora), *prm):
        if not lora.rank:
            continue
        scale = "alpha / sqrt(r)" if lora.rslora else "alpha / r"
        layers = f"the layers {', '.join(lora.targets)}" if lora.targets else "all linear layers but the output head"
        published = "adapters alone" if lora.publishes_adapters else "whole models, W + s B A rounded to model.dtype"
        where = f"{layers}; A and B are trained, W is frozen; s = {scale} = {lora.scale:g}, r = {lora.rank}"
        yield Term(
            f"{model} weights",
            f"W + s B A in {where}; versions are {published}",
            tuple(f"{section}.{text}" for text in _chosen(lora, "lora", "rank", "alpha", "rslora", "publish")),
        )


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


def _kl_term(config: RunConfig) -> Term:
    algorithm = config.algorithm
    applied = _step_term(config, f"KL in the {algorithm.kl_in}", step.KL_APPLIED, algorithm.kl_in)
    kl = _step_term(config, "KL", step.KL, algorithm.kl_estimator)
    return Term(applied.name, f"{applied.formula}; {kl.formula}", (*applied.chosen_by, *kl.chosen_by))


def _step_term(config: RunConfig, name: str, formulas: step.StepFormula, value: str = "") -> Term:
    """What a step computes by `formulas` where they are chosen by `value`, with the values of all settings that act on it."""
    formula = formulas.by_value[value]
    settings = dict.fromkeys((*formulas.settings, *formula.symbols.values()))
    chosen = [text for name in settings for text in _chosen(_section(config, name), *name.split("."))]
    values = {symbol: getattr(_section(config, name), name.partition(".")[2]) for symbol, name in formula.symbols.items()}
    return Term(name, _with_values(formula.text, values), tuple(chosen))


def _section(config: RunConfig, setting: str) -> Section:
    return getattr(config, setting.partition(".")[0])


def _with_values(text: str, values: Mapping[str, object]) -> str:
    listed = ", ".join(f"{symbol} = {_value(value)}" for symbol, value in values.items())
    return f"{text}; {listed}" if listed else text


def _process_reward_terms(config: RunConfig) -> Iterator[Term]:
    algorithm, prm = config.algorithm, config.prm
    if not algorithm.needs_prm:
        return
    scored = _step_term(config, "process reward", step.PROCESS_REWARD)
    note = "; pi_ref is the policy that sampled" if prm.reference == "policy" else ""
    yield Term(scored.name, f"{scored.formula}{note}", scored.chosen_by)
    if prm.update != "offline":
        for term in _terms_of(prm, "prm", "loss", prm.chosen_loss.formulas_under(dict(prm))):
            chosen_by = (*term.chosen_by, *_chosen(prm, "prm", "update"))
            yield term if term.name else Term("PRM loss", f"mean over rollouts of {term.formula}", chosen_by)
    if algorithm.process_credit != "sum":
        yield _step_term(config, "credit", step.CREDIT, algorithm.process_credit)
    if algorithm.granularity == "sequence":
        yield _step_term(config, "granularity", step.GRANULARITY, algorithm.granularity)
    yield _step_term(config, "normalisation", step.NORMALISATION, algorithm.process_normalisation)


def _advantage_terms(config: RunConfig) -> Iterator[Term]:
    algorithm = config.algorithm
    if algorithm.needs_critic:
        yield _value_term(config)
    found = list(_terms_of(algorithm, "algorithm", "estimator", algorithm.chosen_estimator.formulas_under(dict(algorithm))))
    for term in found:
        yield _whitened(config, term) if term.name == "advantage" else term
    if "advantage" not in {term.name for term in found}:
        sources = [name for name in ("process", "outcome") if getattr(algorithm, f"{name}_weight") > 0]
        yield _whitened(config, _step_term(config, "advantage", step.WEIGHTED, sources[0] if len(sources) == 1 else "both"))
    if algorithm.needs_critic:
        yield _step_term(config, "critic loss", step.VALUE_LOSS, "clipped" if config.critic.value_clip > 0 else "free")


def _terms_of(section: Section, prefix: str, setting: str, formulas: Iterable[Formula]) -> Iterator[Term]:
    """Formulas of the file that a setting of a section chooses, with the values of their symbols."""
    for formula in formulas:
        text = _with_values(formula.text, {symbol: getattr(section, name) for symbol, name in formula.symbols.items()})
        settings = dict.fromkeys((setting, *formula.when, *formula.unless, *formula.symbols.values()))
        yield Term(formula.term, text, _chosen(section, prefix, *settings))


def _whitened(config: RunConfig, term: Term) -> Term:
    whitening = _step_term(config, "whitening", step.WHITENING, "guarded" if config.algorithm.guards_whitening else "plain")
    formula = f"{term.formula}, then {whitening.formula}" if config.algorithm.whiten_advantages else term.formula
    return Term(term.name, formula, (*term.chosen_by, *whitening.chosen_by))


def _value_term(config: RunConfig) -> Term:
    critic = config.critic
    return Term(
        "value",
        f"V_t of what precedes token t, from before the step; layers of {critic.path or config.model.path} below a linear head, which "
        "starts at 0; V_{T+1} = 0",
        _chosen(critic, "critic", "path") or _chosen(config.model, "model", "path"),
    )


def _loss_terms(config: RunConfig) -> Iterator[Term]:
    algorithm = config.algorithm
    proximal = "the policy itself" if config.learner.updates_per_batch == 1 else "the policy as the train step began"
    yield Term(
        "ratio",
        f"rho = pi_theta / pi_proximal, pi_proximal being {proximal}; pi = softmax(logits / {config.sampling.temperature:g})",
        (*_chosen(config.learner, "learner", "updates_per_batch"), *_chosen(config.sampling, "sampling", "temperature")),
    )
    yield from _terms_of(algorithm, "algorithm", "policy_loss", algorithm.chosen_policy_loss.formulas_under(dict(algorithm)))
    for term in _terms_of(algorithm, "algorithm", "correction", algorithm.chosen_correction.formulas_under(dict(algorithm))):
        yield Term("correction for old weights", f"L_t := w L_t; {term.formula}", term.chosen_by)
    if algorithm.kl_coefficient > 0 and algorithm.kl_in == "loss":
        yield _kl_term(config)
    if algorithm.entropy_coefficient > 0:
        yield _step_term(config, "entropy bonus", step.ENTROPY_BONUS)
    if algorithm.mask_truncated:
        yield _step_term(config, "truncated responses", step.TRUNCATED)
    yield _step_term(config, "policy loss", step.AGGREGATION, algorithm.aggregation)


def _chosen(section: Any, prefix: str, *names: str) -> tuple[str, ...]:
    """`section.name = value` of each setting; empty texts are left out."""
    values = {name: getattr(section, name) for name in names}
    return tuple(f"{prefix}.{name} = {_value(value)}" for name, value in values.items() if value != "")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
