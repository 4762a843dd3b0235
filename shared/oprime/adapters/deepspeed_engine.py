"""The train engine on DeepSpeed: ZeRO 0 to 3, gloo on CPUs and NCCL on GPUs. The only module that imports deepspeed.

DeepSpeed averages gradients over ranks and micro-batches; this engine undoes both, so that an optimizer step is taken on the
sum of all losses and neither the number of ranks, the micro-batch size nor the ZeRO stage changes what is learned.
"""

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from oprime.adapters.engine_state import ShardReader, ShardWriter, read_random_state, read_state, write_random_state
from oprime.adapters.rank_group import RankGroup
from oprime.core.token_rows import TokenRows
from oprime.runtime.errors import CheckpointError, OprimeError, RunEndedError, SettingsError
from oprime.runtime.training_settings import EngineSection

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")


class TokenModel(Protocol):
    """What the engine trains, a number per response token: `oprime.lm.token_logprobs.TokenLogprobModel`, or `TokenValueModel`.

    Called with `entropies` (as the policy is), it returns a pair of such tensors.
    """

    @property
    def trained(self) -> nn.Module:
        """The part that is trained, saved and published, under the names that it gives its weights."""
        ...

    @property
    def shares_prompts(self) -> bool:
        """See `TrainEngine.shares_prompts`."""
        ...

    def merged(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights of `trained`, by their names in it and in its order, with adapters added to what they adapt."""
        ...

    def as_in_files(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights of `trained` without adapters, by their names in it, as its files have them."""
        ...

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, is_trained: Tensor) -> Any: ...


class DeepSpeedEngine:
    """A language model with AdamW, spread over the ranks of one process group. Implements `oprime.ports.TrainEngine`.

    `model` comes with float32 weights, which become the master weights; what is frozen in it, below adapters, may come in `dtype`. With
    dtype bfloat16 the model computes in bfloat16 while gradients are summed, and weights updated, in float32. The ranks are those of a
    `RankGroup`. `name` is what errors call it.
    """

    def __init__(
        self, model: TokenModel, settings: EngineSection, dtype: Literal["float32", "bfloat16"] = "float32", *, name: str = "model"
    ) -> None:
        self._settings = settings
        self._name = name
        self._bfloat16 = dtype == "bfloat16"
        self._on_gpu = _choose_accelerator(settings)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.group = RankGroup(on_gpu=self._on_gpu)
        if settings.ranks != self.world_size:
            raise SettingsError(
                f"ranks is {settings.ranks}, but {self.world_size} processes were started: start one per rank, with RANK and WORLD_SIZE set"
            )
        self._network = model.trained
        self.shares_prompts = model.shares_prompts
        self._merged, self._as_in_files = model.merged, model.as_in_files
        self._stage = _zero_stage(settings, bfloat16=self._bfloat16)
        exact = dict(_finer_than_bfloat16(self._trained())) if self._bfloat16 else {}
        self._engine: Any = self._initialize(model)
        self._base_optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        self._set_masters(exact)

    def _initialize(self, model: TokenModel) -> Any:
        # DeepSpeed 0.19 calls torch functions that have newer names: no concern of ours.
        warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+. is deprecated", category=FutureWarning)
        config = _deepspeed_config(self._settings, stage=self._stage, bfloat16=self._bfloat16, on_gpu=self._on_gpu)
        # It reports its own memory on standard output while it starts.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import deepspeed  # reads DS_ACCELERATOR

            # It would compile a shared-memory all-reduce for CPUs at the first start; gloo does without a compiler.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            trained = [parameter for parameter in cast("nn.Module", model).parameters() if parameter.requires_grad]
            engine, *_ = deepspeed.initialize(model=cast("nn.Module", model), model_parameters=cast("Any", trained), config=config)
        return engine

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def world_size(self) -> int:
        return self.group.world_size

    @property
    def device(self) -> torch.device:
        return self._engine.device

    # Computing

    @torch.no_grad()
    def logprobs(self, rows: TokenRows) -> Tensor:
        """See `TrainEngine.logprobs`. With ZeRO 3 all ranks must call it equally often; rows may be empty."""
        self._engine.eval()
        return self._forward(rows)[0].float().cpu()

    def values(self, rows: TokenRows) -> Tensor:
        """See `TrainEngine.values`. Collective as `logprobs` is."""
        return self.logprobs(rows)

    def train_step(
        self, micro_batches: Sequence[TokenRows], loss: Callable[..., Tensor], *, learning_rate: float, entropies: bool = False
    ) -> float:
        """See `TrainEngine.train_step`. Returns the global norm before clipping.

        Raises RunEndedError on every rank, with the weights as they were, if that norm or the loss of any rank is not finite: the same
        batch would always give the same.
        """
        if not micro_batches:
            raise ValueError("train_step got no micro-batches: every rank must give equally many, at least one (it may be empty)")
        self._engine.train()
        total = torch.zeros((), device=self.device)
        for index, rows in enumerate(micro_batches):
            self._engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            outputs = self._forward(rows, entropies=entropies)
            share = loss(index, *outputs)
            # A micro-batch without a say (no rows, no weight) still takes part in the ranks' collective calls.
            share = share.to(outputs[0].device) + 0.0 * outputs[0].sum()
            total += share.detach()
            # DeepSpeed divides the ranks' sum by their number.
            self._engine.backward(share * self.world_size)
        self._require_finite("loss", float(self.all_sum(total.double())))
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._step()
        self._require_finite("gradient norm", norm)
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise RunEndedError(
                f"the {what} of the {self._name} is {value}, so no optimizer step was taken and the weights are as before: look for "
                "infinite or missing rewards and log-probs in this batch, or lower its learning rate or gradient_clip before you resume"
            )

    def _forward(self, rows: TokenRows, *, entropies: bool = False) -> tuple[Tensor, ...]:
        """The model's outputs for `rows`; without rows, a row of one token runs instead and an empty slice of its results is returned."""
        _require_usable(rows)
        empty = rows.input_ids.shape[0] == 0
        input_ids = torch.zeros(1, 1, dtype=torch.int64) if empty else rows.input_ids
        attention_mask = torch.ones(1, 1, dtype=torch.bool) if empty else rows.attention_mask
        is_trained = torch.zeros(1, 1, dtype=torch.bool) if empty else rows.is_trained
        inputs = (tensor.to(self.device) for tensor in (input_ids, attention_mask, is_trained))
        found = self._engine(*inputs, **({"entropies": True} if entropies else {}))
        outputs: tuple[Tensor, ...] = found if isinstance(found, tuple) else (found,)
        return tuple(output[:0].expand(0, rows.input_ids.shape[1]) for output in outputs) if empty else outputs

    def _step(self) -> float:
        """The gradient norm, after an optimizer step if it is finite; otherwise without one."""
        if self._stage:
            self._engine.step()
            return float(self._engine.get_global_grad_norm())
        # DeepSpeed clips here without telling the norm, so its own clipping is off and this one instead.
        norm = float(nn.utils.clip_grad_norm_([parameter for _, parameter in self._trained()], self._settings.gradient_clip))
        if math.isfinite(norm):
            self._engine.step()
        return norm

    # Weights

    def weights(self, *, master: bool = False) -> Iterator[tuple[str, Tensor]]:
        """See `TrainEngine.weights`: float32, or bfloat16 if that is what the model computes in. Tied weights come once.

        With `master` those that are trained are the optimizer's own, float32 whatever the model computes in.
        """
        return self._merged(self._held_weights(master=master))

    def trained_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `TrainEngine.trained_weights`."""
        return ((name, self._on_cpu(parameter)) for name, parameter in self._trained())

    def _held_weights(self, *, master: bool) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._network.named_parameters():
            yield name, self._on_cpu(parameter, master=master and parameter.requires_grad)
        stored = set(self._network.state_dict())
        for name, buffer in self._network.named_buffers():
            if name in stored:
                yield name, buffer.detach().to("cpu", copy=True).contiguous()

    def published_weights(self, *, master: bool = False) -> Iterator[tuple[str, Tensor]]:
        """See `TrainEngine.published_weights`."""
        return self._as_in_files(self.weights(master=master))

    def _on_cpu(self, parameter: nn.Parameter, *, master: bool = False) -> Tensor:
        """A copy of all values of a parameter. Collective."""
        with self._whole(parameter):
            tensor = self._full_state(parameter, MASTER) if master else parameter
            return tensor.detach().to("cpu", copy=True).contiguous()

    def _whole(self, parameter: Tensor, *, write: bool = False) -> Any:
        """A context in which `parameter` holds all its values, on every rank; with `write`, rank 0's changes are kept."""
        if self._stage != 3:
            return nullcontext()
        from deepspeed import zero

        return zero.GatheredParameters([parameter], modifier_rank=0 if write else None)

    # Saving. Full float32 tensors by name: a checkpoint fits any number of ranks and any ZeRO stage. No pickle.

    def save(self, directory: Path) -> None:
        """Write master weights, AdamW's moments and random states. Raises CheckpointError on every rank if one cannot write."""
        writer = ShardWriter(directory, active=self.rank == 0)
        for name, parameter in self._trained():
            for key in (MASTER, *(MOMENTS if self._adam_steps() else ())):
                writer.add(f"{key}/{name}", self._full_state(parameter, key))
        writer.finish(adam_steps=self._adam_steps(), world_size=self.world_size)
        failure = writer.failure or write_random_state(directory, self.rank)
        failures = [text for text in self.group.everywhere((failure or "").encode()) if text]
        if failures:
            raise CheckpointError(failures[0].decode())

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote, with any number of ranks. Raises CheckpointError if it does not fit the model."""
        state = read_state(directory)
        reader = ShardReader(directory, state)
        steps = int(state["adam_steps"])
        trained = list(self._trained())
        reader.require({f"{key}/{name}": parameter_shape(parameter) for name, parameter in trained for key in _keys(steps)})
        if steps:
            self._make_moments(steps)
        for name, parameter in trained:
            master = reader.tensor(f"{MASTER}/{name}").to(self.device)
            with self._whole(parameter, write=True), torch.no_grad():
                parameter.copy_(master)
            self._set_full_state(parameter, MASTER, master)
            for key in MOMENTS if steps else ():
                self._set_full_state(parameter, key, reader.tensor(f"{key}/{name}").to(self.device))
        read_random_state(directory, self.rank)
        self.group.barrier()

    def _set_masters(self, weights: dict[str, Tensor]) -> None:
        """Use `weights` up as the master weights of those names."""
        for name, parameter in self._trained():
            if name in weights:
                self._set_full_state(parameter, MASTER, weights.pop(name).to(self.device))

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self._network.named_parameters() if parameter.requires_grad)

    def _adam_steps(self) -> int:
        """AdamW's own count of steps, for its bias correction; 0 before the first."""
        return max((int(state["step"]) for state in self._base_optimizer.state.values()), default=0)

    def _full_state(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self._stage == 0:
            return parameter.detach() if key == MASTER else self._base_optimizer.state[parameter][key]
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        full = safe_get_full_fp32_param(parameter) if key == MASTER else safe_get_full_optimizer_state(parameter, key)
        if full is None:
            raise OprimeError(f"DeepSpeed gave no {key} of a parameter of shape {parameter_shape(parameter)}: it cannot be saved")
        return full

    def _set_full_state(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if self._stage == 0:
            if key != MASTER:
                self._base_optimizer.state[parameter][key].copy_(value)
        elif self._stage == 3:
            self._set_partition(parameter, key, value)
        else:
            from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

            if key == MASTER:
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, key)

    def _set_partition(self, parameter: Any, key: str, value: Tensor) -> None:
        """ZeRO 3 cuts a flattened parameter into equal pieces, one per rank; the last ones are padded."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        piece = parameter.ds_tensor.numel()
        padded = torch.zeros(piece * self.world_size, dtype=value.dtype, device=value.device)
        padded[: value.numel()] = value.flatten()
        mine = padded[self.rank * piece : (self.rank + 1) * piece]
        if key == MASTER:
            safe_set_local_fp32_param(parameter, mine)
        else:
            safe_set_local_optimizer_state(parameter, mine, key)

    def _make_moments(self, steps: int) -> None:
        """Give AdamW the state it would have after `steps`, with moments still 0; it creates that only in its first step."""
        optimizer = self._engine.optimizer
        masters = optimizer.fp32_partitioned_groups_flat if self._stage == 3 else _parameters(self._base_optimizer)
        for master in masters:
            state = self._base_optimizer.state[master]
            state["step"] = torch.tensor(float(steps))
            for key in MOMENTS:
                state[key] = torch.zeros_like(master, memory_format=torch.preserve_format)
        if self._stage in (1, 2):
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    # Talking between ranks, on the CPU

    def gather(self, payload: bytes) -> list[bytes] | None:
        """See `TrainEngine.gather`."""
        return self.group.gather(payload)

    def all_sum(self, values: Tensor) -> Tensor:
        return self.group.all_sum(values)

    def close(self) -> None:
        """Free what DeepSpeed holds. The ranks stay in their process group."""
        self._engine.destroy()


def _finer_than_bfloat16(parameters: Iterator[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """Copies of the weights that bfloat16 would round: DeepSpeed makes its master weights of what it has rounded already."""
    for name, parameter in parameters:
        if not torch.equal(parameter, parameter.bfloat16().float()):
            yield name, parameter.detach().to("cpu", copy=True)


def parameter_shape(parameter: Any) -> tuple[int, ...]:
    """Shape of the whole parameter, also where ZeRO 3 holds a piece of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _choose_accelerator(settings: EngineSection) -> bool:
    """Tell DeepSpeed where to run, before it is imported; returns whether that is a GPU."""
    on_gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise SettingsError('device is "cuda", but torch finds no GPU: set it to "auto" or "cpu", or install the CUDA build of torch')
    os.environ["DS_ACCELERATOR"] = "cuda" if on_gpu else "cpu"
    return on_gpu


def _zero_stage(settings: EngineSection, *, bfloat16: bool) -> int:
    if settings.offload_optimizer and settings.zero_stage == 0:
        raise SettingsError("offload_optimizer needs zero_stage 1, 2 or 3, and zero_stage is 0: raise it or turn offload_optimizer off")
    # At stage 0 DeepSpeed sums bfloat16 gradients in bfloat16, which would make micro-batch sizes matter.
    return max(settings.zero_stage, 1) if bfloat16 else settings.zero_stage


def _deepspeed_config(settings: EngineSection, *, stage: int, bfloat16: bool, on_gpu: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.gradient_clip if stage else 0.0,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": [settings.adam_beta1, settings.adam_beta2],
                "eps": settings.adam_eps,
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
            },
        },
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bfloat16, "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": None,
    }


def _require_usable(rows: TokenRows) -> None:
    """Raise ValueError unless rows are padded on the right and every response token has a token before it."""
    mask, is_trained = rows.attention_mask, rows.is_trained
    if not rows.input_ids.shape == mask.shape == is_trained.shape:
        raise ValueError(
            f"token rows differ in shape: ids {tuple(rows.input_ids.shape)}, mask {tuple(mask.shape)}, response {tuple(is_trained.shape)}"
        )
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("token rows must be padded on the right: a row has a token after padding")
    if bool((is_trained & ~mask).any()) or bool(is_trained[:, :1].any()):
        raise ValueError("response tokens must be unpadded and have at least one prompt token before them")


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _keys(adam_steps: int) -> tuple[str, ...]:
    return (MASTER, *MOMENTS) if adam_steps else (MASTER,)
