"""Outcomes and requests: their rules, and their way over the wire."""

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from oprime.core.types import Task
from oprime.core.verification import (
    UNSCORED,
    Outcome,
    OutcomeStatus,
    TestResult,
    Verdict,
    VerificationRequest,
    VerifierIdentity,
    scored,
)
from oprime.runtime.rollout_payloads import material_of, request_of
from oprime.wire.verification import outcome_from_proto, outcome_to_proto, request_from_proto, request_to_proto
from oprime_proto.v1 import verification_pb2 as pb
from oprime_verifier.code.options import CodeOptions
from oprime_verifier.external.json_mapping import request_to_json as webhook_json
from oprime_verifier.math.options import MathOptions
from oprime_verifier.working.frames import outcome_from_json, outcome_to_json, request_from_json, request_to_json

# Plain fields: records are made in the tests, because their type checks draw random numbers, which strategies may not.
WORD = st.text(max_size=5)
OUTCOME = st.fixed_dictionaries(
    {
        "verdict": st.sampled_from(sorted(Verdict)),
        "score": st.floats(0, 1),
        "reason": st.text(max_size=20),
        "answer": st.text(max_size=20),
        "components": st.dictionaries(WORD, st.floats(-10, 10), max_size=3),
        "flags": st.tuples(WORD),
        "cacheable": st.booleans(),
    }
)
REQUEST = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["exact", "a plug-in"]),
        "response": st.text(max_size=30),
        "golds": st.lists(WORD, max_size=3).map(tuple),
        "tests": WORD,
        "options": st.dictionaries(WORD, st.one_of(st.booleans(), WORD, st.floats(-9, 9), st.integers(-9, 9)), max_size=3),
        "deadline_s": st.floats(0, 100),
        "seed": st.integers(0, 2**64 - 1),
        "metadata": st.dictionaries(WORD, WORD, max_size=2),
    }
)


@pytest.mark.parametrize("verdict", sorted(Verdict))
def test_a_verdict_has_a_score_exactly_when_it_speaks_of_the_response(verdict: Verdict) -> None:
    has_none = verdict in {Verdict.UNDECIDED, Verdict.BAD_TASK, Verdict.INFRA_ERROR, Verdict.NOT_APPLICABLE}
    good, bad = (None, 0.0) if has_none else (0.0, None)
    Outcome(verdict=verdict, score=good)
    with pytest.raises(ValueError, match=verdict.value):
        Outcome(verdict=verdict, score=bad)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_outside_0_to_1_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Outcome(verdict=Verdict.PARTIAL, score=score)


@pytest.mark.parametrize("verdict", sorted(Verdict))
def test_the_loop_drops_what_is_no_fault_of_the_response_and_scores_the_rest(verdict: Verdict) -> None:
    outcome = Outcome(verdict=verdict, score=None if verdict in UNSCORED else 0.0)
    expected = OutcomeStatus.ERROR if verdict in UNSCORED else OutcomeStatus.SCORED
    assert outcome.status is (OutcomeStatus.INVALID if verdict is Verdict.NO_ANSWER else expected)


def test_a_score_alone_names_its_verdict() -> None:
    assert [scored(score).verdict for score in (1.0, 0.0, 0.5)] == [Verdict.CORRECT, Verdict.INCORRECT, Verdict.PARTIAL]


@given(OUTCOME)
def test_an_outcome_survives_protobuf_and_the_worker_s_pipe(fields: dict[str, Any]) -> None:
    score = None if fields["verdict"] in UNSCORED else fields["score"]
    tests, judge = (TestResult(index=3, verdict=Verdict.TIME, cpu_s=0.25),), VerifierIdentity(name="n", sandbox_profile="p")
    outcome = Outcome(**{**fields, "score": score}, tests=tests, verifier=judge)
    assert outcome_from_proto(outcome_to_proto(outcome)) == outcome
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


@given(REQUEST)
def test_a_request_survives_protobuf_and_the_worker_s_pipe(fields: dict[str, Any]) -> None:
    request = VerificationRequest(**fields)
    assert request_from_proto(request_to_proto(request)) == request
    assert request_from_json(json.loads(json.dumps(request_to_json(request)))) == request


@pytest.mark.parametrize("value", [3, True, 3.5, [1, {"n": 2}], {"part": {"n": 3}}])
def test_an_option_of_a_plug_in_keeps_its_type_on_every_way(value: Any) -> None:
    request = VerificationRequest(kind="a plug-in", response="4", options={"n": value})
    task = Task(messages=(), verifier="a plug-in", ground_truth="4", data_source="", verifier_options={"n": value})
    arrived = [
        request_from_proto(pb.VerifyRequest.FromString(request_to_proto(request).SerializeToString())).options["n"],
        request_of(material_of(task.verification("")), name="task/1/name").options["n"],
        request_from_json(json.loads(json.dumps(request_to_json(request)))).options["n"],
        json.loads(json.dumps(webhook_json(request)))["options"]["n"],
    ]
    # The repr tells 3 from 3.0 and True from 1, at every depth.
    assert [repr(option) for option in arrived] == [repr(value)] * 4


def test_a_whole_number_that_would_be_rounded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"options of a mine request: n is 9007199254740993: whole numbers above 2\^53 - 1"):
        request_to_proto(VerificationRequest(kind="mine", response="4", options={"n": 2**53 + 1}))


def test_http_json_is_the_same_message() -> None:
    request = VerificationRequest(kind="math", response="4", golds=("4",), options={"bare": True}, request_id="7")
    message = request_to_proto(request)
    again = json_format.Parse(json_format.MessageToJson(message), type(message)())
    assert request_from_proto(again) == request


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"options of a math request.*bear"):
        request_to_proto(VerificationRequest(kind="math", response="4", options={"bear": True}))


@pytest.mark.parametrize(("options", "message"), [(MathOptions, pb.MathOptions), (CodeOptions, pb.CodeOptions)])
def test_the_wire_has_every_option_of_the_verifiers(options: type[BaseModel], message: type[Message]) -> None:
    assert [field.name for field in message.DESCRIPTOR.fields] == list(options.model_fields)
