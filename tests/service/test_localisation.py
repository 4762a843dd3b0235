"""Error localisation over gRPC, against a PRM that knows the teacher's misconceptions."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime.tasks.chain import Teacher, parse_problem, right_result
from oprime.tasks.chain_tokenizer import VOCABULARY, save_chain_tokenizer
from oprime.wire.codec import floats_to_bytes, ids_from_bytes
from oprime_cli.report.localisation import measure
from oprime_cli.run_config import RunConfig
from oprime_proto.v1 import prm_pb2 as pb
from oprime_proto.v1.prm_pb2_grpc import PrmServiceServicer, add_PrmServiceServicer_to_server

TEACHER = Teacher(7)
MAX_ITEMS = 5


class OraclePrm(PrmServiceServicer):
    """A PRM that knows the facts, over a reference that believes what the teacher believes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.error = ""

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
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
        return pb.ScoredResponse(prm_logprobs=floats_to_bytes(prm), reference_logprobs=floats_to_bytes(reference), error=self.error)


@pytest.fixture
def prm() -> OraclePrm:
    return OraclePrm()


@pytest.fixture
def address(prm: OraclePrm) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    add_PrmServiceServicer_to_server(prm, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def config(folder: Path, address: str) -> RunConfig:
    save_chain_tokenizer(folder / "model")
    document = {
        "run": {"name": "r", "steps": 1},
        "model": {"path": str(folder / "model")},
        "tasks": {"source": "chain"},
        "coordinator": {"groups_per_batch": 1},
        "prm": {"max_score_items": MAX_ITEMS},
        "endpoints": {"prm": address},
    }
    return RunConfig.from_document(document, origin="test")


def test_a_prm_that_knows_the_facts_beats_a_reference_that_shares_the_misconceptions(tmp_path: Path, prm: OraclePrm, address: str) -> None:
    result = measure(tmp_path, config(tmp_path, address), chains=12)
    assert result is not None
    assert json.loads((tmp_path / "localisation.json").read_text(encoding="utf-8")) == result
    assert (max(prm.sizes), sum(prm.sizes)) == (MAX_ITEMS, 36)  # right, natural and confuser
    assert (result["wrong"], result["right"], result["prm_version"]) == (12, 12, 3)
    for kind in ("natural", "confuser"):
        assert (result["errors"][kind]["prm_log_ratio"]["auc"], result["errors"][kind]["prm_log_ratio"]["f1"]) == (1.0, 1.0)
    assert result["errors"]["confuser"]["prm_log_ratio"]["top1"] == 1.0
    # The teacher prefers its confuser to the truth, so its own log-probs cannot tell the injected errors.
    assert result["errors"]["confuser"]["reference_logprob"]["f1"] < 0.6


def test_a_chain_that_cannot_be_scored_stops_the_measurement(tmp_path: Path, prm: OraclePrm, address: str) -> None:
    prm.error = "token id 60 is not in the vocabulary of 54"
    with pytest.raises(UnusableInputError, match="could not score a chain of 10 tokens: token id 60"):
        measure(tmp_path, config(tmp_path, address), chains=4)
    assert not (tmp_path / "localisation.json").exists()


def test_a_prm_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"PRM at 127\.0\.0\.1:9 does not score.*logs/prm\.log"):
        measure(tmp_path, config(tmp_path, "127.0.0.1:9"), chains=4)
