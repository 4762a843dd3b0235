"""`oprime eval`: how well a model solves benchmarks, or problems of your own."""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oprime_cli.arguments import Subparsers, command_parser, positive_int, positive_number
from oprime_cli.console import say, show
from oprime_cli.running.failures import UsageError

if TYPE_CHECKING:
    from oprime_cli.evaluating.reward_model import RewardModel
    from oprime_cli.evaluating.session import Wishes


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "eval",
        description="Say how well a model solves benchmarks, or problems of your own: avg@n, pass@k and maj@k, with 95 % intervals. By "
        "default with the paper's prompts and decoding, graded by oprime's verifier, and by the paper's own rules where they differ. The "
        "words are one of: MODEL (a directory or an id of the hub), RUN[@STEP], the URL of an OpenAI-compatible server, a .jsonl file of "
        "recorded responses; `compare A B` with two evaluations; `list`. The same command goes on where an interrupted one stopped.",
        example="oprime eval runs/demo@50 --tasks problems.jsonl --k 1,4",
    )
    parser.add_argument("words", metavar="MODEL|RUN[@STEP]|URL|FILE", nargs="+", help="what to evaluate; or compare A B; or list")
    _add_problems(parser)
    _add_sampling(parser)
    _add_reward_model(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=None, help="folder for results (default: the run's evaluations/, or ./evaluations/)"
    )
    parser.add_argument("--fresh", action="store_true", help="sample anew, whatever is in that folder")
    parser.add_argument("--jobs", metavar="N", type=positive_int, default=None, help="processes that judge (default: one per core)")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a setting of [generator], [model] or [verifier], for example --set generator.tensor_parallel=4; several times",
    )


def _add_problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on", metavar="NAME,...", type=_names, default=[], help="benchmarks (oprime eval list); default: all whose file is in --data"
    )
    parser.add_argument(
        "--data",
        metavar="DIR|NAME=FILE",
        action="append",
        default=[],
        help="folder with the files of benchmarks, or the file of one, here or as hf://datasets/OWNER/NAME/FILE; several times",
    )
    parser.add_argument(
        "--tasks", metavar="FILE", action="append", default=[], help="problems of your own, in a format of docs/tasks.md; several times"
    )
    parser.add_argument("--reader", metavar="NAME", default="", help="reader of --tasks (default: recognised by the first row)")
    parser.add_argument(
        "--limit", metavar="N", type=positive_int, default=0, help="take so many problems of each, evenly spread (default: all)"
    )
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", metavar="TEXT", default=None, help="system turn of benchmarks (default: the paper's seven actions)")
    system.add_argument("--no-system", dest="system", action="store_const", const="", help="ask benchmarks without a system turn")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", metavar="N", type=positive_int, default=None, help="samples of each problem (default: the largest k)")
    parser.add_argument(
        "--k", metavar="K,...", type=_numbers, default=[], help="k of pass@k and maj@k (default: powers of 2 up to the samples)"
    )
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=_share(2.0, least=0.0),
        default=None,
        help="0 is greedy (default: the benchmark's; .3 for several samples)",
    )
    parser.add_argument("--top-p", metavar="P", type=_share(1.0), default=None, help="default: the benchmark's; .95 for several samples")
    parser.add_argument(
        "--max-tokens", metavar="N", type=positive_int, default=None, help="tokens of a response (default: the benchmark's)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of samples and of intervals (default: 0)")
    parser.add_argument("--model", metavar="NAME", default="", help="URL: which of the server's models (default: its only one)")
    parser.add_argument("--api-key-file", metavar="FILE", type=Path, default=None, help="URL: file with the server's key")
    parser.add_argument(
        "--concurrency", metavar="N", type=positive_int, default=256, help="samples under way at the same time (default: 256)"
    )


def _add_reward_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reward-model",
        metavar="PRM|RUN[@VERSION]",
        default=None,
        help="best of N by this PRM as well: a directory of oprime prm train, a model with --reference and --beta, or a run's",
    )
    parser.add_argument(
        "--reference", metavar="MODEL", default=None, help="the PRM's reference (default: the one that it was trained with)"
    )
    parser.add_argument("--beta", metavar="NUMBER", type=positive_number, default=None, help="the PRM's beta (default: of its training)")
    parser.add_argument("--separator", metavar="TEXT", default=r"\n\n", help=r"what stands between reasoning steps (default: \n\n)")


def run(args: argparse.Namespace) -> int:
    from oprime.runtime.logs import configure_logs

    configure_logs("eval", level="error")
    action, *names = args.words
    if action == "compare":
        return _compare(args, names)
    if action == "list":
        return _list(args)
    if names:
        raise UsageError(f"evaluate one at a time: {action} or {', '.join(names)}? For two evaluations: oprime eval compare A B")
    return _evaluate(action, args)


def _evaluate(name: str, args: argparse.Namespace) -> int:
    from oprime_cli.evaluating.session import evaluate
    from oprime_cli.evaluating.tables import best_of_table, results_table, subsets_table
    from oprime_cli.evaluating.targets import find_target

    target, wishes = find_target(name, model=args.model), _wishes(args)
    folder, results = asyncio.run(evaluate(target, wishes))
    show(results_table(results, target.name))
    for result in results:
        if "subsets" in result:
            show(subsets_table(result))
        if "reward_model" in result:
            show(best_of_table(result))
        _say_unjudged(result)
    say(f"every sample and number is in {folder}")
    return 0


def _wishes(args: argparse.Namespace) -> "Wishes":
    from oprime_cli.evaluating.session import Wishes

    if args.samples is not None and args.k and max(args.k) > args.samples:
        raise UsageError(f"--k {max(args.k)} needs as many samples, and --samples is {args.samples}: raise it or leave it out")
    own = {"benchmarks": args.on, "ks": args.k, "reward_model": _reward_model(args)}
    return Wishes(**own, **{name: getattr(args, name) for name in Wishes.__dataclass_fields__ if name not in own})


def _reward_model(args: argparse.Namespace) -> "RewardModel | None":
    if args.reward_model is None:
        if args.reference is not None or args.beta is not None:
            raise UsageError("--reference and --beta belong to a PRM: name it with --reward-model")
        return None
    from oprime_cli.evaluating.reward_model import find_reward_model

    return find_reward_model(args.reward_model, args.reference, args.beta, args.separator.replace(r"\n", "\n"))


def _say_unjudged(result: dict[str, Any]) -> None:
    unjudged = result["unjudged"]
    if unjudged["count"]:
        first = unjudged["listed"][0]
        say(
            f"{result['benchmark']}: {unjudged['count']} samples could not be judged and count as wrong; the first is of problem "
            f"{first['problem']}: {first['verdict']} {first['reason']}"
        )


def _compare(args: argparse.Namespace, names: list[str]) -> int:
    from oprime_cli.evaluating.compare import compare
    from oprime_cli.evaluating.tables import comparison_table
    from oprime_cli.files import write_json

    if len(names) != 2:
        raise UsageError(f"compare takes two evaluations, not {len(names)}: oprime eval compare A B")
    found = compare(*names, seed=args.seed)
    show(comparison_table(found.rows, *names))
    for name, reason in found.left_out.items():
        say(f"{name} was not compared: {reason}")
    if not all(row["same_prompts"] for row in found.rows):
        say("the same problems were asked with different prompts")
    if args.out is not None:
        write_json(args.out, {"first": names[0], "second": names[1], "rows": found.rows, "left_out": found.left_out})
        say(f"wrote {args.out}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from rich.table import Table

    from oprime.evaluation.benchmarks.registry import BENCHMARKS
    from oprime.evaluation.load import DataFiles

    files = DataFiles(args.data)
    table = Table("name", "benchmark", "file", "where to get it", title="Benchmarks")
    for name, benchmark in BENCHMARKS.items():
        found = files.find(benchmark) or f"({benchmark.files[0]})"
        table.add_row(name, f"{benchmark.title} v{benchmark.version}", found, benchmark.source)
    show(table)
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [positive_int(part.strip()) for part in text.split(",")]


def _share(most: float, *, least: float | None = None) -> Any:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        fits = number <= most and (number > 0 if least is None else number >= least)
        if not fits:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {0 if least is None else f'{least:g}'} to {most:g}")
        return number

    return read
