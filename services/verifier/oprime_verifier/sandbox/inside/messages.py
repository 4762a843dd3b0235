"""Messages over a stream socket: a length and JSON. Read on both sides of the sandbox; the other side may be hostile."""

import json
import socket
import struct
from typing import Any

LENGTH = struct.Struct(">I")
ENDING = struct.Struct("=qi?ddq")
"""What a zygote, or the process of a repeated job, says of a job that ended: its number, wait status, whether its time was up, CPU and wall
seconds, peak bytes.
"""
READY = b"ready"
"""What the process of a repeated job says once its source is compiled."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class ChannelClosedError(Exception):
    """The other side hung up, in the middle of a message or between two."""


class BadMessageError(Exception):
    """What came is no message: too long, or not a JSON object."""


def send_message(channel: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message, separators=(",", ":")).encode()
    channel.sendall(LENGTH.pack(len(body)) + body)


def receive_message(channel: socket.socket, max_bytes: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """Block for one message, as long as the socket's timeout allows. Raises TimeoutError, ChannelClosedError, BadMessageError."""
    (size,) = LENGTH.unpack(_exactly(channel, LENGTH.size))
    if size > max_bytes:
        raise BadMessageError(f"a message of {size} bytes; at most {max_bytes} are read")
    try:
        message = json.loads(_exactly(channel, size))
    except (ValueError, RecursionError) as error:
        raise BadMessageError(f"a message that is not JSON ({type(error).__name__})") from error
    if type(message) is not dict:
        raise BadMessageError(f"a message that is a {type(message).__name__}, not an object")
    return message


def _exactly(channel: socket.socket, size: int) -> bytes:
    body = bytearray()
    while len(body) < size:
        try:
            piece = channel.recv(min(size - len(body), 1 << 20))
        except ConnectionError as error:
            raise ChannelClosedError from error
        if not piece:
            raise ChannelClosedError
        body += piece
    return bytes(body)
