import json
from pathlib import Path

import numpy as np
import pytest

from oprime.lm.tokenizers import load_tokenizer
from oprime.runtime.errors import UnusableInputError
from oprime.tasks.chain import LabelledChain, Teacher, parse_problem, right_result
from oprime.tasks.chain_tokenizer import VOCABULARY, save_chain_tokenizer
from oprime.wire.codec import floats_to_bytes, ids_from_bytes
from oprime_cli.localisation import EncodedChain, encode_chain, measure, measure_with, score_chains, step_sums, wrong_steps
from oprime_cli.run_config import RunConfig
from oprime_proto.v1 import prm_pb2 as pb

TEACHER = Teacher(7)


def config(folder: Path, **tasks: object) -> RunConfig:
    document = {
        "run": {"name": "r", "steps": 1, "directory": str(folder)},
        "model": {"path": str(folder / "model")},
        "tasks": {"source": "chain", **tasks},
        "coordinator": {"groups_per_batch": 1},
        "prm": {"max_score_items": 5},
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


def test_an_item_that_cannot_be_scored_stops_the_measurement() -> None:
    chain = EncodedChain(prompt_ids=(1,), response_ids=(5, 2), step_of_token=(0,), steps=0)

    def refuse(_: pb.ScoreRequest) -> pb.ScoreResponse:
        return pb.ScoreResponse(responses=[pb.ScoredResponse(error="token id 5 is not in the vocabulary")])

    with pytest.raises(UnusableInputError, match="chain of 2 tokens: token id 5"):
        score_chains([chain], refuse, chunk=8)


class OraclePrm:
    """Scores as a PRM that knows the facts, over a reference that believes what the teacher believes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        self.sizes.append(len(request.items))
        return pb.ScoreResponse(responses=[self.respond(item.tokens) for item in request.items], prm_version=3, beta=0.5)

    def respond(self, item: pb.TokenScoreInput) -> pb.ScoredResponse:
        posed = parse_problem(" ".join(VOCABULARY[token] for token in ids_from_bytes(item.prompt_ids)))
        words = [VOCABULARY[token] for token in ids_from_bytes(item.response_ids)]
        value = posed.start
        reference, prm = [0.0] * len(words), [0.0] * len(words)
        for place, (sign, operand) in enumerate(posed.operations):
            fact, value = (value, sign, operand), int(words[place][1:])
            reference[place] = float(np.log(TEACHER.probabilities(fact)[value]))
            prm[place] = reference[place] + (1.0 if value == right_result(fact) else -4.0)
        return pb.ScoredResponse(prm_logprobs=floats_to_bytes(prm), reference_logprobs=floats_to_bytes(reference))


def test_a_prm_that_knows_the_facts_beats_a_reference_that_shares_the_misconceptions(tmp_path: Path) -> None:
    save_chain_tokenizer(tmp_path / "model")
    prm = OraclePrm()
    result = measure_with(prm, config(tmp_path), chains=12)
    assert max(prm.sizes) == 5  # prm.max_score_items
    assert sum(prm.sizes) == 36  # right, natural and confuser
    assert (result["wrong"], result["right"], result["prm_version"]) == (12, 12, 3)
    for kind in ("natural", "confuser"):
        assert result["errors"][kind]["prm_log_ratio"]["auc"] == 1.0
        assert result["errors"][kind]["prm_log_ratio"]["f1"] == 1.0
    # The teacher prefers its confuser to the truth, so its own log-probs cannot tell the injected errors.
    assert result["errors"]["confuser"]["reference_logprob"]["f1"] < 0.6
    assert result["errors"]["confuser"]["prm_log_ratio"]["top1"] == 1.0


def test_tasks_without_known_steps_are_skipped_with_the_reason(tmp_path: Path) -> None:
    assert measure(tmp_path, config(tmp_path, source="rows")) is None
    assert 'tasks.source = "rows"' in json.loads((tmp_path / "localisation.json").read_text())["skipped"]
