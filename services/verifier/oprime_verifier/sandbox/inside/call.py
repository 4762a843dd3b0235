"""Run model source as a module and call its functions, for a supervisor that sends the calls over the channel.

Expected values never come here. What this process answers is data, and nothing it says about itself is believed.
"""

import bisect
import builtins
import collections
import contextlib
import copy
import datetime
import functools
import heapq
import itertools
import json
import math
import operator
import random
import re
import socket
import statistics
import string
import sys
import types
import typing
from typing import Any

from oprime_verifier.sandbox.inside.messages import ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.inside.stage import compile_source
from oprime_verifier.sandbox.inside.values import Decoder, UnencodableError, encode

MODULE = "solution"
"""Not `__main__`, so that a guarded main part does not run."""
MAX_TEXT = 500
_MUTABLE = (list, dict, set, bytearray, collections.deque, collections.OrderedDict, collections.Counter)


def _usual_imports() -> dict[str, Any]:
    """What LeetCode and its like import before a submission; built once, before the fork."""
    modules = (bisect, collections, copy, datetime, functools, heapq, itertools, json, math, operator, random, re, statistics, string, sys)
    names: dict[str, Any] = {}
    # Later ones win, as in a list of `from x import *`.
    for module in (operator, math, bisect, heapq, itertools, functools, string, collections, typing):
        public = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        names.update({name: getattr(module, name) for name in public})
    names.update({module.__name__: module for module in modules})
    # `operator` and `math` have names that shadow built-in ones, and submissions mean the built-in ones.
    for name in vars(builtins):
        names.pop(name, None)
    return names


USUAL = _usual_imports()


def main(source: str, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`arguments`: `preamble`, trusted source that runs first; `unfinished`, the name in it that the source must define; `imports`, whether
    the usual names are there; `classes` of the preamble whose objects are copied by attributes.
    """
    assert channel is not None  # noqa: S101 - the job's kind needs one
    code = compile_source(source, f"{MODULE}.py")
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    if arguments.get("imports"):
        module.__dict__.update(USUAL)
    server = _Server(module, frozenset(arguments.get("classes", ())), int(arguments.get("first_handle", 0)))
    failure = server.load(str(arguments.get("preamble", "")), str(arguments.get("unfinished", "")), code)
    try:
        while True:
            request = receive_message(channel)
            send_message(channel, failure or server.answer(request, channel))
    except ChannelClosedError:
        return


class _Server:
    def __init__(self, module: types.ModuleType, classes: frozenset[str], first_handle: int) -> None:
        self._module = module
        self._classes = classes
        self._kept: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._count = first_handle
        self._channel: socket.socket | None = None

    def load(self, preamble: str, unfinished: str, code: types.CodeType) -> dict[str, Any] | None:
        try:
            with contextlib.suppress(Exception):  # what the task's own source lacks here is no fault of the response
                exec(compile(preamble, "prompt.py", "exec", dont_inherit=True), self._module.__dict__)  # noqa: S102
            self._module.__dict__.pop(unfinished, None)
            exec(code, self._module.__dict__)  # noqa: S102 - what the sandbox is for
        except BaseException as error:  # noqa: BLE001 - model code may raise anything
            return _failure("load", error)
        return None

    def answer(self, request: dict[str, Any], channel: socket.socket) -> dict[str, Any]:
        self._channel = channel
        phase = "find"
        try:
            if request["op"] == "release":
                self._release(request["handle"])
                return {}
            target = self._find(request["target"])
            if request["op"] == "get":
                return self._packed(target)
            phase = "call"
            return self._call(target, request)
        except UnencodableError as error:
            return {"phase": "encode", "error": {"type": "TypeError", "bases": ["TypeError"], "message": f"the result is {error}"}}
        except BaseException as error:  # noqa: BLE001 - model code may raise anything
            return _failure(phase, error)

    def _find(self, target: dict[str, Any]) -> Any:
        if "function" in target:
            return self._function(target["function"])
        found = self._kept[target["handle"]] if "handle" in target else self._global(target["name"])
        if target.get("new"):
            found = found()
        for name in target.get("path", ()):
            found = getattr(found, name)
        return found

    def _global(self, name: str) -> Any:
        if name not in self._module.__dict__:
            raise NameError(f"name '{name}' is not defined")
        return self._module.__dict__[name]

    def _function(self, name: str) -> Any:
        """A method of `Solution` where there is such a class with such a method, else a function."""
        solution = self._module.__dict__.get("Solution")
        if isinstance(solution, type) and hasattr(solution, name):
            return getattr(solution(), name)
        return self._global(name)

    def _call(self, target: Any, request: dict[str, Any]) -> dict[str, Any]:
        arguments, keywords = self._decode(request["args"])
        watched = bool(request.get("mutations")) and self._is_mutable([*arguments, *keywords.values()])
        before = self._snapshot(arguments, keywords) if watched else None
        result = target(*arguments, **keywords)
        packed = self._packed(result)
        if before is not None and (after := self._snapshot(arguments, keywords)) != before:
            packed["mutated"] = after
        return packed

    def _decode(self, table: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        known = {name: kind for name in self._classes if isinstance(kind := self._module.__dict__.get(name), type)}
        arguments, keywords = Decoder(table, known, self._foreign).roots()
        return arguments, keywords

    def _foreign(self, node: list[Any]) -> Any:
        if node[0] == "handle":
            return self._kept[node[1]]
        if node[0] == "target":
            return self._find(node[1])
        return functools.partial(self._call_back, node[1])

    def _call_back(self, number: int, *arguments: Any, **keywords: Any) -> Any:
        """Call a function that the tests passed in; it runs where the tests are."""
        assert self._channel is not None  # noqa: S101 - set before any call
        send_message(self._channel, {"callback": number, "args": encode([list(arguments), keywords], self._classes, self._keep)})
        reply = receive_message(self._channel)
        if "error" in reply:
            raise getattr(builtins, reply["error"]["type"], RuntimeError)(reply["error"]["message"])
        return Decoder(reply["value"], {}, self._foreign).roots()[0]

    def _is_mutable(self, values: list[Any]) -> bool:
        return any(type(value) in _MUTABLE or type(value).__name__ in self._classes for value in values)

    def _snapshot(self, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any] | None:
        # Iterators would be used up by a look at them, so only containers are looked at, and only where all parts are data.
        watched = [value if self._is_mutable([value]) else None for value in [*arguments, *keywords.values()]]
        try:
            return encode(watched, self._classes)
        except UnencodableError:
            return None

    def _packed(self, result: Any) -> dict[str, Any]:
        packed: dict[str, Any] = {"value": encode([result], self._classes, self._keep)}
        if _claims_everything(result):
            packed["claims_everything"] = True
        return packed

    def _keep(self, value: Any) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is None:
            self._count += 1
            number = self._count
            self._kept[number] = value
            self._numbers[id(value)] = number
        return ["handle", number, str(type(value).__name__)]

    def _release(self, number: int) -> None:
        self._numbers.pop(id(self._kept.pop(number, None)), None)


def _claims_everything(value: Any) -> bool:
    """Whether an object says that it equals one that nothing equals."""
    if type(value).__module__ in ("builtins", "collections", "numpy"):
        return False
    try:
        return bool(value == object())
    except BaseException:  # noqa: BLE001 - model code may raise anything
        return False


def _failure(phase: str, error: BaseException) -> dict[str, Any]:
    bases = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        message = str(error)[:MAX_TEXT]
    except BaseException:  # noqa: BLE001 - model code may raise anything
        message = ""
    return {"phase": phase, "error": {"type": type(error).__name__[:MAX_TEXT], "bases": bases, "message": message}}
