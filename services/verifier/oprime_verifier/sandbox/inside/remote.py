"""Stand-ins, in the process of the tests, for what the solution defines. A use of one is a message; nothing of the solution runs here."""

import builtins
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from oprime_verifier.sandbox.inside.messages import receive_message, send_message
from oprime_verifier.sandbox.inside.values import Decoder, encode


class SolutionEndedError(BaseException):
    """The solution's process ended in a call. No `except Exception` of the tests may take it for an answer."""


class Link:
    """The way to the supervisor, who runs each call in a process of the solution."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.classes: dict[str, type] = {}
        """Classes of the tests' own source whose objects cross by attributes."""
        self._functions: dict[int, Callable[..., Any]] = {}
        self._exceptions: dict[str, type[BaseException]] = {}

    def tell(self, message: dict[str, Any]) -> None:
        send_message(self._channel, message)

    def call(self, target: dict[str, Any], arguments: tuple[Any, ...], keywords: dict[str, Any], stops: bool = False) -> Any:
        """`stops`: the call may end an iteration."""
        crossing = [list(arguments), keywords]
        reply = self._ask({"op": "call", "target": target, "args": self._encoded(crossing), "mutations": True}, stops)
        if "mutated" in reply:
            changed = self._decoded(reply["mutated"])
            for old, new in zip([*arguments, *keywords.values()], changed, strict=True):
                _replace_contents(old, new)
        return self._decoded(reply["value"])[0]

    def get(self, target: dict[str, Any]) -> Any:
        return self._decoded(self._ask({"op": "get", "target": target})["value"])[0]

    def exception(self, name: str, bases: list[str]) -> type[BaseException]:
        """The built-in class of that name, or one of our own that stands for the solution's."""
        known = getattr(builtins, name, None)
        if isinstance(known, type) and issubclass(known, BaseException):
            return known
        if name not in self._exceptions:
            self._exceptions[name] = type(name, (_first_exception(bases),), {})
        return self._exceptions[name]

    def _ask(self, message: dict[str, Any], stops: bool = False) -> dict[str, Any]:
        self.tell(message)
        while True:
            reply = receive_message(self._channel)
            if "callback" in reply:
                self._called_back(reply)
            elif "ended" in reply:
                raise SolutionEndedError(reply["ended"])
            elif "error" in reply:
                self._raise(reply["error"], stops)
            else:
                return reply

    def _raise(self, error: dict[str, Any], stops: bool) -> NoReturn:
        kind = self.exception(str(error["type"]), [str(base) for base in error["bases"]])
        if issubclass(kind, StopIteration | StopAsyncIteration | GeneratorExit) and not stops:
            # It would end a loop of the tests early and leave the rest of it unchecked.
            kind = RuntimeError
        try:
            raised = kind(error["message"])
        except TypeError:
            raised = RuntimeError(f"{kind.__name__}: {error['message']}")
        raised.from_solution = True  # type: ignore[attr-defined]
        raise raised

    def _called_back(self, message: dict[str, Any]) -> None:
        arguments, keywords = self._decoded(message["args"])
        try:
            answer = {"value": self._encoded([self._functions[message["callback"]](*arguments, **keywords)])}
        except Exception as error:  # noqa: BLE001 - the solution gets what its callback raised
            answer = {"error": {"type": type(error).__name__, "message": str(error)}}
        self.tell({"op": "called_back", **answer})

    def _encoded(self, values: list[Any]) -> dict[str, Any]:
        return encode(values, frozenset(self.classes), self._keep)

    def _keep(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return object.__getattribute__(value, "_node")()
        if callable(value):
            number = len(self._functions) + 1
            self._functions[number] = value
            return ["callback", number]
        raise TypeError(f"an object of the class {type(value).__name__} cannot be passed to the solution")

    def _decoded(self, table: dict[str, Any]) -> list[Any]:
        return Decoder(table, self.classes, self._foreign).roots()

    def _foreign(self, node: list[Any]) -> Any:
        if node[0] == "callback":
            return self._functions[node[1]]
        if node[0] == "target":
            return Remote(self, node[1])
        return Remote(self, {"handle": node[1]}, str(node[2]))


def _first_exception(names: list[str]) -> type[BaseException]:
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return kind
    return Exception


def _replace_contents(old: Any, new: Any) -> None:
    if isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)
    elif hasattr(old, "__dict__") and hasattr(new, "__dict__"):
        old.__dict__.clear()
        old.__dict__.update(new.__dict__)


class Remote:
    """Something of the solution: a global name, `Solution()`, or an object that is no data.

    It never equals, and never compares with, a plain value: otherwise an object could claim to be the expected one.
    """

    def __init__(self, link: Link, target: dict[str, Any], class_name: str = "") -> None:
        self._link = link
        self._target = target
        self._class_name = class_name

    def _node(self) -> list[Any]:
        if "handle" in self._target and not self._target.get("path"):
            return ["handle", self._target["handle"], self._class_name]
        return ["target", self._target]

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self._target == {"name": "Solution"} and not arguments and not keywords:
            # Made anew for every method call, in a fresh process: what one test left behind is not there for the next.
            return Remote(self._link, {"name": "Solution", "new": True}, "Solution")
        return self._link.call(self._target, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        target = {**self._target, "path": [*self._target.get("path", ()), name]}
        return self._link.get(target) if "handle" in self._target else Remote(self._link, target)

    def _method(self, name: str, *arguments: Any) -> Any:
        try:
            return self._link.call({**self._target, "path": [*self._target.get("path", ()), name]}, arguments, {})
        except AttributeError as error:
            # As for any object whose class lacks the method.
            raise TypeError(f"object of type {self._class_name!r} has no {name}") from error

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Remote) and "handle" in self._target and self._target == other._target)

    def __hash__(self) -> int:
        return hash(repr(self._target))

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return self._method("__len__")

    def __getitem__(self, key: Any) -> Any:
        return self._method("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._method("__setitem__", key, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._method("__iter__")
        return _Steps(iterator) if isinstance(iterator, Remote) else iter(iterator)

    def __next__(self) -> Any:
        return self._link.call({**self._target, "path": [*self._target.get("path", ()), "__next__"]}, (), {}, stops=True)

    def __str__(self) -> str:
        return str(self._method("__str__"))

    def __repr__(self) -> str:
        return str(self._method("__repr__")) if "handle" in self._target else f"<{self._target}>"

    def __enter__(self) -> Any:
        return self._method("__enter__")

    def __exit__(self, *_: Any) -> None:
        self._method("__exit__", None, None, None)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and instance._class_name == self._target.get("name")

    def __del__(self) -> None:
        if "handle" in self._target and not self._target.get("path"):
            with contextlib.suppress(OSError):  # the supervisor may be gone
                self._link.tell({"op": "release", "handle": self._target["handle"]})


class _Steps:
    """The items of a remote iterator."""

    def __init__(self, iterator: Remote) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)
