"""`oprime sft`: make the starting model by supervised training on demonstrations, with the engine of policy and PRM."""

import argparse
import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from oprime.runtime.errors import FAILED, OprimeError, exit_code
from oprime.runtime.logs import configure_logs
from oprime.runtime.rank_launcher import Hosts, end_with_launcher, is_rank, launch
from oprime_cli.arguments import Subparsers, add_config, command_parser

if TYPE_CHECKING:
    from oprime_cli.run_config import RunConfig
    from oprime_cli.warm_up.plan import WarmUp


log = structlog.get_logger()


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "sft",
        description="Make the starting model by supervised training on demonstrations, as the section [sft] says. "
        "Goes on where an interrupted call stopped, and does nothing when the model is there.",
        example="oprime sft deploy/config/demo.toml --set sft.threads=1",
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    from oprime_cli.overrides import load_config
    from oprime_cli.warm_up.plan import plan_warm_up

    config = load_config(Path(args.config), args.overrides)
    if is_rank(os.environ):
        end_with_launcher()
        _be_a_rank(config)
    configure_logs("sft", level="warning")
    plan = plan_warm_up(config)
    if plan.settings.ranks > 1 and not plan.folder.finished():
        _become_ranks(plan, args)
    # Torch takes seconds to import, which `oprime sft --help` need not pay.
    from oprime_cli.warm_up.training import part_for_good, train

    train(config)
    part_for_good()
    return 0


def _become_ranks(plan: "WarmUp", args: argparse.Namespace) -> NoReturn:
    """Run this same command once per rank, and end as they do."""
    with plan.folder.lock():
        pass  # Refused here rather than by one of the ranks.
    sets = [part for text in args.overrides for part in ("--set", text)]
    sys.stdout.flush()
    command = [sys.executable, "-m", "oprime_cli.main", "sft", args.config, *sets]
    sys.exit(launch(command, ranks=plan.settings.ranks, setting="sft.ranks", hosts=Hosts()))


def _be_a_rank(config: "RunConfig") -> NoReturn:
    """One of several processes. It ends without waiting for threads: one may hang in a call that another rank, now dead, never answers."""
    leads = os.environ["RANK"] == "0"
    configure_logs("sft", level="warning" if leads else "error")
    code = 0
    try:
        with contextlib.nullcontext() if leads else contextlib.redirect_stdout(io.StringIO()):
            from oprime_cli.warm_up.training import train

            train(config)
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
