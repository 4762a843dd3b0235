"""Supervised warm-up: what `oprime sft` trains, step by step."""

from functools import partial
from pathlib import Path

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.lm.lora import add_adapter
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import pad_token_id
from oprime_cli.console import say
from oprime_cli.model_training.steps import AfterStep, Training, make, require_devices
from oprime_cli.run_config import RunConfig
from oprime_cli.warm_up.data import ChainDemonstrations, Demonstrations, Encoder, FileDemonstrations
from oprime_cli.warm_up.plan import WarmUp, plan_warm_up
from oprime_cli.warm_up.start import load_start
from oprime_cli.warm_up.trainer import Trainer

NAME = "supervised warm-up"


def train(config: RunConfig, *, after_step: AfterStep[float] | None = None) -> Path:
    """Make the model that `[sft]` describes; see `model_training.steps.make`. `after_step` hears of losses in nats per trained token."""
    plan = plan_warm_up(config)
    return make(NAME, plan.folder, partial(_prepare, plan), after_step)


def _prepare(plan: WarmUp) -> Training[float]:
    settings = plan.settings
    require_devices(settings, "sft")
    start = load_start(plan)
    demonstrations = _demonstrations(plan, Encoder(start.tokenizer, start.end_ids))
    if settings.lora.rank:
        add_adapter(start.model, settings.lora, seed=settings.seed, setting="sft.lora")
    model = TokenLogprobModel(start.model, settings.logprob_chunk_tokens, packing=settings.packing)
    engine = DeepSpeedEngine(model, settings, dtype=plan.config.model.dtype, name="warm-up")
    return Training(
        name=NAME,
        begins=f"{NAME} of {plan.start}: {settings.steps} steps of {settings.batch_rows} demonstrations",
        steps=settings.steps,
        save_every=settings.save_every,
        folder=plan.folder,
        start=start,
        engine=engine,
        trainer=Trainer(engine, model.packing, settings, demonstrations, pad_id=pad_token_id(start.tokenizer)),
        shown=shown,
        facts=lambda loss: {"final_loss": loss},
    )


def shown(loss: float) -> str:
    return f"loss {loss:.4f} nats per token"


def _demonstrations(plan: WarmUp, encoder: Encoder) -> Demonstrations:
    settings = plan.settings
    if not settings.demonstrations:
        return ChainDemonstrations(plan.config.tasks.chain, settings.seed, encoder, settings.max_tokens)
    found = FileDemonstrations(settings, encoder)
    say(f"{NAME}: {len(found)} demonstrations in {settings.demonstrations}")
    return found
