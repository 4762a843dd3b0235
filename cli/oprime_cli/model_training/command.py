"""A command that trains a model, by itself or as one of several ranks. Imports no torch."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from oprime.runtime.errors import FAILED, OprimeError, exit_code
from oprime.runtime.logs import configure_logs
from oprime.runtime.rank_launcher import Hosts, launch
from oprime_cli.model_training.folder import ModelFolder

log = structlog.get_logger()


def become_ranks(words: Sequence[str], folder: ModelFolder, *, ranks: int, section: str) -> NoReturn:
    """Run the same command, `oprime WORDS`, once per rank, and end as they do."""
    with folder.lock():
        pass  # Refused here rather than by one of the ranks.
    sys.stdout.flush()
    command = [sys.executable, "-m", "oprime_cli.main", *words]
    sys.exit(launch(command, ranks=ranks, setting=f"{section}.ranks", hosts=Hosts()))


def be_a_rank(name: str, train: Callable[[], object]) -> NoReturn:
    """One of several processes. It ends without waiting for threads: one may hang in a call that another rank, now dead, never answers."""
    leads = os.environ["RANK"] == "0"
    configure_logs(name, level="warning" if leads else "error")
    code = 0
    try:
        with contextlib.nullcontext() if leads else contextlib.redirect_stdout(io.StringIO()):
            train()
    except OprimeError as error:
        sys.stderr.write(f"oprime: {error}\n")
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception:
        log.exception("failed")
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
