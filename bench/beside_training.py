"""What scoring costs a PRM that trains in the same process: python -m bench.beside_training SHARE SECONDS, SHARE 0 without requests.

The real trainer, the copy that answers and the queue in front of it, as the PRM service has them; four clients of one input each never
pause. `bench.rewards` runs it with several shares.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from bench.train_step import BETA, CONTENTS, GROUPS, STORE, new_model, random_batch
from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.system_clock import SystemClock
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.heartbeat import BusyMeter
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.prm_copy import PrmCopy
from oprime_prm.references import References, units_of
from oprime_prm.scoring.inputs import ScoreInput
from oprime_prm.scoring.queue import ScoreQueue
from oprime_prm.scoring.share import TimeShare
from oprime_prm.serving import ServingPrm

VOCABULARY = 32_000
CLIENTS = 4
PROMPT_TOKENS, RESPONSE_TOKENS = 24, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    share: float
    """Most of the time that answers may take; 0 without any requests."""
    steps_per_second: float
    requests_per_second: float


class AnsweringPrm:
    """A PRM that trains, and what answers from its process."""

    def __init__(self) -> None:
        settings = PrmSection(micro_batch_rollouts=8, learning_rate=1e-6, beta=BETA)
        chunk = settings.logprob_chunk_tokens
        self._engine = DeepSpeedEngine(TokenLogprobModel(new_model(VOCABULARY), chunk), settings)
        reference, copy = (FrozenModel(new_model(VOCABULARY), chunk_tokens=chunk) for _ in range(2))
        self._references = References(reference, CONTENTS, STORE, settings, rank=0, ranks=1, pad_id=0)
        self._prm = ImplicitPrm(self._engine, CONTENTS, self._references, settings, pad_id=0, total_steps=10**6)
        self._batch = random_batch(GROUPS, VOCABULARY)
        self.serving = ServingPrm(PrmCopy(copy), reference, beta=BETA, pad_id=0)

    def step(self) -> None:
        self._references.use(self._references.compute(units_of(self._batch)))
        self._prm.process(self._batch, lambda place, values: None)
        self.serving.refresh(self._engine.weights(), self._prm.version)
        self.serving.note(self._prm.version)


async def measure(prm: AnsweringPrm, share: float, seconds: float) -> Beside:
    queue = ScoreQueue(micro_batch_tokens=4096, waiting_tokens=10**9, share=TimeShare(share or 1.0, SystemClock()), meter=BusyMeter())
    ids = np.arange(3, 3 + PROMPT_TOKENS + RESPONSE_TOKENS, dtype=np.int32)
    asked = [ScoreInput(prompt_ids=ids[:PROMPT_TOKENS], response_ids=ids[PROMPT_TOKENS:], token_texts=())]
    answered = [0] * CLIENTS

    async def client(number: int) -> None:
        while True:
            await queue.score(prm.serving, asked)
            answered[number] += 1

    clients = [client(number) for number in range(CLIENTS)] if share else []
    work = [asyncio.create_task(one) for one in (queue.run(), *clients)]
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        await asyncio.to_thread(prm.step)
        steps += 1
    took = time.perf_counter() - began
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    return Beside(share=share, steps_per_second=steps / took, requests_per_second=sum(answered) / took)


def measured_apart(share: float, seconds: float) -> Beside:
    """The measurement in a process of its own, with a thread for each core."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    command = [sys.executable, "-m", "bench.beside_training", str(share), str(seconds)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Beside(**json.loads(found.stdout.splitlines()[-1]))


if __name__ == "__main__":
    answering = AnsweringPrm()
    answering.step()
    print(json.dumps(asdict(asyncio.run(measure(answering, float(sys.argv[1]), float(sys.argv[2]))))))
