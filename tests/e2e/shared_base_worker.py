"""A trainer with adapters on the CPU, that says what it holds of its model's file: `python shared_base_worker.py MODEL DTYPE`.

It prints a line of JSON after its first train step, and another for each line that it reads, until there are no more.
"""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Literal

import torch

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.core.token_rows import token_rows
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import add_adapter, base_dtype, twin
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.training_settings import LoraSection, TrainerSection


def held(file: Path) -> dict[str, int]:
    """Bytes of this process's mappings of a file: in memory, this process's share of that, and pages that it has changed and so copied."""
    found = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file))
        elif inside and (key := line.partition(":")[0]) in found:
            found[key] += int(line.split()[1]) * 1024
    return found


def main() -> None:
    directory = Path(sys.argv[1])
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if sys.argv[2] == "bfloat16" else "float32"
    torch.set_num_threads(1)
    lora = LoraSection(rank=4)
    model = load_causal_lm(directory, dtype=base_dtype(lora, dtype))
    start = twin(model)
    add_adapter(model, lora, seed=0)
    engine = DeepSpeedEngine(TokenLogprobModel(model, 16), TrainerSection(learning_rate=1e-3, device="cpu", threads=1), dtype)
    reference = FrozenModel(start, chunk_tokens=16)
    rows = token_rows([[1, 2]], [[3, 4, 5]], pad_id=0)
    engine.train_step([rows], lambda _, logprobs: (logprobs - reference.logprobs(rows)).sum(), learning_rate=1e-3)
    bytes_of_model = sum(parameter.nbytes for parameter in start.parameters())
    for _ in itertools.chain([""], sys.stdin):
        sys.stdout.write(json.dumps({"model": bytes_of_model, **held(directory / "model.safetensors")}) + "\n")
        sys.stdout.flush()
    engine.close()


if __name__ == "__main__":
    main()
