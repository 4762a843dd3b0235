"""The views that the report's template shows: tiles, the localisation table, and rollouts token by token."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from oprime.core.response_lengths import FATES, STALE, TRAINED, long_ones_are_lost, rollouts_by_length
from oprime.core.types import FinishReason
from oprime.core.verification import OutcomeStatus
from oprime.tasks.chain_tokenizer import first_wrong_token
from oprime_cli.report.charts import charts, number
from oprime_cli.report.data import Row, RunRecords

MAX_TOKENS_SHOWN = 600
MAX_TOKEN_CHARACTERS = 120
MAX_PROMPT_CHARACTERS = 2000
MAX_ROLLOUTS_PER_SIDE = 4
STEPS_SHOWN = 3
GROUPS_PER_STEP = 2
UNKNOWN = "\u2013"
MINUS = "\u2212"
RIGHT_FROM = 0.5
"""Rollouts with at least this outcome reward count as right."""

_SHOWN_AS = {"\n": "↵", "\t": "→"}
_SCORERS = {
    "prm_log_ratio": "implicit PRM, log-ratio to its reference",
    "reference_logprob": "reference model, plain log-prob",
    "policy_logprob": "trained policy, plain log-prob",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    label: str
    value: str
    note: str = ""
    state: str = ""
    """`good`, `bad` or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    text: str
    reward: str
    """The process reward as a short signed number."""
    title: str
    side: str
    """`negative`, `positive` or `zero`."""
    strength: int
    """Percent of the full colour."""
    breaks_line: bool
    first_wrong: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    index: int
    right: bool
    outcome: str
    tokens: tuple[Token, ...]
    hidden_tokens: int
    total: str
    """Sum of the process rewards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    step: int
    prm_version: int
    group_id: int
    prompt: str
    wrong: tuple[RolloutView, ...]
    right: tuple[RolloutView, ...]
    hidden_rollouts: int


def render(records: RunRecords) -> str:
    """The whole page. Model text reaches it only through the template's escaping."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("oprime_cli.report").joinpath("template.html.j2").read_text(encoding="utf-8"))
    chosen = choose_groups(records.samples)
    limit = colour_limit(chosen)
    return template.render(
        config=records.config,
        tiles=tiles(records),
        charts=charts(records),
        localisation=localisation_rows(records.localisation),
        localisation_note=localisation_note(records.localisation),
        benchmarks=records.benchmarks,
        recipe_tables=(records.recipe or {}).get("tables", ()),
        lengths=length_rows(records.steps),
        lengths_warning=long_ones_are_lost(rollouts_by_length(records.steps)),
        groups=[group_view(row, limit, chain=records.config.tasks.source == "chain") for row in chosen],
        limit=f"{limit:.2g}",
        ledger=sorted(_ledger(records.summary).items()),
        state=run_state(records),
        step=records.steps[-1]["step"] if records.steps else 0,
    )


def run_state(records: RunRecords) -> str:
    if records.summary is None:
        return "Still running, or interrupted,"
    result = records.summary.get("result", "ok")
    return "Finished" if result == "ok" else f"Ended ({result})"


def tiles(records: RunRecords) -> list[Tile]:
    """The run in a row of numbers."""
    steps, evaluations = records.steps, records.evaluations
    last = steps[-1] if steps else {}
    accuracy = Tile(label="PRM accuracy", value=percent(number(last, "prm_accuracy")), note="right or wrong response, last step")
    return [
        _before_after("Held-out accuracy, sampled", evaluations, "heldout_accuracy"),
        _before_after("Held-out accuracy, greedy", evaluations, "heldout_greedy_accuracy"),
        *([accuracy] if records.config.algorithm.needs_prm else []),
        _staleness_tile(records),
        _ledger_tile(records.summary),
        _seconds_tile(records),
    ]


def _before_after(label: str, evaluations: Sequence[Row], name: str) -> Tile:
    known = [(row["step"], number(row, name)) for row in evaluations if math.isfinite(number(row, name))]
    if not known:
        return Tile(label=label, value=UNKNOWN, note="not evaluated yet")
    (_, before), (step, after) = known[0], known[-1]
    if len(known) == 1:
        return Tile(label=label, value=percent(after), note=f"at step {step}")
    state = "good" if after > before else "bad" if after < before else ""
    return Tile(
        label=label, value=f"{percent(before)} → {percent(after)}", note=f"{100 * (after - before):+.0f} points by step {step}", state=state
    )


def _staleness_tile(records: RunRecords) -> Tile:
    bound = records.config.staleness.max_staleness
    seen = [number(row, "staleness_max") for row in records.steps if math.isfinite(number(row, "staleness_max"))]
    if not seen:
        return Tile(label="Largest staleness", value=UNKNOWN, note=f"bound S = {bound}")
    largest = max(seen)
    kept = largest <= bound
    return Tile(
        label="Largest staleness",
        value=f"{largest:.0f} {'≤' if kept else '>'} {bound}",
        note="bound S kept at every step" if kept else "the bound S was broken",
        state="good" if kept else "bad",
    )


def _ledger(summary: Row | None) -> dict[str, int]:
    ledger = (summary or {}).get("ledger_states", {})
    return {str(state): count for state, count in ledger.items() if isinstance(count, int) and not isinstance(count, bool)}


def _ledger_tile(summary: Row | None) -> Tile:
    """issued = trained + baseline + filtered + dropped + dead + live."""
    ledger = _ledger(summary)
    if "issued" not in ledger:
        return Tile(label="Ledger of rollouts", value=UNKNOWN, note="counted when the run has ended")
    accounted = sum(count for state, count in ledger.items() if state != "issued")
    # The summary's own verdict also compares the counts with the entries themselves.
    closed = accounted == ledger["issued"] and (summary or {}).get("ledger_closed") is True
    return Tile(
        label="Ledger of rollouts",
        value="closed" if closed else "open",
        note=f"{accounted:,} of {ledger['issued']:,} issued accounted for",
        state="good" if closed else "bad",
    )


def _seconds_tile(records: RunRecords) -> Tile:
    """Seconds of the whole run where its summary tells them, else those of training so far."""
    phases = (records.summary or {}).get("seconds")
    done = records.steps[-1]["step"] if records.steps else 0
    note = f"{done} of {records.config.run.steps} train steps"
    if isinstance(phases, dict):
        training = number(phases, "train")
        return Tile(label="Time", value=duration(number(phases, "total")), note=f"{note}, {duration(training)} of it training")
    rows = (*records.steps, *records.evaluations)
    elapsed = max((number(row, "elapsed_s") for row in rows if math.isfinite(number(row, "elapsed_s"))), default=math.nan)
    return Tile(label="Time", value=duration(elapsed), note=note)


def length_rows(steps: Sequence[Row]) -> list[dict[str, str]]:
    """One row per bucket of response lengths, shortest first: rollouts by what became of them, and the share that became stale."""
    rows: list[dict[str, str]] = []
    for bucket, fates in rollouts_by_length(steps).items():
        finished = fates[TRAINED] + fates[STALE]
        share = percent(fates[STALE] / finished) if finished else UNKNOWN
        # Half of a power of two, which the bucket before holds.
        tokens = f"{bucket // 2 + 1:,} to {bucket:,}" if bucket > 2 else str(bucket)
        rows.append({"tokens": tokens, "stale_share": share} | {fate: f"{fates[fate]:,}" for fate in FATES})
    return rows


def localisation_rows(localisation: Row | None) -> list[dict[str, str]]:
    """One row per kind of error and scorer, best to read beside each other."""
    rows: list[dict[str, str]] = []
    for kind, scorers in (localisation or {}).get("errors", {}).items():
        for name, label in _SCORERS.items():
            if name in scorers:
                values = {metric: decimals(number(scorers[name], metric)) for metric in ("auc", "top1", "f1")}
                rows.append({"kind": kind, "scorer": label, "ours": "yes" if name == "prm_log_ratio" else "", **values})
    return rows


def localisation_note(localisation: Row | None) -> str:
    if localisation is None:
        return "Not measured in this run."
    if "errors" not in localisation:
        return f"Not measured: {localisation.get('skipped', 'no reason was recorded')}."
    return (
        f"{localisation['wrong']} chains with a wrong step and {localisation['right']} right ones per kind of error, scored by PRM version "
        f"{localisation['prm_version']}, which never saw a label of a single step. Plain log-probs are the baseline to beat."
    )


def choose_groups(samples: Sequence[Row]) -> list[Row]:
    """Groups of the first, middle and last sampled step; those with right and wrong rollouts first."""
    steps = sorted({row["step"] for row in samples})
    places = {round(i * (len(steps) - 1) / (STEPS_SHOWN - 1)) for i in range(STEPS_SHOWN)} if steps else set()
    chosen: list[Row] = []
    for place in sorted(places):
        of_step = [row for row in samples if row["step"] == steps[place]]
        chosen += sorted(of_step, key=lambda row: len({_is_right(rollout) for rollout in row["rollouts"]}), reverse=True)[:GROUPS_PER_STEP]
    return chosen


def colour_limit(groups: Sequence[Row]) -> float:
    """The reward of full colour: one limit for the page, so that steps compare; 1 in 50 tokens may lie beyond it."""
    sizes = sorted(
        abs(reward) for row in groups for rollout in row["rollouts"] for reward in rollout["process_rewards"] if math.isfinite(reward)
    )
    largest = sizes[math.ceil(0.98 * len(sizes)) - 1] if sizes else 0.0
    return largest or 1.0


def group_view(row: Row, limit: float, *, chain: bool) -> GroupView:
    views = [_rollout_view(rollout, row["prompt"], limit, chain=chain) for rollout in row["rollouts"]]
    wrong = tuple(view for view in views if not view.right)
    right = tuple(view for view in views if view.right)
    shown_wrong, shown_right = wrong[:MAX_ROLLOUTS_PER_SIDE], right[:MAX_ROLLOUTS_PER_SIDE]
    return GroupView(
        step=row["step"],
        prm_version=row["prm_version"],
        group_id=row["group_id"],
        prompt=shorten(visible(row["prompt"], keep_lines=True), MAX_PROMPT_CHARACTERS),
        wrong=shown_wrong,
        right=shown_right,
        hidden_rollouts=len(views) - len(shown_wrong) - len(shown_right),
    )


def _is_right(rollout: dict[str, Any]) -> bool:
    return rollout["outcome_reward"] >= RIGHT_FROM


def _rollout_view(rollout: dict[str, Any], prompt: str, limit: float, *, chain: bool) -> RolloutView:
    rewards: list[float] = rollout["process_rewards"]
    tokens: list[str] = rollout["tokens"]
    first_wrong = first_wrong_token(prompt, tokens) if chain and not _is_right(rollout) else None
    status = "" if rollout["outcome_status"] == OutcomeStatus.SCORED else f", {rollout['outcome_status']}"
    cut = ", cut at the token limit" if rollout["finish_reason"] == FinishReason.LENGTH else ""
    return RolloutView(
        index=rollout["index"],
        right=_is_right(rollout),
        outcome=f"outcome {rollout['outcome_reward']:g}{status}{cut}",
        tokens=tuple(
            token_view(text, reward, logprob, limit, first_wrong=place == first_wrong)
            for place, (text, reward, logprob) in enumerate(
                zip(tokens[:MAX_TOKENS_SHOWN], rewards, rollout["behaviour_logprobs"], strict=False),
            )
        ),
        hidden_tokens=max(0, len(tokens) - MAX_TOKENS_SHOWN),
        total=signed(sum(rewards)),
    )


def token_view(text: str, reward: float, logprob: float, limit: float, *, first_wrong: bool) -> Token:
    strength = min(100, round(100 * abs(reward) / limit)) if math.isfinite(reward) else 0
    side = "zero" if strength == 0 else "negative" if reward < 0 else "positive"
    note = "first wrong step; " if first_wrong else ""
    return Token(
        text=shorten(visible(text), MAX_TOKEN_CHARACTERS),
        reward=signed(reward),
        title=f"{note}process reward {reward:+.4f}, behaviour log-prob {logprob:.3f}",
        side=side,
        strength=strength,
        breaks_line=text.endswith("\n"),
        first_wrong=first_wrong,
    )


def visible(text: str, *, keep_lines: bool = False) -> str:
    """Show characters that cannot be seen, or that would move their neighbours (text direction), by name."""
    return "".join(character if keep_lines and character == "\n" else _visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in _SHOWN_AS:
        return _SHOWN_AS[character]
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else UNKNOWN


def decimals(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else UNKNOWN


def signed(value: float) -> str:
    """Two significant places with a true minus sign; plain 0 for what rounds to it."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{value:+.2f}"
    return "0" if float(text) == 0 else text.replace("-", MINUS)


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
