"""Sends weights over NCCL to vLLM's workers, with the trainer's half of vLLM's own weight transfer. Needs the package vllm and a GPU.

Written against vLLM 0.32 and not yet run: its test (tests/gpu) needs two GPUs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oprime.runtime.errors import SettingsError
from oprime.runtime.weight_transfer import Transfer

if TYPE_CHECKING:
    import torch
    from vllm.distributed.weight_transfer.base import WeightSource


class NcclSender:
    """One group for each transfer: generators come and go, and a group does not outlive a member."""

    def send(self, transfer: Transfer, weights: Iterator[tuple[str, "torch.Tensor"]]) -> None:
        """Broadcast `weights`, in the order and of the types that `transfer` says, once all have met. Uses them up."""
        try:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
        except ImportError as error:
            raise SettingsError(
                f'store.transfer = "nccl" needs the package vllm beside the learner: {error}; install it, or set store.transfer=store'
            ) from error
        info = NCCLTrainerInitInfo(rank=0, master_address=transfer.host, master_port=transfer.port, world_size=transfer.world_size)
        engine = NCCLTrainerWeightTransferEngine.trainer_init(info, client=_Informed(), source=_source(transfer, weights))
        try:
            engine.send_weights()
        finally:
            engine.shutdown()


class _Informed:
    """vLLM's client to the generators. They have read the offer, and do their half of each step by themselves."""

    def init_weight_transfer_engine(self, init_info: object) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: object) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def _source(transfer: Transfer, weights: Iterator[tuple[str, "torch.Tensor"]]) -> "WeightSource":
    import torch
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    dtypes = {name: getattr(torch, dtype) for name, dtype in zip(transfer.names, transfer.dtypes, strict=True)}

    class Source(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, dtypes[name], shape) for name, shape in zip(transfer.names, transfer.shapes, strict=True)]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                yield name, tensor.detach().to(device="cuda", dtype=dtypes[name])

    return Source()
