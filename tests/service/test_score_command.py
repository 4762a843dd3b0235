"""`oprime score` and `oprime best-of-n` against a gateway that listens. The reward of n characters is n (n + 1) / 4."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway_world import FORBIDDEN, KEY, CharacterPrm, live
from oprime_cli.main import main

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "p", "response": "ab", "ground_truth": "ignored"},
    {"id": 7, "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "a\n\nb"}]}]},
    {"prompt_token_ids": [1], "response_token_ids": [5, 6]},
]


@pytest.fixture
def prm() -> CharacterPrm:
    return CharacterPrm()


@pytest.fixture
async def url(tmp_path: Path, prm: CharacterPrm, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    async with live(tmp_path, prm=prm) as address:
        monkeypatch.setenv("OPRIME_REWARDS", address)
        yield address


async def oprime(*words: str | Path) -> int:
    return await asyncio.to_thread(main, list(map(str, words)))


def file_of(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_every_row_gets_its_reward_in_order(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = file_of(tmp_path / "rows.jsonl", ROWS)
    assert await oprime("score", source, "--steps", "--tokens") == 0
    shown = capsys.readouterr()
    first, second, third = lines(shown.out)
    assert (first["id"], first["reward"], first["revision"]) == ("a", 1.5, "prm@7")
    assert first["tokens"] == {
        "rewards": [0.0, 0.5, 1.0],
        "texts": ["a", "b", "<eos>"],
        "char_spans": [[0, 1], [1, 2], [2, 2]],
        "end_token": 2,
    }
    assert (second["id"], second["steps"]) == (7, {"rewards": [1.5, 3.5], "char_spans": [[0, 3], [3, 4]]})
    assert (third["id"], third["reward"]) == (None, 0.5)
    assert shown.err == "3 rows; mean reward 2.333 of 3; by prm@7\n"


async def test_rows_that_cannot_be_scored_say_why_and_the_others_are_scored(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [
        "{",
        "[1]",
        {"id": 1, "prompt": "p"},
        {"id": 2, "prompt": 5, "response": "a"},
        '{"id": 3, "prompt": "\\ud800", "response": "a"}',
        {"id": 4, "prompt": "p", "response": FORBIDDEN},
    ]
    source = file_of(tmp_path / "rows.jsonl", [ROWS[0], *wrong, "", ROWS[0]])
    assert await oprime("score", source, "--out", tmp_path / "out.jsonl") == 1
    answers = lines((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert [answer.get("reward") for answer in answers] == [1.5, None, None, None, None, None, None, 1.5]
    says = [
        "line 2 is no JSON",
        "line 3 is a list",
        "line 4: it has id, prompt; give prompt and response, or messages",
        "422",
        "line 6",
        "9 t",
    ]
    for answer, part in zip(answers[1:7], says, strict=True):
        assert part in answer["error"]
    assert "6 could not be answered" in capsys.readouterr().err


async def test_a_row_beyond_a_limit_of_the_gateway_fails_alone_and_says_which_setting_moves_it(tmp_path: Path) -> None:
    long = {"id": "long", "prompt": "p", "response": "b" * 2000}
    scored = file_of(tmp_path / "rows.jsonl", [ROWS[0], "", long, ROWS[0], ROWS[0]])
    rows = [
        {"id": "many", "prompt": "p", "responses": ["a"] * 4},
        {"id": "long", "prompt": "p", "responses": ["b" * 2000]},
        {"id": "well", "prompt": "p", "responses": ["a", "ab"]},
    ]
    chosen, out = file_of(tmp_path / "candidates.jsonl", rows), tmp_path / "out.jsonl"
    async with live(tmp_path, max_request_bytes=1000, max_request_items=3) as address:
        assert await oprime("score", scored, "--url", address, "--out", out) == 1
        answers = lines(out.read_text(encoding="utf-8"))
        assert [(answer["id"], answer.get("reward")) for answer in answers] == [("a", 1.5), ("long", None), ("a", 1.5), ("a", 1.5)]
        remedy = "shorten the row, or start the gateway with a larger gateway"
        too_long = f"alone is too large: the request body exceeds 1000 bytes (gateway.max_request_bytes); {remedy}.max_request_bytes"
        assert answers[1]["error"] == f"line 3 {too_long}"
        assert await oprime("best-of-n", chosen, "--url", address, "--out", out, "--fresh") == 1
        many, long, well = lines(out.read_text(encoding="utf-8"))
    many_settings = f"{remedy}.max_request_items and prm.max_score_items"
    assert many["error"] == f"line 1 alone is too large: 4 inputs exceed 3 (gateway.max_request_items); {many_settings}"
    assert long["error"] == f"line 2 {too_long}"
    assert well["best"] == 1


async def test_no_row_is_scored_twice_for_another_that_is_refused(tmp_path: Path) -> None:
    rows = [{"id": place, "prompt": "p", "response": "ab"} for place in range(40)]
    rows[7] |= {"response": "b" * 6000}
    rows[30] |= {"prompt": 5}
    source, out, prm = file_of(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", CharacterPrm()
    async with live(tmp_path, prm=prm, max_request_bytes=5000) as address:
        assert await oprime("score", source, "--url", address, "--out", out) == 1
    failed = {answer["id"]: answer["error"] for answer in lines(out.read_text(encoding="utf-8")) if "error" in answer}
    assert sum(prm.requests) == 38
    assert failed.keys() == {7, 30}
    assert failed[7].startswith("line 8 alone is too large: the request body exceeds 5000 bytes")
    assert "422: body.inputs.0.prompt" in failed[30]


async def test_a_row_beyond_a_limit_of_the_prm_fails_alone_and_smaller_requests_are_sent_where_that_helps(tmp_path: Path) -> None:
    rows = [{"id": "many", "prompt": "p", "responses": ["a"] * 4}, {"id": "well", "prompt": "p", "responses": ["a", "ab"]}]
    chosen, out, prm = file_of(tmp_path / "candidates.jsonl", rows), tmp_path / "out.jsonl", CharacterPrm(most_items=3)
    scored = file_of(tmp_path / "rows.jsonl", [ROWS[0]] * 7)
    async with live(tmp_path, prm=prm) as address:
        assert await oprime("best-of-n", chosen, "--url", address, "--out", out) == 1
        many, well = lines(out.read_text(encoding="utf-8"))
        prm.requests.clear()
        assert await oprime("score", scored, "--url", address, "--out", tmp_path / "rewards.jsonl") == 0
    remedy = "shorten the row, or start the PRM with a larger prm.max_score_items"
    assert many["error"] == f"line 1 alone is too large: 4 items exceed 3 (prm.max_score_items); {remedy}"
    assert (well["best"], sum(prm.requests)) == (1, 7)


@pytest.mark.parametrize("command", ["score", "best-of-n"])
async def test_a_wrong_option_ends_the_command_at_once(command: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROWS[0] | {"responses": ["a"]}] * 3
    assert await oprime(command, file_of(tmp_path / "rows.jsonl", rows), "--reduction", "most") == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "answers 422: body.sequence_reduction: " in shown.err


async def test_an_interrupted_file_goes_on_behind_its_last_whole_row(
    url: str, tmp_path: Path, prm: CharacterPrm, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": place, "prompt": "p", "response": "a" * place} for place in range(5)]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    assert await oprime("score", file_of(source, rows[:2]), "--out", out) == 0
    first, second = lines(out.read_text(encoding="utf-8"))
    # A reward that nobody would give shows that it was kept.
    file_of(out, [{**first, "reward": 99.0}, second])
    with out.open("a", encoding="utf-8") as stream:
        stream.write('{"id": 2, "rewa')
    prm.requests.clear()
    capsys.readouterr()
    assert await oprime("score", file_of(source, rows), "--out", out) == 0
    assert [answer["reward"] for answer in lines(out.read_text(encoding="utf-8"))] == [99.0, 0.5, 1.5, 3.0, 5.0]
    assert prm.requests == [3]
    assert capsys.readouterr().err.endswith("; 2 answered earlier\n")
    assert await oprime("score", source, "--out", out, "--fresh") == 0
    assert [answer["reward"] for answer in lines(out.read_text(encoding="utf-8"))] == [0.0, 0.5, 1.5, 3.0, 5.0]


async def test_other_options_ask_for_every_row_anew(
    url: str, tmp_path: Path, prm: CharacterPrm, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = file_of(tmp_path / "rows.jsonl", [ROWS[0]]), tmp_path / "out.jsonl"
    for more in ([], ["--reduction", "mean"], ["--steps"], ["--tokens"], ["--end-token", "exclude"], ["--truncation", "left"]):
        prm.requests.clear()
        assert await oprime("score", source, "--out", out, *more) == 0
        assert await oprime("score", source, "--out", out, *more) == 0
        assert prm.requests == [1]
    capsys.readouterr()
    source = file_of(tmp_path / "candidates.jsonl", [{"prompt": "p", "responses": ["a", "ab"]}])
    for more in ([], ["--vote", "--verifier", "equal"], ["--vote", "--verifier", "equal", "--weight", "none"]):
        prm.requests.clear()
        assert await oprime("best-of-n", source, "--out", tmp_path / "best.jsonl", *more) == 0
        assert await oprime("best-of-n", source, "--out", tmp_path / "best.jsonl", *more) == 0
        assert prm.requests == [2]
    said = capsys.readouterr().err
    assert said.count("1 answered earlier") == 3
    assert said.count("1 asked anew") == 2


async def test_the_output_of_another_input_is_left_alone(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = file_of(tmp_path / "rows.jsonl", ROWS)
    for content, says in (([{"id": "b"}], "has the id 'b' where"), (["no json"], "no output of this command")):
        out = file_of(tmp_path / "out.jsonl", content)
        before = out.read_text(encoding="utf-8")
        assert await oprime("score", source, "--out", out) == 1
        assert says in capsys.readouterr().err
        assert out.read_text(encoding="utf-8") == before


async def test_rows_come_from_standard_input_too(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(ROWS[0]).encode() + b"\n")))
    assert await oprime("score", "-", "--url", url) == 0
    assert lines(capsys.readouterr().out)[0]["reward"] == 1.5


async def test_responses_are_shown_in_colour_and_never_steer_the_terminal(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    hostile = {"id": "\x1b[2J", "prompt": "p", "response": "a\x1b]0;owned\x07b"}
    source = file_of(tmp_path / "rows.jsonl", [hostile, {"id": "[red]long", "prompt": "p", "response": FORBIDDEN}])
    assert await oprime("score", source, "--show") == 1
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\x1b]0" not in shown
    assert "\x07" not in shown
    # The last token has the largest reward, and so the whole colour.
    assert "48;2;29;111;174" in shown
    assert "[red]long: 9 tokens exceed" in shown


async def test_a_page_replaces_what_a_link_leads_to_whole(url: str, tmp_path: Path) -> None:
    kept = tmp_path / "pages" / "page.html"
    link = tmp_path / "page.html"
    link.symlink_to(kept)
    assert await oprime("score", file_of(tmp_path / "rows.jsonl", ROWS[:1]), "--out", tmp_path / "out.jsonl", "--html", link) == 0
    assert link.is_symlink()
    assert "<article>" in kept.read_text(encoding="utf-8")
    assert list(kept.parent.iterdir()) == [kept]


async def test_a_page_shows_every_response_and_runs_nothing(url: str, tmp_path: Path) -> None:
    nasty = {"id": "<x>", "prompt": "<script>alert(1)</script>", "response": "<b>&"}
    source = file_of(tmp_path / "rows.jsonl", [nasty, *ROWS, {"id": 9, "prompt": "p", "response": FORBIDDEN}])
    assert await oprime("score", source, "--out", tmp_path / "out.jsonl", "--html", tmp_path / "page.html") == 1
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 5
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '<span class="positive" style="--strength:25%" title="0.5">b</span>' in page
    assert "9 tokens exceed" in page
    assert page.endswith("</body></html>\n")


async def test_what_cannot_be_asked_for_is_refused_before_anything_is_done(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = file_of(tmp_path / "rows.jsonl", ROWS)
    assert await oprime("score", source, "--html", tmp_path / "page.html") == 2
    assert await oprime("best-of-n", source, "--weight", "none") == 2
    assert await oprime("score", source, "--url", "ftp://x") == 2
    assert await oprime("score", tmp_path / "absent.jsonl") == 1
    assert await oprime("score", source, "--model", "prm@6") == 1
    said = capsys.readouterr().err
    for part in ("--html needs a FILE and an --out", "add --vote", "'ftp://x' is no URL", "cannot be read", "prm@6 is not served any more"):
        assert part in said


async def test_the_best_of_each_row_is_chosen(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": 1, "prompt": "p", "responses": ["ab", FORBIDDEN, "abcd"]},
        {"id": 2, "messages": [{"role": "user", "content": "q"}], "responses": ["x", "yy", "x"]},
        {"id": 3, "prompt": "p", "responses": []},
        {"id": 4, "prompt": "p", "responses": [FORBIDDEN]},
        {"id": 5, "messages": "q", "responses": ["a"]},
    ]
    source, out = file_of(tmp_path / "rows.jsonl", rows), tmp_path / "best.jsonl"
    assert await oprime("best-of-n", source, "--out", out) == 1
    first, second, *failed = lines(out.read_text(encoding="utf-8"))
    assert first.pop("fingerprint") != second["fingerprint"]
    assert first == {"id": 1, "best": 2, "rewards": [1.5, None, 5.0], "revision": "prm@7", "response": "abcd", "reward": 5.0}
    assert (second["best"], second["response"]) == (1, "yy")
    assert ["not empty" in failed[0]["error"], "9 tokens" in failed[1]["error"], "422" in failed[2]["error"]] == [True] * 3
    assert await oprime("best-of-n", file_of(tmp_path / "one.jsonl", rows[1:2]), "--vote", "--verifier", "equal", "--weight", "none") == 0
    (voted,) = lines(capsys.readouterr().out)
    assert (voted["best"], voted["answer"], voted["votes"][0]["responses"]) == (0, "x", [0, 2])


async def test_a_vote_that_nobody_can_count_is_refused_before_anything_is_scored(
    tmp_path: Path, prm: CharacterPrm, capsys: pytest.CaptureFixture[str]
) -> None:
    source = file_of(tmp_path / "candidates.jsonl", [{"prompt": "p", "responses": ["a"]}])
    for gateway, more, says in (
        ({"rewards_only": True}, [], "--vote needs a verifier, and {} gives process rewards alone, as `oprime serve prm` does: leave out"),
        ({}, ["--verifier", "equals"], "--verifier equals is not offered at {} (did you mean equal?): there are equal"),
    ):
        async with live(tmp_path, prm=prm, **gateway) as address:
            assert await oprime("best-of-n", source, "--url", address, "--vote", *more) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"oprime: {says.format(address)}")
        assert said.count("\n") == 1
    assert prm.requests == []


async def test_a_key_is_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = file_of(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "key").write_text(KEY, encoding="utf-8")
    async with live(tmp_path, keys=(KEY,)) as address:
        remedy = "name a file that holds one of its keys with --key-file, or in OPRIME_REWARDS_KEY_FILE"
        for command in ("score", "best-of-n"):
            rows = source if command == "score" else file_of(tmp_path / "candidates.jsonl", [{"prompt": "p", "responses": ["a"]}])
            assert await oprime(command, rows, "--url", address) == 1
            assert capsys.readouterr().err == f"oprime: {address} answers 401: the gateway asks for a key; {remedy}\n"
        (tmp_path / "other").write_text("of another gateway", encoding="utf-8")
        assert await oprime("score", source, "--url", address, "--key-file", tmp_path / "other") == 1
        assert f"401: the key in {tmp_path / 'other'} is none of the gateway's; {remedy}" in capsys.readouterr().err
        assert await oprime("score", source, "--url", address, "--key-file", tmp_path / "key") == 0


async def test_a_reader_that_leaves_ends_the_command_quietly(url: str, tmp_path: Path) -> None:
    source = file_of(tmp_path / "rows.jsonl", [{"id": place, "prompt": "p" * 100, "response": "a"} for place in range(2000)])

    def cut_short() -> tuple[int, bytes]:
        command = [sys.executable, "-m", "oprime_cli.main", "score", str(source), "--out", "/dev/stdout"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                assert process.stdout.read(300).startswith(b'{"id": 0, "reward": 0.5')
                process.stdout.close()
                return process.wait(120), process.stderr.read()
            finally:
                process.kill()

    assert await asyncio.to_thread(cut_short) == (1, b"")
