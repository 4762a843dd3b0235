"""Which loss finds wrong steps and right responses? Offline PRMs on the demo's task and on real text: python -m bench.offline_prm PART.

    chain-start                   the demo's starting model, and held-out files of its task
    chain LOSS SEED               a PRM on labelled responses of the task's teacher, judged on those files
    text-start --data FOLDER      a tokenizer and a small model, trained on the solutions of gsm8k_train.jsonl
    text LOSS SEED --data FOLDER  a PRM on the model solutions to GSM8K, judged on those to held-out problems and on ProcessBench
    tables                        what was measured, as Markdown

FOLDER has gsm8k_train.jsonl and gsm8k_model_solutions.jsonl (github.com/openai/grade-school-math: `train.jsonl` and
`example_model_solutions.jsonl`) and processbench/ (the four files of huggingface.co/datasets/Qwen/ProcessBench). Everything goes through
`oprime sft`, `oprime prm train` and `oprime prm eval`, in runs/bench-prm; one thread; a part that was interrupted goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OUT = Path("runs/bench-prm")
DEMO = "deploy/config/demo.toml"
BALANCED = {"difficulty_offset": "true", "rarity_weight": "true"}
LOSSES: dict[str, dict[str, Any]] = {
    "ce": {"loss": "ce"},
    "ce-balanced": {"loss": "ce", **BALANCED},
    # At the rate of the others it diverges on the demo's task.
    "dpo": {"loss": "dpo", "learning_rate": 2e-4},
    "prefix": {"loss": "prefix_value", "beta": 10, "margin": 5},
    "prefix-balanced": {"loss": "prefix_value", "beta": 10, "margin": 5, **BALANCED},
}
CHAIN_HELDOUT, CHAIN_RESPONSES, CHAIN_SOLUTIONS = 256, 16, 1024
CHAIN = {"teacher_responses": 8, "steps": 100, "batch_prompts": 16, "max_tokens": 40, "beta": 0.5, "learning_rate": 1e-3}
TEXT = {"steps": 32, "batch_prompts": 16, "max_tokens": 1024, "beta": 0.05, "learning_rate": 3e-4, "micro_batch_tokens": 8192}
ALIKE = {"schedule": "constant", "gradient_clip": 10, "adam_beta2": 0.999, "micro_batch_rollouts": 128, "threads": 1}
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
TEXT_POSITIONS, TEXT_VOCABULARY, TEXT_TRAINED = 2048, 2048, 1000
TEXT_PAD, TEXT_END = "<pad>", "<eos>"
TEXT_TEMPLATE = (
    "{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}{{ message['content'] ~ '" + TEXT_END + "' }}"
    "{%- else -%}{{ 'Question: ' ~ message['content'] ~ '\\nAnswer:\\n' }}{%- endif -%}{%- endfor -%}"
)


def oprime(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "oprime_cli.main", *words], check=True)


def sets(settings: Mapping[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def chain_start() -> None:
    oprime("sft", DEMO, *sets({"model.path": OUT / "chain"}))
    heldout = ["tasks", "chain", "--split", "heldout"]
    oprime(*heldout, "--out", str(OUT / "responses.jsonl"), "--rows", str(CHAIN_HELDOUT), "--responses", str(CHAIN_RESPONSES))
    for kind in ("natural", "confuser"):
        oprime(*heldout, "--out", str(OUT / f"{kind}.jsonl"), "--rows", str(CHAIN_SOLUTIONS), "--errors", kind)


def chain(loss: str, seed: int) -> None:
    prm = train(f"chain-{loss}-{seed}", OUT / "chain", {**ALIKE, **CHAIN, **LOSSES[loss], "seed": seed})
    judge(prm, "best-of", [OUT / "responses.jsonl"], separator=" ")
    judge(prm, "processbench", [OUT / "natural.jsonl", OUT / "confuser.jsonl"], separator=" ")


def train(name: str, start: Path, settings: Mapping[str, Any]) -> Path:
    oprime("prm", "train", DEMO, *sets({"model.path": start, **{f"offline_prm.{key}": value for key, value in settings.items()}}),
           *sets({"offline_prm.output": OUT / name}))  # fmt: skip
    return OUT / name


def judge(prm: Path, kind: str, files: Iterable[Path], *, separator: str, limit: int = 0) -> None:
    out = prm.parent / f"{prm.name}.{kind}.json"
    if not out.exists():
        limited = ["--limit", str(limit)] if limit else []
        oprime("prm", "eval", kind, *map(str, files), "--prm", str(prm), "--separator", separator, "--out", str(out), *limited)


def text_start(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()]
    if not (OUT / "text-new").exists():
        new_text_model(OUT / "text-new", [f"{row['question']}\n{row['answer']}" for row in rows])
    write_lines(OUT / "demonstrations.jsonl", ({"messages": turns(row["question"], row["answer"])} for row in rows))
    settings = {"start": OUT / "text-new", "demonstrations": OUT / "demonstrations.jsonl", "steps": 250, "batch_rows": 32}
    settings |= {"max_tokens": 1024, "micro_batch_tokens": 8192, "learning_rate": 2e-3, "save_every": 20, "threads": 1}
    oprime("sft", DEMO, *sets({"model.path": OUT / "text", **{f"sft.{name}": value for name, value in settings.items()}}))


def new_text_model(directory: Path, texts: list[str]) -> None:
    """A byte-level tokenizer of its own and a Llama of 0.9 M weights, not yet trained."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    from oprime.lm.models import random_causal_lm

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=TEXT_VOCABULARY, special_tokens=[TEXT_PAD, TEXT_END], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token=TEXT_PAD, eos_token=TEXT_END, chat_template=TEXT_TEMPLATE, padding_side="right"
    )
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=TEXT_POSITIONS, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=1,
    )  # fmt: skip
    random_causal_lm(shape, 0).save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def text(loss: str, seed: int, data: Path, limit: int) -> None:
    rows = [json.loads(line) for line in (data / "gsm8k_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()]
    write_lines(OUT / "solutions-train.jsonl", map(labelled, rows[:TEXT_TRAINED]))
    write_lines(OUT / "solutions-heldout.jsonl", map(labelled, rows[TEXT_TRAINED:]))
    settings = {**ALIKE, **TEXT, **LOSSES[loss], "seed": seed, "data": OUT / "solutions-train.jsonl"}
    prm = train(f"text-{loss}-{seed}", OUT / "text", settings)
    judge(prm, "best-of", [OUT / "solutions-heldout.jsonl"], separator=r"\n")
    judge(prm, "processbench", [data / "processbench" / f"{name}.json" for name in SUBSETS], separator=r"\n", limit=limit)


def labelled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The solutions of four models to one problem."""
    solutions = [value for value in row.values() if isinstance(value, dict)]
    return {
        "prompt": row["question"],
        "responses": [one["solution"] for one in solutions],
        "labels": [one["is_correct"] for one in solutions],
    }


def tables() -> None:
    for part, best in (("chain", "responses"), ("text", "solutions-heldout")):
        found = {loss: seeds for loss in LOSSES if (seeds := sorted(OUT.glob(f"{part}-{loss}-[0-9].best-of.json")))}
        if not found:
            continue
        print(f"\n### {part}, mean over {', '.join(f'{len(seeds)} of {loss}' for loss, seeds in found.items())}\n")
        first_errors(found)
        best_of(found, best)


def first_errors(found: Mapping[str, list[Path]]) -> None:
    """F1 by subset: fitted | at zero."""
    read = {
        loss: [json.loads(Path(str(one).replace("best-of", "processbench")).read_text()) for one in seeds] for loss, seeds in found.items()
    }
    ways = list(next(iter(read.values()))[0]["subsets"][0]["ways"])
    subsets = [one["subset"] for one in next(iter(read.values()))[0]["subsets"]]
    print("\n".join([f"| loss, scored by | {' | '.join(subsets)} |", "|---|" + "---|" * len(subsets)]))
    for loss, runs in read.items():
        for way in ways:
            print(f"| {loss}, {way} | {' | '.join(_cell(runs, place, way) for place in range(len(subsets)))} |")


def _cell(runs: list[dict[str, Any]], place: int, way: str) -> str:
    measured = [run["subsets"][place]["ways"][way] for run in runs]
    return " / ".join(
        f"{100 * statistics.mean(one[at]['f1'] for one in measured):.0f}" for at in ("fitted", "at_zero") if at in measured[0]
    )


def best_of(found: Mapping[str, list[Path]], name: str) -> None:
    """Right answers in per cent by N."""
    read = {loss: [json.loads(one.read_text())["subsets"][0]["ways"] for one in seeds] for loss, seeds in found.items()}
    sizes = list(next(iter(read.values()))[0]["first"])
    print("\n".join([f"\n| {name}, chosen by | {' | '.join(f'N = {n}' for n in sizes)} |", "|---|" + "---|" * len(sizes)]))
    for loss, runs in read.items():
        for way in runs[0]:
            if way in ("first", "majority", "pass") and loss != next(iter(read)):
                continue
            values = (f"{100 * statistics.mean(run[way][n] for run in runs):.1f}" for n in sizes)
            print(f"| {way if way in ('first', 'majority', 'pass') else f'{loss}, {way}'} | {' | '.join(values)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("chain-start", "chain", "text-start", "text", "tables"))
    parser.add_argument("loss", nargs="?", choices=tuple(LOSSES), default="ce")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=0, help="rows of each subset of ProcessBench, evenly spread (default: all)")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if args.part in ("chain", "text"):
        chain(args.loss, args.seed) if args.part == "chain" else text(args.loss, args.seed, args.data, args.limit)
    elif args.part == "text-start":
        text_start(args.data)
    else:
        {"chain-start": chain_start, "tables": tables}[args.part]()


if __name__ == "__main__":
    main()
