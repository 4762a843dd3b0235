import json
from pathlib import Path

import numpy as np
import pytest

from oprime.lm.tokenizers import load_tokenizer
from oprime.tasks.chain import LabelledChain
from oprime.tasks.chain_tokenizer import VOCABULARY, save_chain_tokenizer
from oprime_cli.report.localisation import EncodedChain, encode_chain, measure, step_sums, wrong_steps
from oprime_cli.run_config import RunConfig


def config(folder: Path, **tasks: object) -> RunConfig:
    document = {
        "run": {"name": "r", "steps": 1, "directory": str(folder)},
        "model": {"path": str(folder / "model")},
        "tasks": {"source": "chain", **tasks},
        "coordinator": {"groups_per_batch": 1},
    }
    return RunConfig.from_document(document, origin="test")


def labelled(response: str) -> LabelledChain:
    # 3 +8 is 1, 1 -5 is 6, 6 +0 is 6.
    return LabelledChain(prompt="3 +8 -5 +0 ?", response=response, first_wrong_step=None)


@pytest.mark.parametrize(
    ("response", "wrong"),
    [
        ("=1 =6 =6 #6", [False, False, False]),
        # 1 -5 is 6, not 7; the last step is right for the 7 it starts from.
        ("=1 =7 =7 #7", [False, True, False]),
        ("=0 =5 =6 #6", [True, False, True]),
    ],
)
def test_a_step_is_judged_by_the_value_it_starts_from(response: str, wrong: list[bool]) -> None:
    np.testing.assert_array_equal(wrong_steps(labelled(response)), wrong)


def test_a_step_sums_its_tokens_and_leaves_out_answer_and_end() -> None:
    # Tokens: two of step 0, one of step 1, the answer, the end.
    chain = EncodedChain(prompt_ids=(1,), response_ids=(5, 6, 7, 8, 9), step_of_token=(0, 0, 1, 2), steps=2)
    np.testing.assert_allclose(step_sums(np.array([-1.0, -2.0, -4.0, -8.0, -16.0]), chain), [-3.0, -4.0])


def test_a_response_is_encoded_as_the_policy_writes_it(tmp_path: Path) -> None:
    save_chain_tokenizer(tmp_path)
    encoded = encode_chain(load_tokenizer(tmp_path), labelled("=1 =6 =6 #6"))
    assert [VOCABULARY[token] for token in encoded.prompt_ids] == ["3", "+8", "-5", "+0", "?"]
    assert [VOCABULARY[token] for token in encoded.response_ids] == ["=1", "=6", "=6", "#6", "<eos>"]
    assert (encoded.step_of_token, encoded.steps) == ((0, 1, 2, 3), 3)


def test_tasks_without_known_steps_are_skipped_with_the_reason(tmp_path: Path) -> None:
    assert measure(tmp_path, config(tmp_path, source="rows")) is None
    assert 'tasks.source = "rows"' in json.loads((tmp_path / "localisation.json").read_text())["skipped"]


def test_without_a_prm_nothing_is_measured_and_the_file_says_why(tmp_path: Path) -> None:
    algorithm = config(tmp_path).algorithm.model_copy(update={"process_weight": 0.0})
    assert measure(tmp_path, config(tmp_path).model_copy(update={"algorithm": algorithm})) is None
    assert json.loads((tmp_path / "localisation.json").read_text()) == {"skipped": "this run has no PRM: algorithm.process_weight = 0"}
