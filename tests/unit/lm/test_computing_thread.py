"""In a thread of its own a model takes the CPU threads that the process has set, from its first matrix product on."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path

import torch

from oprime.lm.computing_thread import computing_thread

torch.set_num_threads(int(sys.argv[1]))
left, right = torch.ones(64, 256), torch.ones(4096, 256)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def multiply() -> None:
    torch.nn.functional.linear(left, right)


thread = computing_thread("model")
thread.submit(int).result()
before = threads()
thread.submit(multiply).result()
print(threads() - before)
"""


def started(threads: int) -> int:
    """How many threads a first matrix product begins where the environment allows three and the process has set so many."""
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], capture_output=True, text=True, env=environment, check=True)
    return int(ended.stdout)


def test_it_takes_no_more_than_the_process_has_set() -> None:
    assert started(1) == 0


def test_it_takes_what_the_process_has_set() -> None:
    assert started(3) == 2
