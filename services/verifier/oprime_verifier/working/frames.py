"""What parent and worker say to each other over pipes: four bytes of length (big-endian), then UTF-8 JSON.

Model text is data all the way: nothing is unpickled, evaluated or executed.
"""

import json
import struct
from dataclasses import asdict, fields
from typing import Any, BinaryIO

from oprime.core.verification import Outcome, TestResult, Verdict, VerificationRequest, VerifierIdentity

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 256 * 1024 * 1024


def frame(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return LENGTH.pack(len(body)) + body


def write_frame(sink: BinaryIO, message: dict[str, Any]) -> None:
    sink.write(frame(message))
    sink.flush()


def read_frame(source: BinaryIO) -> dict[str, Any] | None:
    """The next frame; None when the parent closed the pipe."""
    header = source.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    body = source.read(length)
    return json.loads(body) if len(body) == length else None


def request_to_json(request: VerificationRequest) -> dict[str, Any]:
    """All fields by name, shallow: options are JSON already."""
    return {name.name: _plain(getattr(request, name.name)) for name in fields(request)}


def request_from_json(message: dict[str, Any]) -> VerificationRequest:
    named: dict[str, Any] = {**message, "golds": tuple(message["golds"])}
    return VerificationRequest(**named)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome)


def outcome_from_json(message: dict[str, Any]) -> Outcome:
    """Raises KeyError, TypeError or ValueError for what is no outcome."""
    named: dict[str, Any] = {
        **message,
        "verdict": Verdict(message["verdict"]),
        "tests": tuple(_test_from_json(test) for test in message["tests"]),
        "verifier": VerifierIdentity(**message["verifier"]),
        "flags": tuple(message["flags"]),
    }
    return Outcome(**named)


def _test_from_json(message: dict[str, Any]) -> TestResult:
    named: dict[str, Any] = {**message, "verdict": Verdict(message["verdict"])}
    return TestResult(**named)


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else value
