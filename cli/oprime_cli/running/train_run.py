"""One session of a training run, from the warm-up to the summary; `train` begins a run and `resume` goes on with it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from oprime.runtime.errors import OprimeError, RunEndedError
from oprime_cli.console import duration, say
from oprime_cli.files import write_json
from oprime_cli.planning.plan import make_plan, needs_sft
from oprime_cli.run_config import RunConfig
from oprime_cli.running import tether
from oprime_cli.running.coordinator_client import CoordinatorClient, is_finished
from oprime_cli.running.devices import Devices, find_gpus
from oprime_cli.running.failures import ServiceDiedError
from oprime_cli.running.launch import Launched, gateway_url, launched
from oprime_cli.running.live import open_view
from oprime_cli.running.metric_rows import MetricRows
from oprime_cli.running.phases import PhaseTimer
from oprime_cli.running.run_folder import RunFolder, sole_supervisor
from oprime_cli.running.services import environment
from oprime_cli.running.summary import closing_lines, make_summary
from oprime_cli.running.supervisor import Guard, Supervisor

WATCH_EVERY_S = 1.0
SFT_GRACE_S = 10.0


def train_to_the_end(folder: RunFolder, config: RunConfig, *, start_timeout_s: float) -> None:
    """Warm up if need be, start all services, train, measure, stop, report. The caller made the folder and checked the plan."""
    from oprime_cli.commands.report import write_report

    with sole_supervisor(folder):
        timer = PhaseTimer(folder.phases)
        if needs_sft(config):
            with timer.phase("sft"):
                warm_up(folder, config)
            make_plan(config, new_run=False).check()
        try:
            summary = _train(folder, config, timer, start_timeout_s)
            with timer.phase("report"):
                write_json(folder.summary, summary(timer.seconds()))
                report = write_report(folder.path)
            folder.write_state(state="finished", mode="train")
        except RunEndedError:
            folder.write_state(state="ended", mode="train")
            say(f"the run has ended; as it is, it would end the same way again. Once the cause is gone: oprime resume {folder.path}")
            raise
        except (KeyboardInterrupt, OprimeError):
            folder.write_state(state="stopped", mode="train")
            say(f"the run has stopped; go on with: oprime resume {folder.path}")
            raise
        complete = summary(timer.seconds())
        write_json(folder.summary, complete)
    say(f"report: {report}")
    for line in closing_lines(complete):
        say(line)


def _train(folder: RunFolder, config: RunConfig, timer: PhaseTimer, start_timeout_s: float) -> Callable[[dict[str, float]], dict[str, Any]]:
    """The session while services run; returns, once they have stopped, what makes the summary out of the seconds of all phases."""
    import asyncio

    from oprime_cli.report.localisation import measure
    from oprime_cli.running.audit import Audit, audit

    found: list[Audit] = []
    rows = MetricRows(folder.metrics)
    # What an earlier session did was shown by it.
    rows.read_new()
    with contextlib.ExitStack() as running:
        with timer.phase("start"):
            folder.write_state(state="starting", mode="train")
            # At rest: while services work, payloads that became needless a moment ago may still be there.
            services = launched(
                folder,
                config,
                timeout_s=start_timeout_s,
                tick=StartProgress(),
                at_rest=lambda resolved: found.append(asyncio.run(audit(resolved))),
            )
            run = running.enter_context(services)
            say_started(run, mode="train")
        with timer.phase("train"):
            watch(run, rows, timer)
        with timer.phase("evaluate"):
            if run.config.algorithm.needs_prm:
                say("measuring how well process rewards find the first wrong step")
            localisation = measure(folder.path, run.config)
    return lambda seconds: make_summary(config, rows, found[0], seconds=seconds, localisation=dict(localisation or {}))


def warm_up(folder: RunFolder, config: RunConfig) -> None:
    """Run `oprime sft` on the run's settings in a process of its own, with its output on ours."""
    # No service runs yet, so all GPUs are free.
    device = environment(config, "learner", Devices(learner=tuple(find_gpus())), serve_only=False)
    say("supervised warm-up: making the starting model")
    command = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), sys.executable, "-m", "oprime_cli.main", "sft"]
    with Guard() as guard, subprocess.Popen([*command, str(folder.config)], env={**os.environ, **device}) as process:
        guard.watch(process.pid)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SFT_GRACE_S)
            process.kill()
            raise
    if code != 0:
        raise ServiceDiedError(f"the supervised warm-up failed (exit code {code}); what it said is above; try: oprime sft {folder.config}")


class StartProgress:
    """Says which services have become healthy."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waiting: set[str] | None = None

    def __call__(self, waiting: set[str]) -> None:
        if self._waiting is None:
            say(f"starting {', '.join(sorted(waiting))}" if waiting else "all services are healthy")
        else:
            for name in sorted(self._waiting - waiting):
                say(f"{name} is healthy after {duration(time.monotonic() - self._began)}")
        self._waiting = waiting


def say_started(run: Launched, *, mode: str) -> None:
    """Tell the person and whoever reads the run's state."""
    url = gateway_url(run.config)
    run.folder.write_state(state="ready", mode=mode, gateway=url, services=pids(run.supervisor))
    say(f"all services are healthy; gateway {url}; logs in {run.folder.logs}")


def pids(supervisor: Supervisor) -> dict[str, int]:
    return supervisor.pids()


def watch(run: Launched, rows: MetricRows, timer: PhaseTimer) -> None:
    """Show the run until the coordinator says that it is finished. Raises ServiceDiedError when a service ends before."""
    client = CoordinatorClient(run.config.endpoints.coordinator, run.config.endpoints.tls)
    with contextlib.closing(client), open_view(run.config) as view:
        while True:
            run.check()
            # Asked before the rows are read: what was written before the end is then seen.
            status = client.status()
            view.update(status, rows, rows.read_new())
            if is_finished(status):
                return
            timer.tick()
            time.sleep(WATCH_EVERY_S)
