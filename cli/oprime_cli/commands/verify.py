"""`oprime verify FILE.jsonl`: judge a file of responses on this machine."""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oprime_cli.arguments import Subparsers, command_parser, positive_int

if TYPE_CHECKING:
    from oprime_cli.verifying.judge_file import Tally

SHOWN_REASONS = 5


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "verify",
        description='Judge a file of responses, one JSON object per line: {"id", "kind", "response", "ground_truth", "options"?}. '
        "Results come in the order of the rows; an interrupted run goes on where it was, and rows that changed since are judged anew. "
        "Exit code 0 when every row was judged.",
        example="oprime verify answers.jsonl --out verdicts.jsonl --jobs 8",
    )
    parser.add_argument("file", metavar="FILE", help="JSONL file with the responses; - reads standard input")
    parser.add_argument(
        "--again",
        action="store_true",
        help="FILE is a run's folder, or a file of its samples/: judge its rollouts with today's verifier and settings, show what changed",
    )
    parser.add_argument("--out", metavar="OUT", type=Path, default=None, help="JSONL file for the verdicts (default: standard output)")
    parser.add_argument("--jobs", metavar="N", type=positive_int, default=None, help="worker processes (default: one per core)")
    parser.add_argument("--fresh", action="store_true", help="judge every row again, whatever OUT holds")
    parser.add_argument("--config", metavar="CONFIG", type=Path, default=None, help="TOML file whose [verifier] section applies")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, for example --set verifier.sandbox.engine=wasm; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    from oprime.runtime.logs import configure_logs
    from oprime_cli.lock_file import sole_writer
    from oprime_cli.output_files import check_outputs

    configure_logs("verify", level="error")
    check_outputs({"FILE": Path(args.file), "--config": args.config}, {"--out": args.out})
    with sole_writer(args.out, "oprime verify"):
        if args.again:
            return _again(args)
        with _source(args.file) as source:
            return _verify(args, source)


def _verify(args: argparse.Namespace, source: Path) -> int:
    from oprime_cli.output_files import begin_anew
    from oprime_cli.overrides import verifier_section
    from oprime_cli.verifying.judge_file import judge_file

    overrides = [*args.overrides, f"verifier.workers={args.jobs or os.cpu_count() or 1}"]
    if args.fresh:
        begin_anew(args.out)
    with _progress(source) as note:
        tally = asyncio.run(judge_file(source, args.out, sys.stdout, verifier_section(args.config, overrides), note))
    sys.stderr.write(_summary(tally) + "\n")
    return 0 if tally.all_judged else 1


def _again(args: argparse.Namespace) -> int:
    from oprime_cli.verifying.again import judge_again

    return asyncio.run(
        judge_again(Path(args.file), args.out, sys.stdout, args.config, args.overrides, jobs=args.jobs or os.cpu_count() or 1)
    )


@contextmanager
def _source(name: str) -> Iterator[Path]:
    """The file with the rows; standard input as a file, since rows are read twice."""
    if name != "-":
        yield Path(name)
        return
    with tempfile.NamedTemporaryFile(prefix="oprime-verify-", suffix=".jsonl") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.flush()
        yield Path(kept.name)


def _summary(tally: "Tally") -> str:
    verdicts = ", ".join(f"{number} {verdict.value}" for verdict, number in tally.verdicts.most_common())
    parts = [f"{tally.rows} {'row' if tally.rows == 1 else 'rows'}" + (f": {verdicts}" if verdicts else "")]
    if tally.scores:
        parts.append(f"mean score {sum(tally.scores) / len(tally.scores):.4f} of {len(tally.scores)} scored")
    if tally.reused:
        parts.append(f"{tally.reused} judged earlier")
    if tally.changed:
        parts.append(f"{tally.changed} judged anew, as their rows or the settings changed")
    if tally.unnamed:
        parts.append(f"{tally.unnamed} without an id, known by their places alone")
    if tally.failed:
        parts.append(f"{tally.failed} verifications failed: run the same command again")
    return "\n".join(["; ".join(parts), *_unusable(tally)])


def _unusable(tally: "Tally") -> Iterator[str]:
    """Rows that no further run judges, by reason."""
    if not tally.unusable:
        return
    yield f"{tally.unusable.total()} rows cannot be judged as they are; correct them:"
    for reason, number in tally.unusable.most_common(SHOWN_REASONS):
        yield f"  {number} x {reason}"
    if len(tally.unusable) > SHOWN_REASONS:
        yield f"  and {len(tally.unusable) - SHOWN_REASONS} other reasons"


class _progress:  # noqa: N801 - used as a function
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._bar: Any = None

    def __enter__(self) -> Callable[["Tally"], None]:
        if not sys.stderr.isatty() or not self._file.is_file():
            return lambda tally: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with self._file.open("rb") as stream:
            total = sum(1 for line in stream if line.strip())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        task = self._bar.add_task("verify", total=total)
        return lambda tally: self._bar.update(task, completed=tally.rows)

    def __exit__(self, *problem: object) -> None:
        if self._bar is not None:
            self._bar.stop()
