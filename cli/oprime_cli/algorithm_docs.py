"""Writes the generated tables into docs/algorithm.md: `python -m oprime_cli.algorithm_docs docs/algorithm.md`."""

import argparse
import json
from pathlib import Path

from oprime.core import corrections, estimators, policy_losses, prm_losses
from oprime.core.one_file import Folder, Formula
from oprime.core.step_formulas import STEP_FORMULAS, StepFormula

FOLDERS: dict[str, Folder] = {
    "prm_losses": prm_losses,
    "estimators": estimators,
    "policy_losses": policy_losses,
    "corrections": corrections,
}

END = "<!-- End of the generated table. -->"


def with_tables(page: str) -> str:
    """The page with its tables as the files are now. Raises ValueError for a page without the marks around a table."""
    tables = {f"the files of shared/oprime/core/{folder}": table_of(files) for folder, files in FOLDERS.items()}
    for source, table in {"shared/oprime/core/step_formulas.py": table_of_the_step(), **tables}.items():
        begin = f"<!-- Generated from {source} (`make docs`). -->"
        before, found, rest = page.partition(begin)
        _, end, after = rest.partition(END)
        if not found or not end:
            raise ValueError(f"the page has no place for the table of {source}: put {begin!r} and {END!r} where it belongs")
        page = f"{before}{begin}\n\n{table}\n\n{END}{after}"
    return page


def table_of(folder: Folder) -> str:
    """A row per file: what it is, what it computes, what it needs, its own settings."""
    rows: list[str] = []
    for name in folder.names():
        chosen = folder.named(name)
        row = _row(
            f"`{name}`: {chosen.about} ({chosen.source})",
            "<br>".join(_formula(formula) for formula in chosen.formulas),
            ", ".join(chosen.needed),
            ", ".join(f"`{setting.name}`" for setting in chosen.settings),
        )
        rows.append(row)
    return "\n".join(["| file | formulas | needs | own settings |", "|---|---|---|---|", *rows])


def table_of_the_step() -> str:
    """A row per thing that a step computes: its formulas, the function, the settings."""
    rows = [_row(one.about, _by_value(one), f"`{one.function}`", ", ".join(f"`{name}`" for name in one.settings)) for one in STEP_FORMULAS]
    return "\n".join(["| what | formulas | function | settings |", "|---|---|---|---|", *rows])


def _by_value(formulas: StepFormula) -> str:
    return "<br>".join(f"`{name}`: {_formula(formula)}" if name else _formula(formula) for name, formula in formulas.by_value.items())


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _formula(formula: Formula) -> str:
    symbols = [f"{symbol} = `{setting}`" for symbol, setting in formula.symbols.items()]
    conditions = [f"with {setting} = {json.dumps(value)}" for setting, value in formula.when.items()]
    exceptions = [f"unless {setting} = {json.dumps(value)}" for setting, value in formula.unless.items()]
    return "; ".join([formula.text, *symbols, *conditions, *exceptions])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="page to bring up to date")
    path: Path = parser.parse_args().path
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
