"""`oprime serve prm` as a person uses it: a run's PRM over HTTP, without the run."""

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from e2e.command_line import oprime, start_oprime
from oprime.adapters.store_weights import StoreWeights
from oprime_cli.overrides import load_config
from oprime_cli.running.run_folder import RunFolder
from tiny_policies import VOCABULARY, full_logprobs, with_other_head, write_policy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BETA = 0.25
PROMPT, RESPONSE = (3, 4, 5), (6, 7, 8)
TOKENS = {"prompt_token_ids": PROMPT, "response_token_ids": RESPONSE}
SETTINGS = """
[run]
name = "one"
steps = 10
[model]
path = {start}
[tasks]
source = "chain"
[coordinator]
groups_per_batch = 2
[prm]
beta = 0.25
"""


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    folder: Path

    def logprobs(self, version: int) -> list[float]:
        directory = self.folder.parent / "start" if version == 0 else self.folder / "prm_weights" / f"v{version:08d}"
        return full_logprobs(directory, PROMPT, RESPONSE, 1.0)

    def rewards(self, version: int) -> list[float]:
        return [BETA * (ours - theirs) for ours, theirs in zip(self.logprobs(version), self.logprobs(0), strict=True)]


def make_run(place: Path) -> Path:
    """A run whose PRM has the versions 2 and 4, and no processes."""
    start = place / "start"
    model = write_policy(start)
    config_file = place / "run.toml"
    config_file.write_text(SETTINGS.format(start=json.dumps(str(start))), encoding="utf-8")
    config = load_config(config_file, [f"run.directory={json.dumps(str(place))}"])
    folder = RunFolder(config.run.folder)
    folder.path.mkdir()
    folder.begin(config)
    store = StoreWeights(str(folder.path / "prm_weights"), template=start)
    for version in (2, 4):
        store.publish(version, iter(dict(with_other_head(model, seed=version).named_parameters()).items()), parent=None)
    return folder.path


def url_of(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Where it answers, once it does."""
    ends = time.monotonic() + 240
    while not (found := re.search(r"at (http://127.0.0.1:\d+);", log.read_text(encoding="utf-8"))):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < ends, log.read_text(encoding="utf-8")
        time.sleep(0.1)
    return found[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("serve")
    folder, log = make_run(place), place / "serve.log"
    process = start_oprime("serve", "prm", str(folder), "--port", "0", "--device", "cpu", "--replicas", "2", log=log)
    try:
        url = url_of(process, log)
        children = psutil.Process(process.pid).children(recursive=True)
        yield Served(url, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")
    assert "stopped on request" in log.read_text(encoding="utf-8")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def ask(served: Served, *inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"inputs": inputs, "granularity": ["token", "step", "sequence"], "include": ["logprobs", "ref_logprobs"], **fields}
    answer = httpx.post(f"{served.url}/v1/rewards", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_rewards_are_those_of_the_newest_version_on_disk(served: Served) -> None:
    answer = ask(served, TOKENS)
    tokens = answer["data"][0]["tokens"]
    assert (answer["model_revision"], answer["beta"]) == ("prm@4", BETA)
    assert answer["reference_model"] == str(served.folder.parent / "start")
    assert tokens["rewards"] == pytest.approx(served.rewards(4), abs=1e-5)
    assert tokens["logprobs"] == pytest.approx(served.logprobs(4), abs=1e-5)
    assert max(map(abs, tokens["rewards"])) > 1e-3


@pytest.mark.parametrize("version", [0, 2, 4])
def test_every_version_on_disk_answers_by_name(served: Served, version: int) -> None:
    answer = ask(served, TOKENS, model=f"prm@{version}")
    assert answer["model_revision"] == f"prm@{version}"
    assert answer["data"][0]["tokens"]["rewards"] == pytest.approx(served.rewards(version), abs=1e-5)


@pytest.mark.parametrize("version", [3, 10**40])
def test_a_version_that_is_not_there_is_404_with_those_that_are(served: Served, version: int) -> None:
    answer = httpx.post(f"{served.url}/v1/rewards", json={"inputs": [TOKENS], "model": f"prm@{version}"})
    assert answer.status_code == 404
    assert "there are prm@0, prm@2, prm@4" in answer.json()["detail"]


def test_many_clients_at_once_get_their_own_rewards(served: Served) -> None:
    bodies = [
        {"prompt_token_ids": [3, 4], "response_token_ids": [3 + number % (VOCABULARY - 3)] * (1 + number % 9)} for number in range(48)
    ]

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            return await asyncio.gather(
                *(client.post("/v1/rewards", json={"inputs": [body], "granularity": ["token"], "include": ["logprobs"]}) for body in bodies)
            )

    answers = [answer.json()["data"][0]["tokens"]["logprobs"] for answer in asyncio.run(all_at_once())]
    alone = ask(served, *bodies)
    directory = served.folder / "prm_weights" / "v00000004"
    for body, found, item in zip(bodies, answers, alone["data"], strict=True):
        expected = full_logprobs(directory, tuple(body["prompt_token_ids"]), tuple(body["response_token_ids"]), 1.0)
        assert found == pytest.approx(expected, abs=1e-5)
        assert item["tokens"]["logprobs"] == pytest.approx(expected, abs=1e-5)


def test_sums_are_equal_to_the_last_bit(served: Served) -> None:
    text = {"messages": [{"role": "user", "content": "w3 w4"}, {"role": "assistant", "content": "w5 w6\n\nw7 w8 w9\n\nw10"}]}
    item = ask(served, text)["data"][0]
    rewards = item["tokens"]["rewards"]
    assert len(rewards) == 7
    printed = [[Decimal(repr(one)) for one in part] for part in (rewards, item["steps"]["rewards"], [item["sequence"]["reward"]])]
    assert len({sum(part) for part in printed}) == 1


def test_half_a_character_is_refused_and_a_whole_one_is_not(served: Served) -> None:
    def post(text: str) -> httpx.Response:
        body = f'{{"inputs": [{{"prompt": "w3", "response": "{text}"}}], "granularity": ["token"], "include": ["offsets"]}}'
        return httpx.post(f"{served.url}/v1/rewards", content=body, headers={"content-type": "application/json"})

    assert post("\\ud83d").status_code == 422
    assert post("\\ud83d\\ude00").status_code == 200


def test_nothing_else_is_needed_and_nothing_else_is_there(served: Served) -> None:
    assert httpx.get(f"{served.url}/readyz").json() == {"ready": True, "services": {"scorer-0": True, "scorer-1": True}}
    assert httpx.get(f"{served.url}/v1/models").json()["data"][0]["revision"] == "prm@4"
    answer = httpx.post(f"{served.url}/v1/verify", json={"inputs": [{"kind": "math", "response": "1", "golds": ["1"]}]})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "process rewards alone" in answer.json()["detail"]
    assert httpx.get(f"{served.url}/metrics").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "serve what?"),
        (("nowhere",), 2, "no run nowhere"),
        (("--model", "nowhere/at/all", "--port", "0"), 2, "nowhere/at/all: there is no such directory"),
        (("--model", "m", "--replicas", "0"), 2, "--replicas 0"),
        (("--model", "m", "--host", "::"), 2, "without keys"),
        (("--model", "m", "--beta", "-1"), 2, "prm.beta"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(arguments: tuple[str, ...], code: int, words: str) -> None:
    result = oprime("serve", "prm", *arguments, timeout_s=120)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_the_heads_of_versions_differ(served: Served) -> None:
    # Or versions could be mixed up unseen.
    assert not torch.allclose(torch.tensor(served.logprobs(2)), torch.tensor(served.logprobs(4)), atol=1e-2)


def test_a_single_replica_is_one_process_that_scores_and_shows_its_metrics(tmp_path: Path) -> None:
    write_policy(tmp_path / "start")
    log = tmp_path / "serve.log"
    process = start_oprime("serve", "prm", "--model", str(tmp_path / "start"), "--port", "0", "--device", "cpu", log=log)
    try:
        url = url_of(process, log)
        children = psutil.Process(process.pid).children(recursive=True)
        assert [child.cmdline()[2] for child in children if child.cmdline()[1] == "-m"] == ["oprime_cli.running.serve_alone"]
        answer = httpx.post(f"{url}/v1/rewards", json={"inputs": [TOKENS], "model": "prm@0"}, timeout=60)
        refused = httpx.post(f"{url}/v1/rewards", json={"inputs": [TOKENS], "model": "prm@7"}, timeout=60)
        assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200
        shown = httpx.get(f"{url}/metrics", timeout=60).text
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")
    # A model that is its own reference rewards nothing.
    assert answer.json()["data"][0]["sequence"]["reward"] == 0
    assert refused.status_code == 404
    assert re.search(r'oprime_score_requests_total\{.*outcome="scored".*\} 1\.0', shown)
    assert re.search(r'oprime_http_requests_total\{.*route="/v1/rewards".*status="200".*\} 1\.0', shown)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


@pytest.mark.slow
def test_replicas_that_share_a_port_answer_alike_and_both_are_asked(tmp_path: Path) -> None:
    folder, log = make_run(tmp_path), tmp_path / "serve.log"
    process = start_oprime("serve", "prm", str(folder), "--port", "0", "--device", "cpu", "--replicas", "2", "--share-port", log=log)
    try:
        url = url_of(process, log)
        children = [child for child in psutil.Process(process.pid).children(recursive=True) if "-m" in child.cmdline()]
        assert [child.cmdline()[2] for child in children] == ["oprime_cli.running.serve_alone"] * 2
        served, asked = Served(url, folder), 0
        ends = time.monotonic() + 120
        # Connections are dealt by the kernel, and the second may still be loading. Each process counts what it was asked itself.
        while (counted := asked_on_a_new_connection(served)) == (asked := asked + 1):
            assert time.monotonic() < ends
        assert counted < asked
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def asked_on_a_new_connection(served: Served) -> int:
    """How many requests the process behind it has answered, this one included."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        answer = client.post("/v1/rewards", json={"inputs": [TOKENS], "granularity": ["token"]}).json()
        assert answer["model_revision"] == "prm@4"
        assert answer["data"][0]["tokens"]["rewards"] == pytest.approx(served.rewards(4), abs=1e-5)
        shown = client.get("/metrics").text
    counts = re.findall(r'oprime_http_requests_total\{.*route="/v1/rewards".*status="200".*\} (\d+)', shown)
    return int(counts[0])
