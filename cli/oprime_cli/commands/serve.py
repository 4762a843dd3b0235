"""`oprime serve verifier` and `oprime serve prm`: services by themselves, in the foreground."""

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

from oprime_cli.arguments import Subparsers, add_start_timeout, command_parser
from oprime_cli.console import say

DEFAULT_LISTEN = "127.0.0.1:50053"


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "serve",
        description="Run a service by itself. `oprime serve verifier` judges responses, `oprime serve prm` gives each of their tokens a "
        "reward; neither needs a run, Redis or anything else.",
        example="oprime serve prm --model my-prm --reference my-start",
    )
    services = parser.add_subparsers(dest="service", metavar="SERVICE", required=True)
    _add_verifier(services)
    _add_prm(services)


def _add_verifier(services: Subparsers) -> None:
    parser = command_parser(
        services,
        "verifier",
        description="The verifier needs nothing else: it answers gRPC, for trainers and programs of any kind (docs/verifier.md). With "
        "--queue it also judges the rollouts of the run that CONFIG describes.",
        example="oprime serve verifier --listen 127.0.0.1:50053 --set verifier.workers=8",
    )
    parser.add_argument("--config", metavar="CONFIG", type=Path, default=None, help="TOML file with the settings")
    parser.add_argument("--listen", metavar="HOST:PORT", default=None, help=f"gRPC address (default: CONFIG's, else {DEFAULT_LISTEN})")
    parser.add_argument(
        "--insecure", action="store_true", help="let it listen where other machines reach it, without certificates ([endpoints.tls])"
    )
    parser.add_argument("--queue", action="store_true", help="also judge the rollouts of CONFIG's run")
    _add_set(parser, "verifier.workers=8")


def _add_prm(services: Subparsers) -> None:
    parser = command_parser(
        services,
        "prm",
        description="Token rewards over HTTP (docs/rewards.md): a gateway and one or more processes that only score, on CPU or GPU. A "
        "run's PRM answers in its newest version, or in the one that is named; every version on disk answers by name.",
        example="oprime serve prm runs/demo@50 --port 8080",
    )
    parser.add_argument("run", metavar="RUN[@VERSION]", nargs="?", help="serve the PRM of this run: its folder, or its name in ./runs")
    parser.add_argument("--model", metavar="MODEL", default=None, help="serve this model as the PRM: a directory or hub id")
    parser.add_argument(
        "--reference", metavar="MODEL", default=None, help="the model that rewards are relative to: the one that the PRM was trained from"
    )
    parser.add_argument("--beta", type=float, default=None, help="scale of the rewards (default: the run's, else 0.05)")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one (default: 8080)")
    parser.add_argument("--api-keys-file", metavar="FILE", type=Path, default=None, help="bearer keys, one a line; needed beyond 127.0.0.1")
    parser.add_argument("--replicas", metavar="N", type=int, default=1, help="processes that score (default: 1); GPUs are dealt in turn")
    parser.add_argument(
        "--share-port",
        action="store_true",
        help="each of several replicas answers HTTP itself, all on one port: for small models, whose requests cost more than their scores",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: a GPU if there is any)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default=None, help="default: the run's, else bfloat16 on GPUs and float32 on CPUs"
    )
    _add_set(parser, "scoring.micro_batch_tokens=8192")
    add_start_timeout(parser)


def _add_set(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change one setting, for example --set {example}; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    if args.service == "prm":
        from oprime.runtime.logs import configure_logs
        from oprime_cli.running.serve_prm import Wishes, serve_prm

        configure_logs("serve", level="warning")
        wishes = {name: getattr(args, name) for name in Wishes.__dataclass_fields__}
        return serve_prm(Wishes(**wishes), start_timeout_s=args.start_timeout)
    return _run_verifier(args)


def _run_verifier(args: argparse.Namespace) -> int:
    from oprime.adapters.observed import metrics_port_of
    from oprime.runtime.errors import SettingsError
    from oprime.runtime.free_ports import held_all
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
    address = settings.endpoints.listen("verifier")
    watched = f"{settings.endpoints.metrics_interface}:{metrics_port_of(settings.endpoints)}"
    ports = (
        (address, "endpoints.verifier", "stop that one, or choose another port with --listen"),
        (watched, "endpoints.metrics_port", "choose another endpoints.metrics_port, or 0 for none"),
    )
    with held_all(ports):
        configure_logs("verifier")
        say(f"verifier on {address}; stop with Ctrl-C")
        asyncio.run(_serve(settings, queue_too=args.queue))
    return 0


async def _serve(settings: Any, *, queue_too: bool) -> None:
    from oprime.runtime.process import Lifecycle
    from oprime_verifier.app import serve

    lifecycle, loop = Lifecycle(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lifecycle.stopping.set)
    await serve(settings, lifecycle, queue_too=queue_too)
