"""Supervised fine-tuning: what `oprime sft` trains, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.lm.conversations import ConversationEncoder, EncodedConversation
from oprime.lm.lora import add_adapter
from oprime.lm.models import seed_process
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import pad_token_id
from oprime_cli.console import count, say
from oprime_cli.model_training.positions import Steps
from oprime_cli.model_training.steps import AfterStep, Training, make, require_devices
from oprime_cli.warm_up.config import SftSection
from oprime_cli.warm_up.data import ChainDemonstrations, Demonstrations, FileDemonstrations, StoredDemonstrations, hold_out
from oprime_cli.warm_up.plan import WarmUp, WarmUpSettings, plan_warm_up
from oprime_cli.warm_up.start import load_start
from oprime_cli.warm_up.trainer import StepResult, Trainer

NAME = "supervised fine-tuning"


def train(config: WarmUpSettings, *, after_step: AfterStep[StepResult] | None = None) -> Path:
    """Make the model that `[sft]` describes; see `model_training.steps.make`."""
    plan = plan_warm_up(config)
    return make(NAME, plan.folder, partial(_prepare, plan), after_step)


def _prepare(plan: WarmUp) -> Training[StepResult]:
    settings = plan.settings
    require_devices(settings, "sft")
    seed_process(settings.seed)
    start = load_start(plan)
    encoder = ConversationEncoder(start.tokenizer, start.end_ids)
    demonstrations, heldout = load_demonstrations(plan, encoder)
    steps = Steps.of(
        size=demonstrations.size, epochs=settings.epochs, steps=0 if settings.epochs else settings.steps, batch=settings.batch_rows
    )
    if settings.lora.rank:
        add_adapter(start.model, settings.lora, seed=settings.seed, setting="sft.lora")
    model = TokenLogprobModel(start.model, settings.logprob_chunk_tokens, packing=settings.packing)
    engine = DeepSpeedEngine(model, settings, dtype=plan.config.model.dtype, name="fine-tuning")
    trainer = Trainer(engine, model.packing, settings, demonstrations, steps, heldout, pad_id=pad_token_id(start.tokenizer))
    return Training(
        name=NAME,
        begins=f"{NAME} of {plan.start}: {steps.steps} steps of {settings.batch_rows} demonstrations",
        steps=steps.steps,
        save_every=settings.save_every,
        folder=plan.folder,
        start=replace(start, end_ids=(*sorted(encoder.turn_ends), *start.end_ids)),
        engine=engine,
        trainer=trainer,
        shown=shown,
        numbers=asdict,
        facts=_facts,
        tracking=plan.config.tracking,
        document={"model": plan.config.model.model_dump(mode="json"), "sft": settings.model_dump(mode="json")},
        evaluate=(lambda: {"heldout_loss": trainer.heldout_loss()}) if heldout else None,
        evaluate_every=settings.evaluate_every,
    )


def shown(result: StepResult) -> str:
    return f"loss {result.loss:.4f} nats per token"


def _facts(last: StepResult, evaluation: Mapping[str, float]) -> dict[str, Any]:
    return {"final_loss": last.loss, **evaluation}


def load_demonstrations(plan: WarmUp, encoder: ConversationEncoder) -> tuple[Demonstrations, Sequence[EncodedConversation]]:
    """What is trained on, and what is held out. Raises SettingsError for files that cannot be used."""
    settings = plan.settings
    if not settings.demonstrations:
        made = ChainDemonstrations(plan.config.tasks.chain, settings, encoder)
        return made, made.held_out(settings.heldout_rows) if settings.evaluates else ()
    stored = _stored(settings.demonstrations, "sft.demonstrations", settings, encoder)
    trained, kept = hold_out(len(stored), settings.heldout_share, settings.seed)
    heldout: Sequence[EncodedConversation] = [stored[place] for place in kept[: settings.heldout_rows]]
    if settings.heldout:
        other = _stored(settings.heldout, "sft.heldout", settings, encoder)
        heldout = [other[place] for place in range(min(len(other), settings.heldout_rows))]
    return FileDemonstrations(stored, trained, settings.seed), heldout


def _stored(location: str, setting: str, settings: SftSection, encoder: ConversationEncoder) -> StoredDemonstrations:
    found = StoredDemonstrations(location, setting, settings, encoder)
    counts = found.counts
    tokens, trained = count(counts.tokens), count(counts.trained_tokens)
    say(f"{NAME}: {count(len(found))} demonstrations in {location}, {tokens} tokens, of which the assistant says {trained}")
    for note in counts.notes(settings.max_tokens):
        say(f"note: {note}")
    return found
