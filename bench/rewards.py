"""`oprime serve prm` beside the obvious way, in one run: python -m bench.rewards.

All serve the same PRM and reference (random weights) to the same clients on this machine: requests/s and latency with one input per
request and with 128, then the memory that a request of 128 inputs takes at a vocabulary of 152,000. `--share-port` is a process for each
core on one port, the obvious way is `bench.obvious_rewards`. At last, what scoring costs a PRM that trains in the same process, with and
without its bound. Clients send the next request when the last one is answered. The servers take turns, several rounds for each row, and
what is shown are medians: a machine that has other work to do slows all of them. Machines differ: compare the rows of one run.
"""

import argparse
import contextlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, PreTrainedTokenizerFast

from bench.beside_training import Beside, measured_apart
from bench.http_load import ask, post
from oprime.lm.models import random_causal_lm
from oprime.runtime.free_ports import reserve_port

LARGE_VOCABULARY = 152_000
FEWEST_WORDS = 1000
"""Words that every model here knows."""
PROMPT_WORDS, RESPONSE_WORDS = 24, 48
"""Of the longest; they are of uneven length."""
BETA = 0.05
PATH = "/v1/rewards"
AGREEMENT = 1e-5
"""Between rewards of both servers, each in float32: beta times what log-probs may differ by, 1e-4, twice."""
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
MEBIBYTE = 2**20
Measured = TypeVar("Measured")
START_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model's shape."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    cells: tuple[tuple[int, int], ...] = ((1, 1), (8, 1), (64, 1), (1, 128), (8, 128), (64, 128))
    """Clients, and inputs of each request."""


SIZES = {
    # What a request costs beside the model counts most.
    "small": Size(name="small", vocabulary=1000, hidden=64, layers=2),
    # Both count.
    "between": Size(name="between", vocabulary=4000, hidden=128, layers=4, cells=((1, 1), (8, 1), (64, 1))),
    # What the model computes counts most.
    "medium": Size(name="medium", vocabulary=32_000, hidden=256, layers=4, cells=((1, 1), (8, 1), (64, 1), (1, 128))),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What clients of one kind saw of one server."""

    clients: int
    inputs: int
    requests_per_second: float
    p50_s: float
    p99_s: float
    core_s: float
    """Time of one core that the server took for a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that answers at a port, with the processes behind it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def held_bytes(self) -> int:
        """Memory of its processes; from here on peaks are counted anew."""
        held = self._memory("VmRSS")
        for one in self._processes():
            with contextlib.suppress(OSError):
                Path(f"/proc/{one}/clear_refs").write_text("5", encoding="utf-8")
        return held

    def core_seconds(self) -> float:
        """Time that its processes have taken of any core."""
        return sum(sum(psutil.Process(one).cpu_times()[:2]) for one in self._processes())

    def peak_bytes(self) -> int:
        """The most memory that its processes had since, each by itself."""
        return self._memory("VmHWM")

    def _processes(self) -> list[int]:
        own = psutil.Process(self.process.pid)
        return [own.pid, *(child.pid for child in own.children(recursive=True))]

    def _memory(self, kind: str) -> int:
        found = 0
        for one in self._processes():
            with contextlib.suppress(OSError):
                line = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text(encoding="utf-8"))
                found += 1024 * int(line[1]) if line else 0
        return found


def write_models(place: Path, size: Size) -> tuple[Path, Path]:
    """A PRM and its reference, whose tokens are words."""
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{token}": token for token in range(3, size.vocabulary)}
    inner = Tokenizer(WordLevel(words, "<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    # Not a Qwen2: transformers reads the tokenizer of every Qwen2 as Qwen's own.
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=4 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 32,
        num_key_value_heads=size.hidden // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    for seed, name in enumerate(("prm", "reference")):
        random_causal_lm(config, seed).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return place / "prm", place / "reference"


@contextlib.contextmanager
def started(name: str, prm: Path, reference: Path) -> Iterator[Server]:
    """One of the servers, ready, for the length of the block."""
    with reserve_port("127.0.0.1") as keeper:
        port = int(keeper.getsockname()[1])
        models = ["--model", str(prm), "--reference", str(reference), "--beta", str(BETA), "--port", str(port), "--device", "cpu"]
        oprime, cores = [sys.executable, "-m", "oprime_cli.main", "serve", "prm", *models], len(os.sched_getaffinity(0))
        command = {
            "oprime": oprime,
            "shared": [*oprime, "--replicas", str(cores), "--share-port"],
            "obvious": [sys.executable, "-m", "bench.obvious_rewards", str(prm), str(reference), str(port), str(BETA)],
        }[name]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment())
        try:
            wait_for_answers(port, process, listeners=cores if name == "shared" else 1)
            yield Server(name=name, port=port, process=process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # It still answers those that have gone.
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "TOKENIZERS_PARALLELISM": "false"}


def wait_for_answers(port: int, process: subprocess.Popen[bytes], *, listeners: int) -> None:
    ends = time.monotonic() + START_WITHIN_S
    asked = post(PATH, json.dumps(request(1, np.random.default_rng(0))).encode())
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(OSError, RuntimeError):
            ask(port, [asked], clients=1, seconds=0)
            if listening_at(port) == listeners:
                return
        time.sleep(0.2)
    raise SystemExit(f"{process.args} does not answer")


def listening_at(port: int) -> int:
    return sum(one.status == psutil.CONN_LISTEN and one.laddr[1:2] == (port,) for one in psutil.net_connections("tcp"))


def request(inputs: int, dice: np.random.Generator) -> dict[str, Any]:
    """One prompt with so many responses, a value per token asked for."""

    def text(most: int) -> str:
        return " ".join(f"w{token}" for token in dice.integers(3, FEWEST_WORDS, size=int(dice.integers(most // 2, most + 1))))

    prompt = text(PROMPT_WORDS)
    return {"inputs": [{"prompt": prompt, "response": text(RESPONSE_WORDS)} for _ in range(inputs)], "granularity": ["token"]}


def measured(server: Server, clients: int, inputs: int, seconds: float) -> Cell:
    """Let clients ask for some seconds; what is under way then is answered, too, and counts. What was answered is checked afterwards."""
    bodies = requests_of(clients, inputs)
    core_s = server.core_seconds()
    answers = ask(server.port, [post(PATH, json.dumps(body).encode()) for body in bodies], clients=clients, seconds=seconds)
    core_s = server.core_seconds() - core_s
    for place, answer in answers.bodies.items():
        check(server, bodies[place], json.loads(answer))
    return Cell(
        clients=clients,
        inputs=inputs,
        requests_per_second=answers.per_second,
        p50_s=statistics.median(answers.latencies_s),
        p99_s=float(np.quantile(answers.latencies_s, 0.99)),
        core_s=core_s / len(answers.latencies_s),
    )


def requests_of(clients: int, inputs: int) -> list[dict[str, Any]]:
    """What the clients of a cell ask, of either server."""
    dice = np.random.default_rng(clients * inputs)
    return [request(inputs, dice) for _ in range(min(64, 4 * clients))]


def check(server: Server, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    """Raises AssertionError unless there is a finite reward for each token of each response and for its end."""
    rewards = [rewards_in(item) for item in answer["data"]]
    assert [len(own) for own in rewards] == [len(one["response"].split()) + 1 for one in asked["inputs"]], (
        f"{server.name} leaves rewards out"
    )
    assert all(math.isfinite(reward) for own in rewards for reward in own), f"{server.name} gives rewards that are no numbers"


def rewards_in(item: dict[str, Any]) -> list[float]:
    """The token rewards of an input, in the words of either server."""
    return item["rewards"] if "rewards" in item else item["tokens"]["rewards"]


def check_agreement(servers: Sequence[Server]) -> None:
    """Raises AssertionError unless all give the same rewards."""
    asked = requests_of(1, 128)[0]
    found = [json.loads(ask(server.port, [post(PATH, json.dumps(asked).encode())], clients=1, seconds=0).bodies[0]) for server in servers]
    for first, *others in zip(*(answer["data"] for answer in found), strict=True):
        for other in others:
            np.testing.assert_allclose(rewards_in(first), rewards_in(other), rtol=0, atol=AGREEMENT)


def cells_of(size: Size, seconds: float, rounds: int) -> dict[str, list[Cell]]:
    """Medians of all servers for each kind of clients. Which of them is asked changes every so many seconds."""
    found: dict[str, list[Cell]] = {"oprime": [], "shared": [], "obvious": []}
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder, contextlib.ExitStack() as running:
        models = write_models(Path(folder), size)
        servers = [running.enter_context(started(name, *models)) for name in found]
        check_agreement(servers)
        for clients, inputs in size.cells:
            rows = [[measured(server, clients, inputs, seconds) for server in servers] for _ in range(rounds)]
            for server, own in zip(servers, zip(*rows, strict=True), strict=True):
                found[server.name].append(median_of(own))
                print(f"{server.name}: {found[server.name][-1]}", file=sys.stderr, flush=True)
    return found


def median_of(cells: Sequence[Cell]) -> Cell:
    names = ("requests_per_second", "p50_s", "p99_s", "core_s")
    return replace(cells[0], **{name: statistics.median(getattr(cell, name) for cell in cells) for name in names})


def memory_of(server: Server) -> tuple[float, float]:
    """MiB of the service ready, and how many more its peak is after a request of 128 inputs."""
    before = server.held_bytes()
    measured(server, 1, 128, 0.1)
    return before / MEBIBYTE, (server.peak_bytes() - before) / MEBIBYTE


def show_cells(found: dict[str, list[Cell]]) -> None:
    columns, names = f"{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'core ms':>9}{'ratio':>8}", {"shared": "--share-port"}
    print(f"{'':16}" + "".join(f"{names.get(name, name):>44}    " for name in found))
    print(f"{'clients':>8}{'inputs':>8}" + f"{columns}    " * len(found))
    for row in zip(*found.values(), strict=True):
        obvious = row[-1].requests_per_second
        columns = "".join(f"{_columns(one)}{one.requests_per_second / obvious:>7.1f}x    " for one in row)
        print(f"{row[0].clients:>8}{row[0].inputs:>8}{columns}")


def _columns(cell: Cell) -> str:
    return f"{cell.requests_per_second:>9.2f}{_ms(cell.p50_s):>9}{_ms(cell.p99_s):>9}{_ms(cell.core_s, 1):>9}"


def _ms(seconds: float, digits: int = 0) -> str:
    return f"{1000 * seconds:.{digits}f}"


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description="Token rewards beside the obvious way.")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long clients of each kind ask in each round")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server is asked")
    parser.add_argument("--part", action="append", choices=(*SIZES, "memory", "training"), help="measure these only")
    options = parser.parse_args(arguments)
    parts = options.part or [*SIZES, "memory", "training"]
    print(f"token rewards on {len(os.sched_getaffinity(0))} cores, which the clients share")
    for size in (SIZES[name] for name in parts if name in SIZES):
        print(f"\n{size.name}: vocabulary {size.vocabulary}, {size.layers} layers of {size.hidden}")
        show_cells(cells_of(size, options.seconds, options.rounds))
    if "memory" in parts:
        show_memory(of_both(replace(SIZES["medium"], vocabulary=LARGE_VOCABULARY), memory_of))
    if "training" in parts:
        show_beside(beside_training(20 * options.seconds, options.rounds))


def beside_training(seconds: float, rounds: int) -> list[Beside]:
    """Medians for each share; the shares take turns, since steps are long."""
    shares = (0.0, 0.25, 1.0)
    rows = [[measured_apart(share, seconds) for share in shares] for _ in range(rounds)]
    return [
        Beside(
            share=share,
            steps_per_second=statistics.median(one.steps_per_second for one in own),
            requests_per_second=statistics.median(one.requests_per_second for one in own),
        )
        for share, own in zip(shares, zip(*rows, strict=True), strict=True)
    ]


def of_both(size: Size, measure: Callable[[Server], Measured]) -> dict[str, Measured]:
    """The measurement of both servers, one after the other, on the same models."""
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        prm, reference = write_models(Path(folder), size)
        for name in ("oprime", "obvious"):
            with started(name, prm, reference) as server:
                found[name] = measure(server)
    return found


def show_memory(memory: dict[str, tuple[float, float]]) -> None:
    print(f"\nmemory at a vocabulary of {LARGE_VOCABULARY}, requests of 128 inputs (MiB)")
    for name, (ready, more) in memory.items():
        print(f"{name:>8}: {ready:7.0f} ready, {more:7.0f} more at most")
    ratio = memory["oprime"][1] / memory["obvious"][1]
    print(f"   ratio: {ratio:.2f} of what requests take, {sum(memory['oprime']) / sum(memory['obvious']):.2f} in all")


def show_beside(found: Sequence[Beside]) -> None:
    print("\na PRM that trains and answers in one process")
    for one in found:
        kind = "no requests" if not one.share else f"share {one.share:g}"
        times = found[0].steps_per_second / one.steps_per_second
        print(f"{kind:>12}: {one.steps_per_second:6.2f} steps/s, {one.requests_per_second:7.1f} requests/s, {times:5.2f}x the time a step")


if __name__ == "__main__":
    main(sys.argv[1:])
