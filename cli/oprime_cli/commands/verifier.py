"""`oprime verifier test TARGET`: does a verifier keep the contract?"""

import argparse
from pathlib import Path

from oprime_cli.arguments import Subparsers, command_parser
from oprime_cli.console import say, show
from oprime_cli.running.failures import UsageError

STYLES = ("auto", "request", "object", "plain", "verl", "verl_batch", "trl", "trl_text", "openrlhf", "rllm")


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "verifier",
        description="Test whether a verifier keeps the contract.",
        example="oprime verifier test 127.0.0.1:50053",
    )
    actions = parser.add_subparsers(dest="action", metavar="{test}", required=True)
    test = command_parser(
        actions,
        "test",
        description="Run the conformance suite against a verifier: the rules that hold for all of them, and cases of the kinds it offers. "
        "Exit code 0 when every check passed, else 1.",
        example="oprime verifier test path/to/reward.py:compute_score",
    )
    test.add_argument(
        "target",
        metavar="TARGET",
        help="HOST:PORT of a gRPC service, URL of a gateway (http://HOST:PORT) or of a webhook (http://HOST:PORT/PATH), "
        "module:function, or FILE.py:function",
    )
    test.add_argument(
        "--kind", metavar="NAME", default="", help="test this kind alone, for example math; for a function: judge it as this kind"
    )
    test.add_argument("--style", choices=STYLES, default="auto", help="signature of a function (default: by its parameters)")
    test.add_argument("--key-file", metavar="FILE", type=Path, default=None, help="file with the key of a gateway")
    test.add_argument(
        "--config", metavar="CONFIG", type=Path, default=None, help="TOML file whose [endpoints.tls] has certificates for a gRPC service"
    )
    test.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="the same without a file, for example --set endpoints.tls.authority_file=ca.crt; may be given several times",
    )
    test.add_argument("--json", metavar="OUT", type=Path, default=None, help="write the report as JSON too")


def run(args: argparse.Namespace) -> int:
    import asyncio

    from oprime.runtime.whole_files import whole_file
    from oprime_cli.overrides import service_document
    from oprime_verifier.config import VerifierSettings
    from oprime_verifier.conformance.report import rendered
    from oprime_verifier.conformance.runner import CheckResult, Report
    from oprime_verifier.conformance.runner import run as run_suite
    from oprime_verifier.conformance.targets import open_target

    document = service_document(args.config, args.overrides)
    tls = VerifierSettings.from_document(document, origin=str(args.config or "--set")).endpoints.tls

    def told(result: CheckResult) -> None:
        say(f"{result.kind or '-'}: {result.name}: {result.status}")

    async def tested() -> Report:
        target = open_target(args.target, kind=args.kind, key_file=args.key_file, style=args.style, tls=tls)
        try:
            return await run_suite(target, kind=args.kind, told=told)
        finally:
            await target.close()

    report = asyncio.run(tested())
    show(rendered(report))
    if args.json is not None:
        try:
            with whole_file(args.json) as stream:
                stream.write(f"{report.to_json()}\n".encode())
        except OSError as error:
            raise UsageError(f"--json {args.json} cannot be written: {error}") from error
    return 0 if report.passed else 1
