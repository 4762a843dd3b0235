"""What vLLM would sample otherwise than the learner computes is refused before it is started, with the reason and the remedy."""

import pytest
from transformers import (
    FalconH1Config,
    Gemma3Config,
    Gemma3nConfig,
    Gemma3TextConfig,
    Gemma4Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3_5Config,
    Qwen3_5MoeTextConfig,
)

from oprime_generator.vllm_models import packages_of, refusal


def of(config: PretrainedConfig, *, on_cpu: bool) -> str:
    return refusal(config.get_text_config().to_dict(), on_cpu=on_cpu)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_model_whose_text_needs_more_than_vllm_reads_is_refused_everywhere(on_cpu: bool) -> None:
    assert of(Gemma3nConfig(), on_cpu=on_cpu) == (
        "(gemma3n_text) adds embeddings of its own to each layer, which vLLM 0.32 leaves out where prompts are text, so it would sample "
        'from another policy: set generator.backend = "transformers"'
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (MixtralConfig(), "(mixtral) is a mixture of experts"),
        (Qwen3_5MoeTextConfig(), "(qwen3_5_moe_text) is a mixture of experts"),
        (Qwen3_5Config(), "(qwen3_5_text) has layers with a state"),
        (MambaConfig(), "(mamba) has layers with a state"),
        (FalconH1Config(), "(falcon_h1) has layers with a state"),
    ],
)
def test_what_vllm_cannot_compute_on_a_cpu_is_refused_there_alone(config: PretrainedConfig, kind: str) -> None:
    found = of(config, on_cpu=True)
    assert kind in found
    assert found.endswith('set generator.backend = "transformers", or sample on a GPU')
    assert not of(config, on_cpu=False)


@pytest.mark.parametrize(
    ("config", "needs_torchvision"),
    [
        (Gemma3Config(), True),
        (Gemma3TextConfig(), False),
        (Gemma4Config(), True),
        (Qwen3_5Config(), True),
        (Qwen3_5MoeTextConfig(), True),
        (Gemma3nConfig(), False),
        (LlamaConfig(), False),
    ],
)
def test_what_vllm_imports_for_a_model_is_known_from_its_config(config: PretrainedConfig, needs_torchvision: bool) -> None:
    whole = config.to_dict()
    assert packages_of({**whole, **whole.get("text_config", {})}) == ("torchvision",) * needs_torchvision


@pytest.mark.parametrize("config", [LlamaConfig(), Gemma3TextConfig()])
def test_other_models_are_not_refused(config: PretrainedConfig) -> None:
    assert not of(config, on_cpu=True)
