"""Token rewards as one writes them first: two transformers models behind FastAPI. python -m bench.obvious_rewards PRM REFERENCE PORT BETA.

Each request is tokenised, padded and run through both models with all logits, log_softmax and gather, one request at a time.
"""

import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class Input(BaseModel):
    prompt: str
    response: str


class Body(BaseModel):
    inputs: list[Input]


def build(prm: str, reference: str, beta: float) -> FastAPI:
    app = FastAPI()
    tokenizer = AutoTokenizer.from_pretrained(prm)
    tokenizer.padding_side = "right"
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (prm, reference)]
    one_at_a_time = threading.Lock()

    def logprobs(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]

    @app.post("/v1/rewards")
    def rewards(body: Body) -> dict[str, Any]:
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": one.prompt}], add_generation_prompt=True, return_dict=False)
            for one in body.inputs
        ]
        responses = [[*tokenizer(one.response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for one in body.inputs]
        rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        with one_at_a_time, torch.no_grad():
            ours, theirs = (logprobs(model, batch["input_ids"], batch["attention_mask"]) for model in models)
        found = beta * (ours - theirs)
        return {
            "data": [
                {"rewards": found[index, len(prompt) - 1 : len(prompt) + len(response) - 1].tolist()}
                for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
            ]
        }

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    return app


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1], sys.argv[2], float(sys.argv[4])), host="127.0.0.1", port=int(sys.argv[3]), log_level="error")
