"""Whatever another's server answers is an outcome in the contract, or breaks it by name. Nothing else is raised."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.verification import UNSCORED, Outcome, Verdict, VerificationRequest
from oprime_verifier.code.compare import OutputRule
from oprime_verifier.external.json_mapping import outcomes_from_json
from oprime_verifier.external.results import UNIT, BrokenContractError, outcome_of
from oprime_verifier.external.sandbox_fusion import check_ran, verdict_of
from oprime_verifier.external.signatures import openrlhf_outcome
from oprime_verifier.external.webhook import nemo_gym_outcome

REQUEST = VerificationRequest(kind="mine", response="8", request_id="r1")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, -(10**400), *Verdict])
NAMES = st.sampled_from(
    [
        *("verdict", "score", "data", "request_id", "tests", "index", "timings", "verifier", "components", "flags", "extracted"),
        *("rewards", "scores", "reward", "reward_components", "mask_sample", "status", "run_result", "compile_result", "stdout"),
        *("return_code", "execution_time", "explanation", "cacheable", "cpu_s", "peak_bytes"),
    ]
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=12)
ITEMS = st.dictionaries(NAMES, JSON, max_size=8)


def in_contract(outcome: Outcome) -> bool:
    return (outcome.score is None) == (outcome.verdict in UNSCORED) and (outcome.score is None or 0 <= outcome.score <= 1)


@given(JSON)
def test_any_result_of_a_function(result: Any) -> None:
    try:
        assert in_contract(outcome_of(result))
    except BrokenContractError:
        return


@given(JSON | ITEMS.map(lambda item: {"data": [item]}))
def test_any_answer_in_our_own_json(answer: Any) -> None:
    try:
        assert in_contract(outcomes_from_json(answer, [REQUEST])[0])
    except BrokenContractError:
        return


@given(JSON | ITEMS)
def test_any_answer_of_openrlhf_and_nemo_gym(answer: Any) -> None:
    for read in (openrlhf_outcome, nemo_gym_outcome):
        try:
            assert in_contract(read(answer, UNIT))
        except BrokenContractError:
            continue


@given(ITEMS)
def test_any_answer_of_sandbox_fusion(answer: dict[str, Any]) -> None:
    try:
        verdict, seconds = verdict_of(check_ran(answer), b"8", OutputRule())
    except BrokenContractError:
        return
    assert isinstance(verdict, Verdict)
    assert seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "Success"},
        {"status": "Failed", "run_result": None},
        {"status": "Failed", "run_result": {"return_code": 1}},
        {"status": "Failed", "run_result": {"status": "Killed by the host"}},
        {"status": "Failed", "compile_result": {}, "run_result": None},
        {"status": "Success", "compile_result": {"status": "Finished", "return_code": 0}, "run_result": None},
    ],
)
def test_a_sandbox_that_does_not_say_how_a_program_ended_gives_no_score(answer: dict[str, Any]) -> None:
    with pytest.raises(BrokenContractError, match="did not say how the program ended"):
        check_ran(answer)
