"""Weights & Biases. The only module that imports wandb."""

from collections.abc import Mapping, Sequence

import wandb  # pyright: ignore[reportMissingImports]

from oprime.ports import TableRow, TrackedRun

STEP = "train_step"


class WandbTracker:
    """Implements `oprime.ports.Tracker`. A run that goes on has the id that it had, so that it stays one run.

    Steps are a number of their own: a run that goes back to a checkpoint says some steps again, which wandb's own count would refuse.
    """

    def __init__(self, run: TrackedRun, run_id: str, *, offline: bool) -> None:
        (run.directory / "wandb").mkdir(parents=True, exist_ok=True)
        # Nothing may ask, print, or read the source tree on its own.
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True)
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run_id,
            resume="allow",
            dir=str(run.directory),
            config={**run.settings, "commit": run.commit},
            mode="offline" if offline or not logged_in() else "online",
            settings=quiet,
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, STEP: step})

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True)
        self._run.log({name: table, STEP: step})

    def close(self) -> None:
        self._run.finish()


def logged_in() -> bool:
    """Whether there is a key with which runs could be sent."""
    return bool(wandb.login(prompt=False))
