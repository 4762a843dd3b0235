"""The benchmarks' larger size is what it says."""

from pathlib import Path

from bench import large
from bench.loop import large_overrides

from oprime.lm.models import count_parameters, load_causal_lm
from oprime.lm.tokenizers import load_tokenizer
from oprime_cli.overrides import load_config


def test_its_model_has_about_eleven_million_weights_and_the_chain_tasks_tokens(tmp_path: Path) -> None:
    large.save_model(tmp_path)
    assert count_parameters(load_causal_lm(tmp_path)) == 11_232_384
    assert len(load_tokenizer(tmp_path)) == large.model_config().vocab_size == 54


def test_its_model_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        large.save_model(tmp_path / name)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()


def test_its_responses_have_up_to_64_tokens_and_fit_into_the_models_context() -> None:
    config = load_config(large.CONFIG)
    assert config.sampling.max_response_tokens == 64
    assert config.sampling.max_prompt_tokens + 64 <= large.model_config().max_position_embeddings


def test_every_rollout_is_trained_on_as_random_weights_solve_nothing() -> None:
    assert not load_config(large.CONFIG).coordinator.filter.enabled


def test_stages_that_take_turns_get_all_cores_each() -> None:
    model = Path("model")
    assert large_overrides(model, 0, 4)["prm.threads"] == 4
    assert [large_overrides(model, 2, 4)[f"{stage}.threads"] for stage in ("generator", "prm", "learner")] == [2, 2, 2]
