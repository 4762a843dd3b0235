"""`oprime tasks`: write the built-in task to a file, make task rows of other files, check the tasks of a run."""

import argparse
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oprime.runtime.errors import UnusableInputError
from oprime_cli.arguments import Subparsers, add_config, command_parser, positive_int
from oprime_cli.console import say
from oprime_cli.running.failures import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from oprime.tasks.chain import Split
    from oprime.tasks.rows import RawRow, Render
    from oprime.tasks.sources.layout import Layout
    from oprime.tasks.sources.question import Question, Source
    from oprime_cli.run_config import RunConfig

SPLITS = ("train", "heldout")
FORMATS = ("jsonl", "parquet")


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "tasks",
        description="Write a built-in task to a file, make task rows of another file, or check the tasks of a run.",
        example="oprime tasks chain --out chain.jsonl --split train --rows 1000",
    )
    actions = parser.add_subparsers(dest="action", metavar="{chain,prose,convert,check}", required=True)
    _add_chain(actions)
    _add_prose(actions)
    _add_convert(actions)
    check = command_parser(
        actions,
        "check",
        description="Read every task of a run's settings, through the model's chat template, and say what is there; "
        "names each row that cannot be used.",
        example="oprime tasks check deploy/config/qwen2.5-0.5b-gsm8k.toml",
    )
    add_config(check)


def run(args: argparse.Namespace) -> int:
    if args.action == "chain":
        return _write_chain(args)
    if args.action == "prose":
        return _write_prose(args)
    return _convert(args) if args.action == "convert" else _check(args)


def _add_chain(actions: Subparsers) -> None:
    parser = command_parser(
        actions,
        "chain",
        description="Write the built-in chain task in the schema of Eurus-2-RL-Data (ability chain); or, for `oprime prm`, what its "
        "noisy teacher says: responses that are labelled right or wrong, or solutions whose first wrong step is known.",
        example="oprime tasks chain --out chain-heldout.parquet --split heldout --rows 256",
    )
    _add_output(parser)
    parser.add_argument("--rows", metavar="N", type=positive_int, default=None, help="number of rows (default: 100000 train, 256 heldout)")
    parser.add_argument("--operations", metavar="N", type=_operations, default=8, help="reasoning steps per problem, 1 to 64 (default: 8)")
    parser.add_argument("--teacher-seed", metavar="N", type=int, default=7, help="seed of the teacher's misconceptions (default: 7)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--responses", metavar="K", type=positive_int, default=0, help="write K labelled responses to each problem instead"
    )
    instead.add_argument(
        "--errors",
        choices=("natural", "confuser"),
        default=None,
        help="write solutions instead (JSONL): by turns a right one, and one with a first wrong step of this kind",
    )


def _add_prose(actions: Subparsers) -> None:
    parser = command_parser(
        actions,
        "prose",
        description="Write the built-in prose task, word problems and small functions by turns, in the schema of Eurus-2-RL-Data; or what "
        "its teacher says: demonstrations for `oprime sft`, or solutions whose first wrong step is known, for `oprime prm`.",
        example="oprime tasks prose --out demonstrations.jsonl --rows 6400 --demonstrations",
    )
    _add_output(parser)
    parser.add_argument("--rows", metavar="N", type=positive_int, default=None, help="number of rows (default: 100000 train, 256 heldout)")
    parser.add_argument("--teacher-seed", metavar="N", type=int, default=7, help="seed of the teacher's misconceptions (default: 7)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--demonstrations", action="store_true", help="write conversations with the teacher's solutions instead (JSONL)")
    instead.add_argument(
        "--errors",
        choices=("natural", "confuser"),
        default=None,
        help="write solutions to held-out problems instead (JSONL): by turns a right one, and one with a first wrong step of this kind",
    )


def _add_convert(actions: Subparsers) -> None:
    parser = command_parser(
        actions,
        "convert",
        description="Make task rows of a published data set, whose form is recognised (docs/tasks.md), or of any JSONL, JSON or parquet "
        "file, whose fields --question and --answer name. Every row is read as a run would read it before it is written.",
        example=(
            "oprime tasks convert hf://datasets/openai/gsm8k/main/train-00000-of-00001.parquet --out data/gsm8k-train.jsonl --actions"
        ),
    )
    parser.add_argument("file", metavar="FILE", help="JSONL, JSON or parquet file, or hf://datasets/OWNER/NAME/FILE")
    _add_output(parser)
    parser.add_argument("--from", metavar="NAME", dest="form", default="", help="form of the rows (default: recognised by the first row)")
    parser.add_argument("--question", metavar="FIELD", default="", help="field that holds the question, of rows of another form")
    parser.add_argument("--answer", metavar="FIELD", default="", help="field that holds the answer, or the tests of a code task")
    parser.add_argument("--answer-after", metavar="TEXT", default="", help="the answer is what follows the last TEXT in its field")
    parser.add_argument(
        "--ability",
        choices=("math", "code"),
        default="math",
        help="what rows of another form ask for; chooses the verifier (default: math)",
    )
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", metavar="TEXT", default="", help="text of a system turn before each question")
    system.add_argument("--actions", action="store_true", help="system turn that asks for the seven actions (docs/data.md)")
    parser.add_argument(
        "--suffix", metavar="TEXT", default=None, help="text after each question (default: with --actions as in Eurus-2-RL-Data, else none)"
    )
    parser.add_argument(
        "--data-source", metavar="NAME", default="", help="name of the source in each row (default: what the form says, else FILE)"
    )
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used, and count them by reason")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="file to write; appears whole or not at all")
    parser.add_argument("--split", choices=SPLITS, default="train", help="split (default: train)")
    parser.add_argument("--format", choices=FORMATS, default=None, help="file format (default: by the name's ending)")


def _write_chain(args: argparse.Namespace) -> int:
    from oprime.runtime.settings import ChainSection
    from oprime.tasks.chain import problem
    from oprime.tasks.formats.eurus import chain_row

    defaults = ChainSection()
    split: Split = args.split
    rows = args.rows or (defaults.train_problems if split == "train" else defaults.heldout_problems)
    if args.responses or args.errors:
        return _write(args, itertools.islice(_labelled_rows(args, rows), rows))
    return _write(args, (chain_row(problem(split, index, args.operations), index, split) for index in range(rows)))


def _write_prose(args: argparse.Namespace) -> int:
    from oprime.runtime.settings import ProseSection
    from oprime.tasks.prose.rows import task_row
    from oprime.tasks.prose.teacher import problem

    defaults = ProseSection()
    split: Split = args.split
    rows = args.rows or (defaults.train_problems if split == "train" else defaults.heldout_problems)
    if args.demonstrations or args.errors:
        return _write(args, itertools.islice(_taught_rows(args, rows), rows))
    return _write(args, (task_row(problem(split, index), index, split) for index in range(rows)))


def _taught_rows(args: argparse.Namespace, rows: int) -> "Iterator[dict[str, Any]]":
    """What the prose task's teacher says."""
    from oprime.tasks.prose.rows import demonstration_row, steps_rows
    from oprime.tasks.prose.teacher import Teacher

    teacher = Teacher(args.teacher_seed)
    if args.errors:
        return steps_rows(args.errors, rows // 2 + 1, teacher)
    return (demonstration_row(*teacher.demonstration(index)) for index in range(rows))


def _labelled_rows(args: argparse.Namespace, rows: int) -> "Iterator[dict[str, Any]]":
    """Rows that `oprime prm` reads, of the chain task's teacher."""
    from oprime.tasks.chain import Teacher, labelled_chains
    from oprime.tasks.response_formats.chain import labelled_row, steps_row, teacher_responses

    teacher = Teacher(args.teacher_seed)
    if not args.errors:
        found = (teacher_responses(teacher, args.split, index, args.operations, args.responses) for index in itertools.count())
        return map(labelled_row, found)
    half = rows // 2 + 1
    right, wrong = (labelled_chains(kind, half, args.operations, teacher) for kind in ("none", args.errors))
    return map(steps_row, itertools.chain.from_iterable(zip(right, wrong, strict=True)))


def _convert(args: argparse.Namespace) -> int:
    from oprime.tasks.dataset import usable_rows
    from oprime.tasks.row_files import read_rows

    rows = enumerate(usable_rows(read_rows(args.file, "FILE"), _question_of(args), args.file, "--skip-bad-rows", skip=args.skip_bad_rows))
    layout = _layout(args)
    return _write(args, (layout.row(question, index, args.split) for index, question in rows))


def _question_of(args: argparse.Namespace) -> "Callable[[RawRow], Question]":
    """What reads a row, and refuses one that no run could use."""
    from oprime.tasks.formats.question_answer import RowFields
    from oprime.tasks.row_files import read_rows
    from oprime.tasks.sources.registry import source_named, source_of
    from oprime_cli.data.usable import require_usable

    if bool(args.question) != bool(args.answer) or (args.question and args.form):
        raise UsageError("--question and --answer name two fields together, and --from a known form instead: give both fields, or --from")
    source: RowFields | Source
    if args.question:
        source = RowFields(
            question=args.question,
            answer=args.answer,
            ability=args.ability,
            answer_after=args.answer_after,
            data_source=args.file,
        )
    else:
        source = source_named(args.form, "--from") if args.form else source_of(next(read_rows(args.file, "FILE"), None), args.file)

    def read(row: "RawRow") -> "Question":
        question = require_usable(row, source.read(row))
        return replace(question, data_source=args.data_source or question.data_source or args.file)

    return read


def _layout(args: argparse.Namespace) -> "Layout":
    from oprime.tasks.actions import short_prompt
    from oprime.tasks.sources.eurus_sources import CODE_SUFFIX, MATH_SUFFIX
    from oprime.tasks.sources.layout import Layout

    if args.suffix is not None:
        return Layout(system=short_prompt() if args.actions else args.system, math_suffix=args.suffix, code_suffix=args.suffix)
    return Layout(system=short_prompt(), math_suffix=MATH_SUFFIX, code_suffix=CODE_SUFFIX) if args.actions else Layout(system=args.system)


def _write(args: argparse.Namespace, rows: "Iterator[dict[str, Any]]") -> int:
    from oprime.tasks.row_files import file_format, write_rows

    form = args.format or file_format(str(args.out), "--out")
    if form == "parquet" and any(getattr(args, name, None) for name in ("responses", "errors", "demonstrations")):
        raise UsageError(f"--out {args.out}: labelled rows are written as JSONL alone; name a file that ends with .jsonl")
    first = next(rows, None)
    if first is None:
        raise UnusableInputError(f"{args.file} has no rows: nothing was written")
    try:
        number = write_rows(args.out, itertools.chain([first], rows), form)
    except OSError as error:
        raise UsageError(f"--out {args.out} cannot be written: {error}") from error
    print(f"{number} rows in {args.out}")  # noqa: T201  (the command's answer)
    return 0


def _check(args: argparse.Namespace) -> int:
    from oprime_cli.overrides import load_config

    config = load_config(Path(args.config), args.overrides)
    render = _renderer(config)
    for split in SPLITS:
        print(f"{split}: {_summary(config, split, render)}")  # noqa: T201  (the command's answer)
    return 0


def _renderer(config: "RunConfig") -> "Render | None":
    """How the run's model writes a prompt; None, with a word to the person, while there is no model."""
    from oprime_cli.planning.check_sources import prompt_renderer

    if config.tasks.source != "rows":
        return None
    try:
        return prompt_renderer(config)
    except UnusableInputError as error:
        say(f"prompts are not tried with a chat template: {error}")
        return None


def _summary(config: "RunConfig", split: "Split", render: "Render | None") -> str:
    from oprime.tasks.dataset import load_tasks, require_prompts_fit
    from oprime_cli.planning.check_sources import require_verifiers

    tasks = load_tasks(config.tasks, split, render)
    if render is not None and split == "heldout":
        require_prompts_fit(tasks, render, config.sampling.max_prompt_tokens, split=split)
    verifiers = Counter(task.verifier for task in tasks)
    require_verifiers(config.verifier, verifiers, split)
    parts = ", ".join(f"{number} {verifier}" for verifier, number in verifiers.most_common())
    return f"{len(tasks)} tasks ({parts})" if tasks else "none"


def _operations(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 64")
    return int(text)
