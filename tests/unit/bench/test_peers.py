"""What the comparison with TRL is made of. TRL itself is not installed for tests."""

from pathlib import Path

import pytest
from bench.operations import ModelShape
from bench.peer_environment import STAMP, PeerError, peer_python
from bench.peers import PeerResult, needed, of_trl, report

SHAPE = ModelShape(hidden=4, layers=2, heads=2, key_value_heads=1, head_size=3, feed_forward=5, vocabulary=7)


def test_a_list_that_cannot_be_installed_is_one_clear_message_and_tried_again_next_time(tmp_path: Path) -> None:
    requirements = tmp_path / "list.txt"
    requirements.write_text("./no-such-file.whl\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(PeerError, match=r"list.txt cannot be installed.*\n.*check the network"):
            peer_python(tmp_path / "venv", requirements)
    assert not (tmp_path / "venv" / STAMP).exists()


def test_an_environment_that_has_its_list_is_left_as_it_is(tmp_path: Path) -> None:
    requirements = tmp_path / "list.txt"
    requirements.write_text("# nothing\n", encoding="utf-8")
    python = peer_python(tmp_path / "venv", requirements)
    kept = tmp_path / "venv" / "kept"
    kept.touch()
    assert peer_python(tmp_path / "venv", requirements) == python
    assert kept.exists()
    requirements.write_text("# still nothing\n", encoding="utf-8")
    peer_python(tmp_path / "venv", requirements)
    assert not kept.exists()


def note(step: int) -> dict[str, float]:
    return {"at": 10.0 * step, "cpu": 16.0 * step, "generating": 4.0 * step, "rewarding": 1.0 * step, "tokens": 300.0 * step}


def test_phases_of_trl_add_up_to_its_step() -> None:
    found = of_trl([note(step) for step in range(1, 6)], "1.0", rollouts_per_step=8)
    assert found.phases == {"generator": 4.0, "verifier": 1.0, "learner": 5.0}
    assert (found.steps, found.seconds, found.cpu, found.trained_tokens) == (2, 20.0, {"all": 32.0}, 600.0)
    assert (found.rollouts_per_second, found.cpu_per_rollout) == (0.8, 2.0)


def test_operations_are_those_of_prompts_and_responses_and_of_the_head_on_responses() -> None:
    # Two rollouts with prompts of 5 and 10 response tokens in all: 20 tokens through the layers, 10 through the head, three times.
    assert needed(SHAPE, 3, rollouts=2, response_tokens=10, prompt_tokens=5) == 3 * 2 * (20 * 2 * 132 + 10 * 28)


def test_ratios_are_to_the_first_column() -> None:
    def result(name: str, seconds: float, passes: int) -> PeerResult:
        return PeerResult(
            name=name,
            steps=1,
            seconds=seconds,
            cpu={"prm": seconds / 2, "generator": 1.5 * seconds},
            sampled_rollouts=2,
            trained_rollouts=2,
            sampled_tokens=10,
            trained_tokens=10,
            passes=passes,
            phases={},
            bound="nothing",
        )

    # A forward pass takes 2 * (20 * 264 + 10 * 28) = 11,120 operations; with the sampling that is 4 of them in 2 s, at 44,480 a second.
    text = report([result("one", 2.0, 3), result("other", 4.0, 7)], SHAPE, prompt_tokens=5, rate=44_480)
    found = {line[:36].strip(): line[36:].split() for line in text.splitlines()}
    assert found["share of the matrix rate"] == ["50%", "50%"]
    assert found["speed"] == ["1.00", "0.50"]
    assert found["speed by CPU seconds"] == ["1.00", "0.50"]
    assert "other is bound by nothing; CPU seconds per step: generator 6.00, prm 2.00" in text
