"""Supervised warm-up on one process: cross-entropy of the response's tokens, AdamW, one cycle of the learning rate."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, pad_token_id, require_chat_template
from oprime.runtime.errors import SettingsError
from oprime.tasks.chain_tokenizer import BEGIN, END, PAD, VOCABULARY, chain_tokenizer
from oprime_cli.console import duration, say
from oprime_cli.run_config import RunConfig, SftSection
from oprime_cli.warm_up.data import (
    ChainDemonstrations,
    Demonstration,
    Demonstrations,
    Encoder,
    FileDemonstrations,
    PackedRows,
    packed_places,
    packed_rows,
)
from oprime_cli.warm_up.state import SftFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK_TOKENS = 1024
NEW_MODEL = "a new tiny model"
NEW_MODEL_POSITIONS = 128
FIRST_RATE = 1 / 25
LAST_RATE = 1e-4 / 25
"""Where the learning rate begins and ends, as shares of its peak."""
LEAK_TOLERANCE = 1e-3
"""Nats by which a token's log-prob may change when other documents share its row."""
SAY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What training begins with."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    end_ids: tuple[int, ...]


class Progress:
    """Says every few seconds how far the training is."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._said > SAY_EVERY_S or step == steps:
            self._said = now
            say(f"  step {step}/{steps}, loss {loss:.4f} nats per token, {duration(now - self._began)}")


def train(config: RunConfig, *, after_step: Callable[[int, int, float], None] | None = None) -> Path:
    """Make the model that `[sft]` describes, or find it finished; returns its directory.

    `after_step` hears of each step's number from 1, the number of steps, and the loss in nats per response token; by default
    it prints. A run that was interrupted goes on from its last saved state and ends with the same weights. Raises
    SettingsError, CheckpointError or RunBusyError.
    """
    settings = _settings(config)
    start_name = _start_name(config, settings)
    folder = SftFolder(Path(settings.output or config.model.path), _identity(config, settings, start_name))
    if folder.finished():
        say(f"supervised warm-up: {folder.output} is finished already")
        return folder.output
    if start_name == str(Path(settings.output or config.model.path)):
        raise SettingsError(f"sft.output and the model to begin with are both {start_name}: name another sft.output, or another sft.start")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with folder.lock():
        _train(config, settings, start_name, folder, after_step or Progress())
    return folder.output


def _train(
    config: RunConfig, settings: SftSection, start_name: str, folder: SftFolder, after_step: Callable[[int, int, float], None]
) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    start = _load_start(config, settings, start_name)
    demonstrations = _demonstrations(config, settings, Encoder(start.tokenizer, start.end_ids))
    trainer = Trainer(start.model, settings, pad_id=pad_token_id(start.tokenizer), dtype=config.model.dtype)
    done = folder.load(start.model, trainer.optimizer)
    say(
        f"supervised warm-up of {start_name}: {settings.steps} steps of {settings.batch_rows} demonstrations"
        + (f", from step {done}" if done else "")
    )
    trainer.choose_packing([demonstrations.at(position) for position in range(min(3, settings.batch_rows))])
    loss = math.nan
    for step in range(done, settings.steps):
        first = step * settings.batch_rows
        loss = trainer.step(step, [demonstrations.at(first + place) for place in range(settings.batch_rows)])
        if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
            folder.save(step + 1, start.model, trainer.optimizer)
        after_step(step + 1, settings.steps, loss)
    start.model.config.use_cache = True
    folder.finish(start.model, start.tokenizer, {"final_loss": loss})
    say(f"supervised warm-up: wrote {folder.output}")


class Trainer:
    """A model with its optimizer. A step's result depends on the weights, the moments and the step's number alone."""

    def __init__(self, model: "PreTrainedModel", settings: SftSection, *, pad_id: int, dtype: str) -> None:
        self._model = model.train()
        self._head = TokenLogprobModel(model, CHUNK_TOKENS).head
        self._settings = settings
        self._pad_id = pad_id
        self._half = dtype == "bfloat16"
        self._packs = True
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    @torch.no_grad()
    def choose_packing(self, probe: Sequence[Demonstration]) -> None:
        """Pack documents only if this model keeps them apart: compare each one's log-probs alone and beside others."""
        together = self._logprobs(packed_rows([probe], self._pad_id), packs=True)
        alone = torch.cat([self._logprobs(packed_rows([[found]], self._pad_id), packs=False) for found in probe])
        leak = float((together - alone).abs().max())
        tolerance = LEAK_TOLERANCE * (100 if self._half else 1)
        self._packs = leak <= tolerance
        if not self._packs:
            say(f"  this model lets packed demonstrations see each other (by {leak:.2g} nats): one demonstration per row")

    def step(self, number: int, demonstrations: Sequence[Demonstration]) -> float:
        """One optimizer step; returns the mean loss per response token, in nats."""
        settings = self._settings
        tokens = sum(len(found.ids) - found.prompt_tokens for found in demonstrations)
        total = 0.0
        for rows in self._micro_batches(demonstrations):
            loss = -self._logprobs(rows, packs=self._packs).sum() / tokens
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = one_cycle(number, settings.steps, settings.learning_rate, settings.warmup_ratio)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _micro_batches(self, demonstrations: Sequence[Demonstration]) -> Iterator[PackedRows]:
        lengths = [len(found.ids) for found in demonstrations]
        places = packed_places(lengths, self._settings.max_tokens) if self._packs else [[place] for place in range(len(lengths))]
        for first in range(0, len(places), self._settings.micro_batch_rows):
            rows = places[first : first + self._settings.micro_batch_rows]
            yield packed_rows([[demonstrations[place] for place in row] for row in rows], self._pad_id)

    def _logprobs(self, rows: PackedRows, *, packs: bool) -> Tensor:
        """Log-prob of each response token, row by row; [token] float32."""
        device = self._head.weight.device
        input_ids, is_response = rows.input_ids.to(device), rows.is_response.to(device)
        with self._compute_type():
            hidden = self._model.base_model(input_ids=input_ids, use_cache=False, **self._masks(rows, packs=packs)).last_hidden_state
        row, token = is_response.nonzero(as_tuple=True)
        return self._head(hidden[row, token - 1].float(), input_ids[row, token])

    def _masks(self, rows: PackedRows, *, packs: bool) -> dict[str, Tensor]:
        device = self._head.weight.device
        if not packs:
            return {"attention_mask": (rows.document > 0).long().to(device)}
        sees = rows.sees.to(device)
        if self._model.config._attn_implementation == "eager":
            sees = torch.zeros(sees.shape, device=device).masked_fill(~sees, torch.finfo(torch.float32).min)
        return {"attention_mask": sees, "position_ids": rows.position_ids.to(device)}

    def _compute_type(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._head.weight.device.type, torch.bfloat16) if self._half else nullcontext()


def one_cycle(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Learning rate of step 0, 1, ...: grows to `peak` over the warm-up, then falls to almost 0, both along a cosine."""
    warmup = warmup_ratio * steps
    if step < warmup:
        return _cosine(FIRST_RATE * peak, peak, step / warmup)
    return _cosine(peak, LAST_RATE * peak, (step - warmup) / max(steps - 1 - warmup, 1))


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def _settings(config: RunConfig) -> SftSection:
    if config.sft is None:
        raise SettingsError("these settings have no section [sft]: add it to make a starting model, or go straight to `oprime train`")
    if not config.sft.demonstrations and config.tasks.source != "chain":
        raise SettingsError(
            'sft.demonstrations is empty: name a JSONL or parquet file (only tasks.source = "chain" has a teacher built in)'
        )
    return config.sft


def _start_name(config: RunConfig, settings: SftSection) -> str:
    if settings.start:
        return settings.start
    makes_model_path = Path(settings.output or config.model.path) == Path(config.model.path)
    is_new = not settings.demonstrations and (makes_model_path or not Path(config.model.path).exists())
    return NEW_MODEL if is_new else str(Path(config.model.path))


def _identity(config: RunConfig, settings: SftSection, start_name: str) -> dict[str, Any]:
    """Everything that decides the resulting weights."""
    passed_over = {"start", "output", "save_every", "threads", "device", "demonstrations"}
    identity = {f"sft.{name}": value for name, value in settings.model_dump(exclude=passed_over).items()}
    identity |= {"model to begin with": Path(start_name).name, "model.dtype": config.model.dtype}
    if settings.demonstrations:
        path = Path(settings.demonstrations)
        return identity | {"sft.demonstrations": path.name, "size of sft.demonstrations": path.stat().st_size if path.is_file() else None}
    chain = config.tasks.chain
    return identity | {"tasks.chain.operations": chain.operations, "tasks.chain.teacher_seed": chain.teacher_seed}


def _load_start(config: RunConfig, settings: SftSection, start_name: str) -> Start:
    device = _device(settings)
    if device.type == "cpu":
        # transformers imports DeepSpeed when it saves, which warns on finding no GPU unless it is told.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if start_name == NEW_MODEL:
        tokenizer = chain_tokenizer(NEW_MODEL_POSITIONS)
        return Start(model=new_chain_model(settings.seed).to(device), tokenizer=tokenizer, end_ids=(VOCABULARY.index(END),))  # pyright: ignore[reportArgumentType]
    tokenizer = load_tokenizer(start_name, trust_remote_code=config.model.trust_remote_code)
    require_chat_template(tokenizer)
    model = load_causal_lm(
        start_name,
        # Packing needs a mask of its own, which flash attention cannot take.
        attention="eager" if config.model.attention == "eager" else "sdpa",
        device=device,
        gradient_checkpointing=config.model.gradient_checkpointing,
        trust_remote_code=config.model.trust_remote_code,
    )
    return Start(model=model, tokenizer=tokenizer, end_ids=end_token_ids(tokenizer, start_name))


def new_chain_model(seed: int) -> "PreTrainedModel":
    """The chain task's model before training: a Llama of 0.1 M weights, whose head size of 32 vLLM can serve on a CPU.

    Not a Qwen2: transformers reads the tokenizer of every Qwen2 as Qwen's own, whatever its files say.
    """
    from transformers import LlamaConfig

    shape = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=NEW_MODEL_POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=VOCABULARY.index(PAD),
        bos_token_id=VOCABULARY.index(BEGIN),
        eos_token_id=VOCABULARY.index(END),
    )
    return random_causal_lm(shape, seed)


def _demonstrations(config: RunConfig, settings: SftSection, encoder: Encoder) -> Demonstrations:
    if not settings.demonstrations:
        return ChainDemonstrations(config.tasks.chain, settings.seed, encoder, settings.max_tokens)
    found = FileDemonstrations(settings, encoder)
    say(f"supervised warm-up: {len(found)} demonstrations in {settings.demonstrations}")
    return found


def _device(settings: SftSection) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError('sft.device = "cuda", but torch sees no GPU here: set sft.device = "auto" or "cpu"')
    uses_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if uses_gpu else "cpu")
