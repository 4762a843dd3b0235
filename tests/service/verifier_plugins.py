"""Plug-ins of every kind, for the verifier's tests. Worker processes import this module by name."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from oprime.core.verification import Outcome, correct, no_answer

MEMORY = 1 << 34


def length(response: str, ground_truth: str) -> float:
    """Share of the wanted number of characters."""
    return min(1.0, len(response) / int(ground_truth))


def mapping(response: str, ground_truth: str) -> Mapping[str, object]:
    return {"score": 0.25, "answer": response.upper(), "reason": "a quarter", "acc": ground_truth}


def outcome(response: str, ground_truth: str) -> Outcome:
    return no_answer(f"{response} is not for {ground_truth}")


def repeat(response: str, ground_truth: str) -> Outcome:
    return correct(answer=f"{len(response)} {response[-1:]} {ground_truth}")


def hang(response: str, ground_truth: str) -> float:
    while response == "hang":
        pass
    return 1.0


def hang_and_ignore_sigterm(response: str, ground_truth: str) -> float:
    """Also starts a child that would outlive a plain kill; writes its id into the file that `ground_truth` names."""
    if response != "hang":
        return 1.0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(ground_truth).write_text(str(child.pid), encoding="utf-8")
    while True:
        time.sleep(1)


def die_once(response: str, ground_truth: str) -> float:
    """Ends its process unless the file `ground_truth` already exists."""
    marker = Path(ground_truth)
    if marker.exists():
        return 1.0
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def wait_for_file(response: str, ground_truth: str) -> float:
    """Says that it runs, by its process id, and then waits until it is killed or the file `released` exists."""
    folder = Path(ground_truth)
    (folder / f"pid-{os.getpid()}").touch()
    while not (folder / "released").exists():
        time.sleep(0.01)
    return 1.0


def count_calls(response: str, ground_truth: str) -> float:
    """Leaves a file for each call in the folder `ground_truth`."""
    Path(ground_truth, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return 1.0


def exit_process(response: str, ground_truth: str) -> float:
    os._exit(3)


def leave(response: str, ground_truth: str) -> float:
    sys.exit("enough")


def too_much_memory(response: str, ground_truth: str) -> float:
    return float(len(bytearray(MEMORY)) > 0)


def chatter(response: str, ground_truth: str) -> float:
    sys.stdout.write("not a frame\n")
    sys.stdout.flush()
    os.write(1, b"\x00\x00\x00\x01x")
    return float(sys.stdin.read() == "")


def raises(response: str, ground_truth: str) -> float:
    raise RuntimeError(f"no judgement for {response}")


def two(response: str, ground_truth: str) -> float:
    return 2.0


def nan(response: str, ground_truth: str) -> float:
    return float("nan")


def text(response: str, ground_truth: str) -> str:
    return "correct"


def nothing(response: str, ground_truth: str) -> None:
    return None


async def asynchronous(response: str, ground_truth: str) -> float:
    return 1.0


def mapping_without_score(response: str, ground_truth: str) -> Mapping[str, object]:
    return {"acc": 1.0}


NOT_A_FUNCTION = 3


def tells_options(response: str, gold: str, n: object = None) -> Outcome:
    return correct(answer=repr(n))


def half_a_character(response: str, ground_truth: str) -> Mapping[str, object]:
    return {"score": 1.0, "reason": f"saw \ud800 in {response}", "answer": "\udfff", "flags": ["odd\ud800"], "\ud83d": 0.5}


def raises_half_a_character(response: str, ground_truth: str) -> float:
    raise ValueError(f"cannot read \ud800 of {ground_truth}")


def counts_its_calls(response: str, ground_truth: str) -> float:
    """Gives what is no score, and notes each call in the file that `ground_truth` names."""
    with Path(ground_truth).open("a", encoding="utf-8") as file:
        file.write("called\n")
    return 7.0


def prints_a_lot(response: str, ground_truth: str) -> float:
    for number in range(int(ground_truth)):
        print(f"line {number}", "x" * 100)  # noqa: T201 - what it is for
    print("no end of line", end="", flush=True)  # noqa: T201 - what it is for
    return 1.0


def says_and_ends(response: str, ground_truth: str) -> float:
    sys.stderr.write(f"{ground_truth}\n")
    sys.stderr.flush()
    os._exit(3)


def fails_after_a_moment(response: str, ground_truth: str) -> float:
    time.sleep(float(ground_truth))
    raise ValueError(response)
