"""With what vLLM is started on one host, and on each of several."""

from dataclasses import replace
from pathlib import Path

from oprime.runtime.rank_launcher import Hosts
from oprime.runtime.training_settings import LoraSection
from oprime_generator.config import GeneratorSection
from oprime_generator.engine_arguments import ONE_HOST, EngineSettings, agreed, engine_arguments


def settings(folder: Path, hosts: Hosts = ONE_HOST, *, tensor_parallel: int = 2, config: str = "{}") -> EngineSettings:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config, encoding="utf-8")
    return EngineSettings(directory=folder, max_model_tokens=4096, generator=GeneratorSection(tensor_parallel=tensor_parallel), hosts=hosts)


def pair() -> tuple[Hosts, Hosts]:
    zero, one = (Hosts(count=2, index=index, host="machine-0", port=29500) for index in range(2))
    return zero, one


def test_one_host_knows_nothing_of_others(tmp_path: Path) -> None:
    arguments = engine_arguments(settings(tmp_path), on_cpu=False)
    assert not {"nnodes", "node_rank", "master_addr", "master_port"} & set(arguments)
    assert arguments["tensor_parallel_size"] == 2


def test_models_for_images_or_sound_are_started_without_eyes_and_ears(tmp_path: Path) -> None:
    assert engine_arguments(settings(tmp_path), on_cpu=True)["language_model_only"] is True


def test_hosts_agree_on_all_but_who_they_are_and_where_their_model_is(tmp_path: Path) -> None:
    zero, one = (engine_arguments(settings(tmp_path / f"disk-{hosts.index}", hosts), on_cpu=True) for hosts in pair())
    assert {name for name in zero if zero[name] != one[name]} == {"model", "node_rank"}
    assert (zero["nnodes"], zero["master_addr"], zero["distributed_executor_backend"]) == (2, "machine-0", "mp")
    assert agreed(zero) == agreed(one)


def test_another_model_and_other_settings_are_no_agreement(tmp_path: Path) -> None:
    zero, one = pair()
    ours = agreed(engine_arguments(settings(tmp_path / "a", zero), on_cpu=False))
    other_model = agreed(engine_arguments(settings(tmp_path / "b", one, config='{"hidden_size": 8}'), on_cpu=False))
    assert {name for name in ours if ours[name] != other_model[name]} == {"config.json"}
    other_sizes = agreed(engine_arguments(settings(tmp_path / "a", one, tensor_parallel=4), on_cpu=False))
    assert {name for name in ours if ours[name] != other_sizes[name]} == {"tensor_parallel_size"}
    assert set(ours) != set(agreed(engine_arguments(settings(tmp_path / "a", one), on_cpu=True)))


def test_there_is_room_for_one_adapter_of_the_next_size_that_vllm_has(tmp_path: Path) -> None:
    whole = settings(tmp_path)
    assert "enable_lora" not in engine_arguments(whole, on_cpu=True)
    for rank, room in ((1, 1), (2, 8), (24, 32), (512, 512)):
        found = engine_arguments(replace(whole, lora=LoraSection(rank=rank)), on_cpu=True)
        assert (found["enable_lora"], found["max_lora_rank"], found["max_loras"], found["max_cpu_loras"]) == (True, room, 1, 1)
