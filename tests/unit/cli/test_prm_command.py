"""`oprime prm eval` from files to tables and JSON, with a chain model of random weights; and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oprime.core.types import ChatMessage
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime_cli.commands.prm import answer_of
from oprime_cli.main import main
from oprime_cli.prm_eval.models import LocalPrm, PrmSource
from oprime_cli.warm_up.start import new_chain_model

BETA = 2.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PRM and its reference, of a context of 128 tokens."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("reference", "prm")):
        new_chain_model(seed).save_pretrained(str(folder / name))
        chain_tokenizer().save_pretrained(str(folder / name))
    (folder / "prm" / "offline_prm.json").write_text(json.dumps({"beta": BETA, "reference_model": str(folder / "reference")}))
    return folder


@pytest.fixture(scope="module")
def prm(models: Path) -> LocalPrm:
    source = PrmSource(prm=str(models / "prm"), reference=str(models / "reference"), beta=BETA)
    return LocalPrm(source, dtype="float32", device="cpu", pass_tokens=60)


def judged(models: Path, folder: Path, kind: str, rows: list[dict[str, Any]], *options: str) -> dict[str, Any]:
    (folder / "rows.json").write_text(json.dumps(rows))
    words = ["prm", "eval", kind, str(folder / "rows.json"), "--prm", str(models / "prm"), "--separator", " "]
    assert main([*words, "--out", str(folder / "out.json"), "--device", "cpu", *options]) == 0
    return json.loads((folder / "out.json").read_text())


def solution(steps: int, label: int) -> dict[str, Any]:
    return {"problem": "3 +8 -5 ?", "steps": [f"={place % 10}" for place in range(steps)], "label": label}


def test_scores_are_those_of_each_response_alone_and_end_with_the_context(prm: LocalPrm) -> None:
    ask = (ChatMessage(role="user", content="3 +8 ?"),)
    texts = ["=1 #1", " ".join(["=1"] * 200), "=2 =3 #3"]
    encoded = prm.encoder.encode(ask, texts)
    heard: list[int] = []
    together = prm.score(encoded, heard.append)
    assert heard[-1] == 3
    assert [len(one.process_rewards) for one in together] == [3, 125, 4]
    for one, found in zip(encoded, together, strict=True):
        (alone,) = prm.score([one], heard.append)
        np.testing.assert_allclose(found.process_rewards, alone.process_rewards, atol=1e-5)
        np.testing.assert_allclose(found.process_rewards, BETA * (found.prm_logprobs - found.reference_logprobs), atol=1e-12)
    (tight,) = prm.encoder.encode((ChatMessage(role="user", content=" ".join(["3"] * 130)),), ["=1"])
    (nothing,) = prm.score([tight], heard.append)
    assert len(nothing.process_rewards) == 0


def test_first_errors_come_with_a_fitted_threshold_and_with_0(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [solution(3 + place % 2, place % 3 - 1) for place in range(12)]
    found = judged(models, tmp_path, "processbench", [*rows, solution(150, 2)])
    assert (found["kind"], found["beta"], found["reference"]) == ("processbench", BETA, str(models / "reference"))
    (subset,) = found["subsets"]
    assert subset["sizes"] == {"wrong": 9, "right": 4, "cut": 1}
    assert subset["ways"]["single_mean"].keys() == {"fitted", "at_zero"}
    assert subset["ways"]["reference_logprob"].keys() == {"fitted"}
    assert 0 <= subset["ways"]["single_mean"]["fitted"]["f1"] <= 1
    assert "9 wrong, 4 right, 1 cut" in capsys.readouterr().out


def test_every_step_is_judged_by_class(models: Path, tmp_path: Path) -> None:
    rows = [
        {"modified_question": "3 +8 ?", "modified_process": ["=1", "=2"], "error_steps": [2] * (place % 2), "classification": kind}
        for kind in ("circular", "redundancy")
        for place in (0, 1, 1, 0)
    ]
    found = judged(models, tmp_path, "prmbench", rows)
    assert [one["subset"] for one in found["subsets"]] == ["circular", "redundancy", "all classes"]
    assert found["subsets"][2]["sizes"] == {"solutions": 8, "wrong steps": 4, "cut": 0}


def test_best_of_n_merges_rows_of_one_prompt(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(response: str, label: int, prompt: str = "3 +8 ?") -> dict[str, Any]:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return {"conversation": turns, "label": label}

    rows = [row("=1 #1", 1), row("=2 #2", 0), row("=1 #1", 1), row("=9 #9", 0), row("=3 #3", 1, "5 -2 ?"), row("=4 #4", 0, "5 -2 ?")]
    (subset,) = judged(models, tmp_path, "best-of", rows)["subsets"]
    assert subset["sizes"] == {"prompts": 2, "responses": 6}
    assert subset["ways"]["first"] == {"1": 0.5, "2": 1.0, "4": 1.0}
    assert subset["ways"]["pass"] == {"1": 0.5, "2": 1.0, "4": 1.0}
    assert {"majority", "prm_sum", "prm_mean", "prm_min_step", "votes_sum"} <= subset["ways"].keys()
    assert "N = 4" in capsys.readouterr().out
    assert judged(models, tmp_path, "best-of", rows, "--limit", "1")["subsets"][0]["sizes"]["responses"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reference", "REFERENCE"), "has no offline_prm.json that says how it was trained: give --beta"),
        (("--beta", "2"), "has no offline_prm.json that says how it was trained: give --reference"),
        (("--prm", "Owner/absent"), "Owner/absent is no folder here, and a model of the Hugging Face Hub has no offline_prm.json"),
        (("--reference", "REFERENCE", "--beta", "2"), "1 wrong and 1 right solutions cannot be halved"),
        (("--reference", "REFERENCE", "--beta", "2", "--reader", "mine"), "1 wrong and 1 right"),
    ],
)
def test_what_is_missing_is_said(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([solution(3, 1), solution(3, -1)]))
    given = [str(models / "reference") if word == "REFERENCE" else word for word in words]
    assert main(["prm", "eval", "processbench", str(file), "--prm", str(models / "reference"), *given]) in (1, 2)
    assert said in capsys.readouterr().err


def test_answers_of_mathematics_are_those_that_the_verifier_grades() -> None:
    assert answer_of(r"So it is \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert answer_of("She makes 18 dollars.\nA: 18") == "18"
    assert answer_of("I have no idea at all what it might be, sorry.") == ""


def test_labelled_rows_of_the_built_in_task(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    words = ["tasks", "chain", "--out", str(out), "--split", "heldout", "--rows", "3", "--operations", "4"]
    assert main([*words, "--responses", "5"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(row["responses"]) for row in rows] == [5, 5, 5]
    assert main([*words, "--errors", "natural"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["label"] >= 0 for row in rows] == [False, True, False]
    assert [len(row["steps"]) for row in rows] == [4, 4, 4]


def test_labelled_rows_are_jsonl_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "chain", "--out", str(tmp_path / "rows.parquet"), "--responses", "2", "--rows", "1"]) == 2
    assert "labelled rows are written as JSONL alone" in capsys.readouterr().err
