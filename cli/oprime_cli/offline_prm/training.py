"""What `oprime prm train` trains, step by step."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import add_adapter, base_dtype, twin
from oprime.lm.models import load_causal_lm, longest_context, seed_process
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, pad_token_id, require_chat_template, same_tokenizer
from oprime.runtime.errors import SettingsError
from oprime_cli.console import say
from oprime_cli.model_training.files import Start
from oprime_cli.model_training.positions import Steps
from oprime_cli.model_training.steps import AfterStep, Training, make, require_devices
from oprime_cli.offline_prm.data import ChainGroups, Encoder, FileGroups, LabelledGroups
from oprime_cli.offline_prm.plan import OfflinePrm
from oprime_cli.offline_prm.trainer import OfflineTrainer, StepResult

NAME = "offline PRM"


def train(plan: OfflinePrm, *, after_step: AfterStep[StepResult] | None = None) -> Path:
    """Make the PRM that `[offline_prm]` describes; see `model_training.steps.make`."""
    return make(NAME, plan.folder, partial(_prepare, plan), after_step)


def _prepare(plan: OfflinePrm) -> Training[StepResult]:
    settings, model = plan.settings, plan.config.model
    require_devices(settings, "offline_prm")
    seed_process(settings.seed)
    start = _load_start(plan)
    groups = _groups(plan, Encoder(start.tokenizer, start.end_ids[0], _longest(plan, start)))
    steps = Steps.of(size=groups.size, epochs=settings.epochs, steps=settings.steps, batch=settings.batch_prompts)
    # ZeRO 3 leaves a rank no whole weights that another model could share.
    shares = settings.lora.rank > 0 and settings.zero_stage < 3 and plan.reference == plan.start
    reference = twin(start.model) if shares else None
    if settings.lora.rank:
        add_adapter(start.model, settings.lora, seed=settings.seed, setting="offline_prm.lora")
    scored = TokenLogprobModel(start.model, settings.logprob_chunk_tokens, packing=settings.packing)
    engine = DeepSpeedEngine(scored, settings, dtype=model.dtype, name="offline PRM")
    reference = reference or load_causal_lm(
        plan.reference, dtype=model.dtype, attention=model.attention, trust_remote_code=model.trust_remote_code
    )
    frozen = FrozenModel(reference, chunk_tokens=settings.logprob_chunk_tokens, packing=settings.packing, device=engine.device)
    online = settings.online(steps.steps)
    return Training(
        name=NAME,
        begins=f"{NAME} from {plan.start}, loss {settings.loss}: {steps.steps} steps of {settings.batch_prompts} prompts",
        steps=steps.steps,
        save_every=settings.save_every,
        folder=plan.folder,
        start=start,
        engine=engine,
        trainer=OfflineTrainer(engine, frozen, groups, online, steps, pad_id=pad_token_id(start.tokenizer)),
        shown=shown,
        numbers=asdict,
        tracking=plan.config.tracking,
        document=plan.config.model_dump(mode="json", include={"model", "tasks", "offline_prm"}),
        facts=lambda last, _: {"loss": settings.loss, "beta": settings.beta, "reference_model": plan.reference, "last_step": asdict(last)},
    )


def shown(result: StepResult) -> str:
    return f"loss {result.loss:.4f}, accuracy {result.accuracy:.2f}, of pairs {result.pairwise_accuracy:.2f}"


def _load_start(plan: OfflinePrm) -> Start:
    """Raises SettingsError for models that cannot be trained on, or that do not fit together."""
    model = plan.config.model
    tokenizer = load_tokenizer(plan.start, trust_remote_code=model.trust_remote_code)
    require_chat_template(tokenizer)
    if plan.reference != plan.start:
        difference = same_tokenizer(tokenizer, load_tokenizer(plan.reference, trust_remote_code=model.trust_remote_code))
        if difference is not None:
            raise SettingsError(
                f"offline_prm.reference_model ({plan.reference}) has another tokenizer than the model to begin with ({plan.start}): "
                f"{difference}; PRM and reference score the same tokens, so both must share one"
            )
    loaded = load_causal_lm(
        plan.start,
        dtype=base_dtype(plan.settings.lora, model.dtype),
        attention=model.attention,
        gradient_checkpointing=model.gradient_checkpointing,
        trust_remote_code=model.trust_remote_code,
    )
    return Start(loaded, tokenizer, end_token_ids(tokenizer, plan.start))


def _longest(plan: OfflinePrm, start: Start) -> int:
    """Raises SettingsError where the model's context is shorter than what the settings allow."""
    context, asked = longest_context(start.model.config), plan.settings.max_tokens
    if asked > context:
        raise SettingsError(
            f"offline_prm.max_tokens = {asked} is more than the {context} positions of {plan.start}: set offline_prm.max_tokens={context}"
        )
    return asked


def _groups(plan: OfflinePrm, encoder: Encoder) -> LabelledGroups:
    settings = plan.settings
    if not settings.data:
        return ChainGroups(plan.config.tasks.chain, settings, encoder)
    found = FileGroups(settings, encoder)
    say(f"{NAME}: {found.responses} responses to {found.size} prompts in {settings.data}")
    return found
