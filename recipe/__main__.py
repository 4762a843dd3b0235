"""The recipe in miniature, from a starting model to a table: python -m recipe, or make recipe.

    demonstrations   the teacher's solutions, and held-out solutions whose first wrong step is known
    sft              the starting model imitates them                                    runs/recipe-sft
    before           its held-out accuracy, by the verifiers math and code
    prime            PRIME on both kinds of problems in one run                          runs/recipe
    after            held-out accuracy of the trained policy, on the same problems
    prm              an offline PRM of the run's rollouts                                runs/recipe-prm
    judge            does it find wrong steps, and choose right responses?
    report           runs/recipe/recipe.json and recipe.md

A stage whose result is there is passed over, so an interrupted recipe goes on where it was; --fresh begins anew. `python -m recipe start`
makes the starting model anew (make recipe-start).
"""

import argparse
import shutil
from pathlib import Path

from recipe import stages
from recipe.stages import Recipe
from recipe.start import START, make_start

CONFIG = Path("deploy/config/recipe.toml")


def main() -> None:
    args = _parser().parse_args()
    recipe = Recipe(
        config=args.config, overrides=tuple(args.overrides), problems=args.problems, responses=args.responses, solutions=args.solutions
    )
    if args.what == "start":
        make_start(args.config, args.start, recipe.work / "start", _training(args.training))
        print(f"[start] {args.start}")
        return
    if args.fresh:
        for path in (recipe.folder, recipe.work, recipe.prm, Path(recipe.run.model.path)):
            shutil.rmtree(path, ignore_errors=True)
    stages.run(recipe, lambda line: print(line, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "start"), default="run")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="change one setting of the run")
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier recipe left, and begin anew")
    parser.add_argument("--problems", type=int, default=Recipe.problems, help="held-out problems, half of each kind")
    parser.add_argument("--responses", type=int, default=Recipe.responses, help="responses to each of them")
    parser.add_argument("--solutions", type=int, default=Recipe.solutions, help="solutions with errors of each sort")
    parser.add_argument("--start", type=Path, default=START, help="of `start`: where the model is written")
    parser.add_argument("--training", metavar="NAME=N", action="append", default=[], help="of `start`: change one setting of its training")
    return parser


def _training(texts: list[str]) -> dict[str, float]:
    pairs = (text.partition("=")[::2] for text in texts)
    return {name: float(value) if "." in value or "e" in value else int(value) for name, value in pairs}


if __name__ == "__main__":
    main()
