"""Run model source as a module and call its functions, for a supervisor that sends the calls over the channel.

Expected values never come here. What this process answers is data, and nothing it says about itself is believed.
"""

import builtins
import socket
import types
from typing import Any

from oprime_verifier.sandbox.inside.messages import ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.inside.module import FILE, MAX_TEXT, SolutionModule
from oprime_verifier.sandbox.inside.stage import compile_source
from oprime_verifier.sandbox.inside.values import Decoder, UnencodableError, encode


def main(source: str | types.CodeType, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`arguments`: those of `SolutionModule`."""
    assert channel is not None  # noqa: S101 - the job's kind needs one
    code = compile_source(source, FILE)
    solution = SolutionModule(arguments)
    error = solution.run(code)
    failure = None if error is None else failure_of("load", error)
    try:
        while True:
            request = receive_message(channel)
            send_message(channel, failure or _answer(solution, request))
    except ChannelClosedError:
        return


def _answer(solution: SolutionModule, request: dict[str, Any]) -> dict[str, Any]:
    phase = "find"
    try:
        target = solution.entry(request["target"])
        phase = "call"
        arguments, keywords = Decoder(request["args"]).roots()
        return _packed(target(*arguments, **keywords))
    except UnencodableError as error:
        return {"phase": "encode", "error": {"type": "TypeError", "bases": ["TypeError"], "message": f"the result is {error}"}}
    except BaseException as error:  # noqa: BLE001 - model code may raise anything
        return failure_of(phase, error)


def _packed(result: Any) -> dict[str, Any]:
    packed: dict[str, Any] = {"value": encode([result], frozenset(), _kept)}
    if _claims_everything(result):
        packed["claims_everything"] = True
    return packed


def _kept(value: Any) -> list[Any]:
    return ["handle", str(type(value).__name__)]


def _claims_everything(value: Any) -> bool:
    """Whether an object says that it equals one that nothing equals."""
    if type(value).__module__ in ("builtins", "collections", "numpy"):
        return False
    try:
        return bool(value == object())
    except BaseException:  # noqa: BLE001 - model code may raise anything
        return False


def failure_of(phase: str, error: BaseException) -> dict[str, Any]:
    bases = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        message = str(error)[:MAX_TEXT]
    except BaseException:  # noqa: BLE001 - model code may raise anything
        message = ""
    return {"phase": phase, "error": {"type": type(error).__name__[:MAX_TEXT], "bases": bases, "message": message}}
