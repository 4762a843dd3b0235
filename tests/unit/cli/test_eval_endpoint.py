"""A server that speaks as OpenAI's does, on a real port: what it says is read, what is transient is asked again, the rest has a message."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_server import Server, chat_server, completion
from evaluation_world import Comparing, problem
from oprime.client.exchange import Patience
from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.evaluate import Evaluation, Plan
from oprime.evaluation.samples import SampleFile
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime_cli.evaluating.endpoint import Endpoint, EndpointError

COMPLETION = completion("4")
SOON = Patience(attempts=3, first_wait_s=0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    with chat_server() as running:
        yield running


async def ask(server: Server, decoding: Decoding | None = None, **options: Any) -> Any:
    endpoint = Endpoint(server.url + "/v1", patience=SOON, **options)
    try:
        await endpoint.start()
        return await endpoint.sample(problem("2 + 2?", "4"), 0, decoding or Decoding(), 2**40 + 7)
    finally:
        await endpoint.close()


async def test_a_sample_is_one_chat_completion(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    found = await ask(server, Decoding(temperature=0.3, top_p=0.9, max_tokens=8, stop=("###",)), key_file=key)
    assert (found.text, found.finish_reason, found.tokens) == ("4", "length", 9)
    assert server.asked == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "2 + 2?"}],
            "temperature": 0.3,
            "top_p": 0.9,
            "max_tokens": 8,
            "seed": 2**40 % 2**31 + 7,
            "stop": ["###"],
        }
    ]
    assert server.keys == ["Bearer secret"]


async def test_what_is_transient_is_asked_again(server: Server) -> None:
    server.answers = [(500, "oops"), (429, "slow down"), (200, COMPLETION)]
    assert (await ask(server)).text == "4"
    assert len(server.asked) == 3


async def test_a_server_that_stays_out_says_what_it_said(server: Server) -> None:
    server.answers = [(500, '{"error": "out of memory"}')]
    with pytest.raises(
        EndpointError, match=r"no response after 3 attempts; the last: .* answers 500: out of memory. What was answered before is kept"
    ):
        await ask(server)
    assert len(server.asked) == SOON.attempts


async def test_nobody_there_is_one_message() -> None:
    endpoint = Endpoint("http://127.0.0.1:9", patience=SOON)
    with pytest.raises(EndpointError, match=r"127.0.0.1:9/v1/models: ConnectError"):
        await endpoint.start()
    await endpoint.close()


async def test_a_prompt_that_is_too_long_is_its_own_fault_and_another_refusal_stops(server: Server) -> None:
    server.answers = [(400, '{"message": "This model\'s maximum context length is 64 tokens"}'), (401, "no key")]
    with pytest.raises(UnusableInputError, match="maximum context length"):
        await ask(server)
    with pytest.raises(EndpointError, match=r"answers 401: no key; check the URL .* and the key"):
        await ask(server)


@pytest.mark.parametrize("answer", ["no json", [1], {"choices": []}, {"choices": [{"message": {"content": ["a"]}}]}])
async def test_what_is_no_completion_is_refused(server: Server, answer: Any) -> None:
    server.answers = [(200, answer)]
    with pytest.raises(EndpointError, match="is that an OpenAI-compatible endpoint"):
        await ask(server)


async def test_one_of_several_models_must_be_named(server: Server) -> None:
    server.models = ["one", "two"]
    with pytest.raises(SettingsError, match=r"serves one, two: name one with --model"):
        await ask(server)
    with pytest.raises(SettingsError, match=r"--model three: .* serves one, two"):
        await ask(server, model="three")
    assert (await ask(server, model="two")).text == "4"


async def test_an_evaluation_that_a_server_broke_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    asked = Plan(problems=[problem(str(n), "4", index=n) for n in range(4)], samples=1, decoding=Decoding(), at_once=1)

    async def evaluated() -> list[float]:
        endpoint, file = Endpoint(server.url, model="tiny", patience=SOON), SampleFile(tmp_path / "samples.jsonl")
        try:
            samples = await Evaluation(asked, endpoint, Comparing(), file, lambda settled: None).run()
        finally:
            file.close()
            await endpoint.close()
        return [one.grade.points for one in samples]

    server.answers = [(200, COMPLETION), (200, COMPLETION), (500, "the disk of the server is full")]
    with pytest.raises(EndpointError, match="the disk of the server is full"):
        await evaluated()
    server.answers = [(200, COMPLETION)]
    before = len(server.asked)
    assert await evaluated() == [1.0] * 4
    assert len(server.asked) - before == 2


def test_a_key_file_without_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SettingsError, match=r"--api-key-file .* is empty"):
        Endpoint("http://x", key_file=tmp_path / "key")
    with pytest.raises(SettingsError, match="cannot be read"):
        Endpoint("http://x", key_file=tmp_path / "none")
