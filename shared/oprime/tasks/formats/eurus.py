"""Rows in the schema of Eurus-2-RL-Data, which oprime also writes.

    {"data_source": "numina_olympiads", "prompt": [{"role": "user", "content": "..."}], "ability": "math",
     "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 0, "split": "train"}}

`ability` chooses the verifier; a field `verifier` overrides it. `verifier_options` has options for this row alone.
"""

from collections.abc import Mapping
from typing import Any

from oprime.core.types import ChatMessage, Task
from oprime.tasks.chain import Problem, Split
from oprime.tasks.rows import BadRowError, RawRow, is_text, messages_of, row_object, shown

VERIFIER_OF_ABILITY = {"math": "math", "code": "code", "chain": "chain"}


class EurusReader:
    """The row format that is assumed of a file whose own is not recognised: its errors say what is missing."""

    name = "eurus"
    fields = ("data_source", "prompt", "ability", "reward_model", "verifier", "verifier_options")

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return "prompt" in row and "reward_model" in row

    def read(self, row: RawRow) -> Task:
        value = row_object(row)
        return Task(
            messages=_prompt(row, value),
            verifier=_verifier(row, value),
            ground_truth=_ground_truth(row, value),
            data_source=_data_source(row, value),
            verifier_options=_verifier_options(row, value),
        )


READER = EurusReader()


def chain_row(posed: Problem, index: int, split: Split) -> dict[str, Any]:
    """A problem of the built-in chain task as a row."""
    return {
        "data_source": "oprime_chain",
        "prompt": [{"role": "user", "content": posed.prompt}],
        "ability": "chain",
        "reward_model": {"style": "rule", "ground_truth": posed.ground_truth},
        "extra_info": {"index": index, "split": split},
    }


def _prompt(row: RawRow, value: Mapping[str, Any]) -> tuple[ChatMessage, ...]:
    return messages_of(row, "prompt", value.get("prompt"), last_role="user")


def _verifier(row: RawRow, value: Mapping[str, Any]) -> str:
    chosen = value.get("verifier")
    if chosen is not None:
        if not isinstance(chosen, str) or not chosen.strip():
            raise BadRowError(
                row, "verifier", "wrong verifier", f"must be the name of a verifier, not {shown(chosen)}; correct or remove it"
            )
        return chosen
    ability = value.get("ability")
    if not isinstance(ability, str) or ability not in VERIFIER_OF_ABILITY:
        rule = (
            f"must be one of {', '.join(VERIFIER_OF_ABILITY)}, not {shown(ability)}; correct it, or name a verifier in the field verifier"
        )
        raise BadRowError(row, "ability", "unknown ability", rule)
    return VERIFIER_OF_ABILITY[ability]


def _ground_truth(row: RawRow, value: Mapping[str, Any]) -> str:
    reward_model = value.get("reward_model")
    if not isinstance(reward_model, dict):
        rule = f"must be an object {{style, ground_truth}}, not {shown(reward_model)}; correct the row"
        raise BadRowError(row, "reward_model", "missing ground truth", rule)
    style = reward_model.get("style")
    if style not in (None, "rule"):
        rule = f'must be "rule", not {shown(style)}: oprime verifies answers and asks no other reward model; correct or remove the row'
        raise BadRowError(row, "reward_model.style", "wrong style", rule)
    truth = reward_model.get("ground_truth")
    field = "reward_model.ground_truth"
    if not is_text(truth):
        rule = f"must be a text that is not empty, not {shown(truth)}; remove the row, or write the answer as text"
        raise BadRowError(row, field, "missing ground truth", rule)
    return truth


def _data_source(row: RawRow, value: Mapping[str, Any]) -> str:
    source = value.get("data_source")
    if source is None or source == "":
        return ""
    if not is_text(source):
        raise BadRowError(row, "data_source", "wrong data source", f"must be a text, not {shown(source)}; correct or remove it")
    return source


def _verifier_options(row: RawRow, value: Mapping[str, Any]) -> dict[str, Any]:
    options = value.get("verifier_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        rule = f"must be an object such as {{cpu_s: 2}}, not {shown(options)}; correct or remove it (docs/verifier.md)"
        raise BadRowError(row, "verifier_options", "wrong verifier options", rule)
    # Parquet fills what a row leaves out with nulls.
    return {name: option for name, option in options.items() if option is not None}
