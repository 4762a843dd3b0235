"""What `oprime sft --dry-run` looks at and shows: model, data as the model will see them, and sizes. Loads no weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from oprime.lm.conversations import ConversationEncoder, EncodedConversation
from oprime.lm.tokenizers import end_token_ids
from oprime.runtime.errors import OprimeError, SettingsError
from oprime.tasks.conversation_formats.registry import open_conversations
from oprime.tasks.rows import BadRowError
from oprime_cli.console import count, say, show, size
from oprime_cli.planning.check_machine import missing_notes
from oprime_cli.planning.estimate import training_memory
from oprime_cli.planning.hub import ask_only_the_cache_when_away
from oprime_cli.planning.model_files import facts, locate
from oprime_cli.running.failures import PlanRefusedError
from oprime_cli.warm_up.config import SftSection
from oprime_cli.warm_up.data import ChainDemonstrations, demonstration_of_row, rewritten_note
from oprime_cli.warm_up.plan import WarmUp, beyond_positions
from oprime_cli.warm_up.templates import load_chat_tokenizer

FIRST_ROWS = 100
SHOWN_CHARACTERS = 1200


@dataclass(slots=True)
class Preview:
    """Facts to show, and everything that speaks against the training."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    example: Text | None = None


def preview(plan: WarmUp) -> Preview:
    """Looks at the model's files and the first rows; collects problems and raises nothing for them."""
    found = Preview()
    settings = plan.settings
    found.notes += missing_notes(plan.config.tracking)
    found.facts["result"] = f"{plan.folder.output}, from {plan.start}"
    how_long = f"{settings.epochs} epochs" if settings.epochs else f"{count(settings.steps)} steps"
    found.facts["training"] = (
        f"{how_long} of {settings.batch_rows} demonstrations a step, learning rate {settings.learning_rate:g}, {settings.schedule}, "
        f"{plan.config.model.dtype}, {settings.ranks} rank(s), ZeRO {settings.zero_stage}"
    )
    if plan.makes_a_model:
        found.facts["data"] = "the chain task's teacher"
        return found
    ask_only_the_cache_when_away()
    try:
        directory = locate(plan.start)
        _look_at_model(plan, directory, found)
        _look_at_data(plan, directory, found)
    except OprimeError as error:
        found.problems.append(str(error))
    return found


def show_preview(plan: WarmUp, found: Preview) -> None:
    """Raises PlanRefusedError with every problem, once all is shown."""
    table = Table(title=f"plan of {plan.folder.output.name}", show_header=False)
    for name, value in found.facts.items():
        table.add_row(name, value)
    show(table)
    if found.example is not None:
        say("the first demonstration, with what is trained on between « and »:")
        show(found.example)
    for note in found.notes:
        say(f"note: {note}")
    if found.problems:
        raise PlanRefusedError(found.problems)


def _look_at_model(plan: WarmUp, directory: Path, found: Preview) -> None:
    model, settings = facts(directory), plan.settings
    how = "counted" if model.counted else "estimated"
    found.facts["model"] = f"{plan.start}: {count(model.parameters)} parameters ({how})"
    memory = training_memory(
        plan.config.model,
        settings,
        model,
        tokens=settings.micro_batch_tokens or settings.micro_batch_rows * settings.max_tokens,
        lora=settings.lora,
    )
    found.facts["memory"] = f"about {size(memory.total)} a rank"
    if 0 < model.max_positions < settings.max_tokens:
        found.notes.append(beyond_positions(settings.max_tokens, model.max_positions, plan.start))


def _look_at_data(plan: WarmUp, directory: Path, found: Preview) -> None:
    settings = plan.settings
    tokenizer = load_chat_tokenizer(plan, directory)
    encoder = ConversationEncoder(tokenizer, end_token_ids(tokenizer, directory))
    if settings.demonstrations:
        usable = _first(settings.demonstrations, "sft.demonstrations", settings, encoder, found)
    else:
        made = ChainDemonstrations(plan.config.tasks.chain, settings, encoder)
        usable = [made.at(place) for place in range(FIRST_ROWS)]
    _describe("demonstrations", usable, found)
    if settings.heldout:
        _describe("held out", _first(settings.heldout, "sft.heldout", settings, encoder, found), found)
    if encoder.turn_ends:
        names = ", ".join(str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(encoder.turn_ends))
        found.notes.append(f"the chat template ends turns with {names}, at which {plan.start} does not stop: the result will")
    found.example = _example(tokenizer, usable[0])


def _first(location: str, setting: str, settings: SftSection, encoder: ConversationEncoder, found: Preview) -> list[EncodedConversation]:
    """Of the first rows those that can be used; the others become problems, unless they may be skipped."""
    reader, rows = open_conversations(location, setting, settings.reader, "sft.reader")
    usable: list[EncodedConversation] = []
    bad: list[str] = []
    for row in islice(rows, FIRST_ROWS):
        try:
            one = demonstration_of_row(row, reader, encoder, settings)
        except BadRowError as error:
            bad.append(f"{setting}: {error}")
            continue
        usable += [] if one is None else [one]
    if not usable:
        raise SettingsError("; ".join([*bad[:3], f"{setting} = {location} has no usable row among its first {FIRST_ROWS}"]))
    found.problems += [] if settings.skip_bad_rows else bad[:3]
    return usable


def _describe(name: str, usable: Sequence[EncodedConversation], found: Preview) -> None:
    tokens = [len(one.ids) for one in usable]
    trained = sum(int(one.is_trained.sum()) for one in usable)
    found.facts[name] = (
        f"of the first {len(usable)}: {count(sum(tokens) / len(tokens))} tokens on average, {count(max(tokens))} at most, "
        f"{trained / sum(tokens):.0%} of them trained on"
    )
    if rewritten := sum(one.rewritten for one in usable):
        found.notes.append(rewritten_note(rewritten))


def _example(tokenizer: Any, one: EncodedConversation) -> Text:
    """Context is dim; what is trained on stands between marks, for terminals without colours."""
    text, start = Text(), 0
    ids, is_trained = one.ids.tolist(), one.is_trained.tolist()
    while start < len(ids):
        end = next((place for place in range(start, len(ids)) if is_trained[place] != is_trained[start]), len(ids))
        part = tokenizer.decode(ids[start:end])
        short = part if len(part) <= SHOWN_CHARACTERS else f"{part[: SHOWN_CHARACTERS // 2]} […] {part[-SHOWN_CHARACTERS // 2 :]}"
        text.append(f"«{short}»" if is_trained[start] else short, style="bold green" if is_trained[start] else "dim")
        start = end
    return text
