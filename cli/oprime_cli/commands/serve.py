"""`oprime serve verifier`: one service by itself, in the foreground."""

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

from oprime_cli.arguments import Subparsers, command_parser
from oprime_cli.console import say

DEFAULT_LISTEN = "127.0.0.1:50053"


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "serve",
        description="Run one service by itself. The verifier needs nothing else: it answers gRPC, for trainers and programs of "
        "any kind (docs/verifier.md). With --queue it also judges the rollouts of the run that CONFIG describes.",
        example="oprime serve verifier --listen 127.0.0.1:50053 --set verifier.workers=8",
    )
    parser.add_argument("service", choices=("verifier",), help="which service")
    parser.add_argument("--config", metavar="CONFIG", type=Path, default=None, help="TOML file with the settings")
    parser.add_argument("--listen", metavar="HOST:PORT", default=None, help=f"gRPC address (default: CONFIG's, else {DEFAULT_LISTEN})")
    parser.add_argument(
        "--insecure", action="store_true", help="let it listen where other machines reach it, without certificates ([endpoints.tls])"
    )
    parser.add_argument("--queue", action="store_true", help="also judge the rollouts of CONFIG's run")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, for example --set verifier.workers=8; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    from oprime.runtime.errors import SettingsError
    from oprime.runtime.logs import configure_logs
    from oprime_cli.overrides import service_document
    from oprime_verifier.config import VerifierSettings

    if args.queue and args.config is None:
        raise SettingsError("--queue needs --config: the run's queue and name are in its settings")
    document = service_document(args.config, args.overrides)
    endpoints: dict[str, Any] = document.setdefault("endpoints", {})
    if args.listen is not None:
        endpoints |= {"verifier": args.listen, "bind": ""}
    if args.insecure:
        endpoints["insecure"] = True
    endpoints.setdefault("verifier", DEFAULT_LISTEN)
    settings = VerifierSettings.from_document(document, origin=str(args.config or "oprime serve"))
    configure_logs("verifier")
    say(f"verifier on {settings.endpoints.listen('verifier')}; stop with Ctrl-C")
    asyncio.run(_serve(settings, queue_too=args.queue))
    return 0


async def _serve(settings: Any, *, queue_too: bool) -> None:
    from oprime.runtime.process import Lifecycle
    from oprime_verifier.app import serve

    lifecycle, loop = Lifecycle(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lifecycle.stopping.set)
    await serve(settings, lifecycle, queue_too=queue_too)
