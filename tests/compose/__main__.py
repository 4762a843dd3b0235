"""`make test-compose`: the containers for real, on a Docker Engine. Builds, trains through faults, stops, goes on, and finishes.

Says what it did and how long it took; the first thing that is not as it must be ends it with exit code 1. Removes its containers and
volumes (project oprime-test); the images stay.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compose.engine import ROOT, Stack, wait_until

LIMIT_S = 10.0
"""Every container must have stopped within."""
IMAGES = ("slim", "train-cpu", "generator-cpu")
SERVICES = ("coordinator", "verifier", "generator", "prm", "learner", "gateway")


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def build(stack: Stack) -> None:
    """As `make images` does, which gets the variables of the mirror that `make test-compose` was given."""
    began = time.monotonic()
    stack.make_images()
    say(f"built the images in {time.monotonic() - began:.0f} s")
    for tag in IMAGES:
        size = int(stack.docker("image", "inspect", "--format", "{{.Size}}", f"oprime:0.1.0-{tag}"))
        say(f"oprime:0.1.0-{tag} has {size / 1e6:,.0f} MB")


def up(stack: Stack, *words: str) -> None:
    stack.compose("up", "--detach", "--no-build", *words)


def is_healthy(stack: Stack) -> bool:
    states = [one["State"] for one in stack.containers(*SERVICES)]
    return bool(states) and all(state["Running"] and state["Health"]["Status"] == "healthy" for state in states)


def finish(stack: Stack, within_s: float) -> None:
    """Wait for the report, and for every service to have ended with 0."""
    seconds = wait_until("the report was written", lambda: not stack.containers("report")[0]["State"]["Running"], within_s=within_s)
    codes = {one["Name"]: one["State"]["ExitCode"] for one in stack.containers("report", *SERVICES)}
    assert set(codes.values()) == {0}, (codes, stack.compose("logs", "report"))
    said = stack.compose("logs", "--no-log-prefix", "--tail", "5", "report")
    assert "the ledger is closed" in said, said
    say(f"finished after another {seconds:.0f} s; every service ended with 0; {said.strip()}")


def set_steps(path: Path, steps: int, *, name: str = "compose") -> None:
    text = (ROOT / "deploy/config/compose.toml").read_text(encoding="utf-8")
    path.write_text(text.replace("steps = 60", f"steps = {steps}").replace('name = "compose"', f'name = "{name}"'), encoding="utf-8")


def faults(stack: Stack) -> dict[str, Callable[[], object]]:
    kills: dict[str, Callable[[], object]] = {
        f"kill -9 {service}": lambda service=service: stack.kill_service(service)
        for service in ("verifier", "generator", "prm", "learner", "coordinator")
    }
    return {
        **kills,
        "restart of redis": lambda: stack.compose("restart", "redis"),
        "learner paused for 15 s": lambda: stack.pause("learner", 15),
        "verifier off the network for 15 s": lambda: stack.cut_off("verifier", 15),
        "coordinator off the network for 15 s": lambda: stack.cut_off("coordinator", 15),
    }


def train_through_faults(stack: Stack, config: Path) -> None:
    # More than the faults take.
    set_steps(config, 1000)
    began = time.monotonic()
    up(stack)
    say(f"`up` came back after {time.monotonic() - began:.0f} s, the supervised warm-up included")
    wait_until("all are healthy", lambda: is_healthy(stack), within_s=900)
    say(f"all are healthy after {time.monotonic() - began:.0f} s")
    up(stack, "--scale", "generator=2", "--scale", "verifier=4")
    wait_until("two generators and four verifiers are healthy", lambda: is_healthy(stack), within_s=600)
    assert [len(stack.containers(name)) for name in ("generator", "verifier")] == [2, 4]
    say("two generators and four verifiers are healthy")
    for what, strike in faults(stack).items():
        step = stack.step()
        strike()
        seconds = wait_until(f"a step after: {what}", lambda step=step: stack.step() > step, within_s=600)
        say(f"{what} at step {step}: the next step came after {seconds:.0f} s")


def stop_and_go_on_edited(stack: Stack, config: Path) -> None:
    seconds = stack.stop()
    say("stopped: " + ", ".join(f"{name} {value:.1f} s" for name, value in sorted(seconds.items())))
    slow = {name: value for name, value in seconds.items() if value > LIMIT_S}
    assert not slow, f"these took longer than {LIMIT_S:.0f} s to stop: {slow}"
    up(stack)
    wait_until("all are healthy again", lambda: is_healthy(stack), within_s=600)
    step = stack.step()
    set_steps(config, step + 15)
    up(stack)
    say(f"went on at step {step}, and to its last step after an edit and another `up`")
    finish(stack, 1800)
    status = stack.compose("run", "--rm", "oprime", "status", "compose")
    assert "is finished" in status, status
    say(status.strip())
    ledger = stack.compose("run", "--rm", "oprime", "ledger", "compose")
    assert "invariant OK" in ledger, ledger


def refuse_what_cannot_be(stack: Stack, config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("group_size = 4", "group_size = 8"), encoding="utf-8")
    stack.compose("up", "--detach", "--no-build", check=False)
    said = stack.compose("logs", "--no-log-prefix", "--tail", "3", "prepare")
    assert "sampling.group_size 4 -> 8" in said, said
    config.write_text(text, encoding="utf-8")
    say("an edit that the run cannot go on with is refused in one line")


def train_a_model_of_ones_own(stack: Stack, config: Path, files: Path) -> None:
    """A directory of this machine in place of the model that the settings name."""
    stack.compose("cp", "report:/var/lib/oprime/model", str(files / "mine"))
    stack.compose("cp", "report:/var/lib/oprime/runs/compose/report.html", str(files))
    assert (files / "report.html").read_text(encoding="utf-8").lstrip().startswith("<!")
    for path in (files, *files.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    stack.environment |= {"OPRIME_FILES": str(files), "OPRIME_MODEL": "/files/mine"}
    set_steps(config, 5, name="own")
    up(stack)
    finish(stack, 900)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-compose", description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    parser.add_argument("--docker", default=shutil.which("docker") or "docker", help="the docker command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oprime-compose-") as folder:
        config, files = Path(folder) / "run.toml", Path(folder) / "files"
        files.mkdir()
        stack = Stack(config, docker=arguments.docker)
        if not arguments.no_build:
            build(stack)
        set_steps(config, 1000)
        stack.compose("down", "--volumes", "--timeout", "20", check=False)
        try:
            train_through_faults(stack, config)
            stop_and_go_on_edited(stack, config)
            refuse_what_cannot_be(stack, config)
            train_a_model_of_ones_own(stack, config, files)
        except AssertionError as error:
            say(f"NOT as it must be: {error}")
            sys.stdout.write(stack.compose("logs", "--tail", "15", check=False))
            return 1
        finally:
            stack.compose("down", "--volumes", "--timeout", "20", check=False)
    say("all as it must be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
