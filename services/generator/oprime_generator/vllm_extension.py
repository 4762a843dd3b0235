"""What vLLM's workers learn from here: each loads new weights from where its own host has them, and uses all of them."""

from collections.abc import Sequence
from typing import Any


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


def _pack_embeddings_again(model: Any) -> None:
    """On a CPU the head of a model whose embeddings are tied computes with a packed copy, which vLLM 0.32 leaves as it was on a reload."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)
