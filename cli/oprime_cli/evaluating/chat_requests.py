"""A sample of an evaluation as a request to a chat model, and what comes back."""

from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime_cli.chat.model import ChatRequest, ChatResponse


def chat_request(problem: Problem, decoding: Decoding, seed: int) -> ChatRequest:
    return ChatRequest(
        messages=problem.task.messages,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=decoding.max_tokens,
        stop=decoding.stop,
        seed=seed,
    )


def response_of(answer: ChatResponse) -> Response:
    return Response(text=answer.text, finish_reason="length" if answer.cut else "stop", tokens=answer.response_tokens)
