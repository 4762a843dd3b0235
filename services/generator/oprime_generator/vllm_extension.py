"""What vLLM's workers learn from here: each loads new weights from where its own host has them, and uses all of them."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from oprime.lm.lora import write_empty_adapter
from oprime.runtime.training_settings import LoraSection

ADAPTER = "policy"
ADAPTER_ID = 1
"""The one place for an adapter, which every request names."""


class OwnWorker:
    """What vLLM adds to its workers."""

    vllm_config: Any
    model_runner: Any
    """Of the worker."""

    def reload_weights_of_host(self, directories: Sequence[str]) -> None:
        """As the worker's own reload_weights, with a directory for each host."""
        directory = directories[self.vllm_config.parallel_config.node_rank]
        self.reload_weights(weights_path=directory)  # type: ignore[attr-defined]  # the worker has it
        _pack_embeddings_again(self.model_runner.get_model())

    def load_adapter_of_host(self, directories: Sequence[str]) -> None:
        """Take the adapter in this host's directory in place of the one before: requests under way go on with it."""
        directory = directories[self.vllm_config.parallel_config.node_rank]
        self._load_adapter(str(directory))

    def begin_without_effect(self, lora: str) -> None:
        """Take an adapter that changes nothing, of the shape that settings (a LoraSection's JSON) give it: version 0 is the model alone."""
        with TemporaryDirectory(prefix="oprime-adapter-") as folder:
            config = self.vllm_config.model_config
            settings = LoraSection.model_validate_json(lora)
            write_empty_adapter(Path(folder), Path(config.model), settings, trust_remote_code=config.trust_remote_code)
            self._load_adapter(folder)

    def _load_adapter(self, directory: str) -> None:
        from vllm.lora.request import LoRARequest

        self.add_lora(LoRARequest(ADAPTER, ADAPTER_ID, directory, load_inplace=True))  # type: ignore[attr-defined]  # the worker has it


def _pack_embeddings_again(model: Any) -> None:
    """On a CPU the head of a model whose embeddings are tied computes with a packed copy, which vLLM 0.32 leaves as it was on a reload."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)
