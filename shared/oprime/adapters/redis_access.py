"""What each service may do on Redis: one user per service, with the commands and keys that its calls of the queue need, and no others.

A script runs with the rights of its caller, so what scripts do is counted here too. Key patterns name one run: a user of one run knows
nothing of another.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from oprime.adapters.redis_connection import escaped, key_prefix
from oprime.core.payload_needs import MATERIAL, REFERENCE, REWARDS, ROLLOUT, TEXT
from oprime.ports import BATCHES, DEAD, ROLLOUTS, SCORED, STEPS, STREAMS, TICKETS, VERDICTS

OPERATOR = "operator"
"""The user of the command line."""
SCALER = "scaler"
"""The user of what counts the entries of the streams from outside, such as an autoscaler."""


@dataclass(frozen=True, slots=True)
class Access:
    """Commands, and patterns of keys below the run's prefix."""

    commands: frozenset[str]
    keys: frozenset[str]

    def __add__(self, other: "Access") -> "Access":
        return Access(self.commands | other.commands, self.keys | other.keys)


def _access(commands: str, *keys: str) -> Access:
    return Access(frozenset(commands.split()), frozenset(keys))


def _all(parts: Iterable[Access]) -> Access:
    return sum(parts, _access(""))


def _stream(name: str) -> str:
    return f"stream:{name}"


# What the calls of the queue's port need

SCRIPTS = _access("evalsha script|load")
SERVER = _access("info")
COUNTS = _access("hgetall", "counts")
STATES = _access("hmget", "ledger")
LETTERS = SCRIPTS + _access("xrange", _stream(DEAD))
HEARTBEAT = SCRIPTS + _access("time hset", "passing")
SET_VALUE = _access("hset", "values")
_PASSING = SCRIPTS + _access("time hgetall hdel", "passing")
VALUE = _PASSING + _access("hget", "values")
VALUES = _PASSING + _access("hscan", "values")
PUT_NOTICE = _access("hset", "notices")
NOTICE = _access("hget", "notices")
SNAPSHOT = SCRIPTS + _access("del copy pexpire hgetall hscan unlink", "ledger", "values", "ledger-copy-*")
RESTORE = SCRIPTS + _access("hset hget del exists rename", "ledger", "counts", "tokens", "ledger-new-*")


def _group(stream: str) -> Access:
    return _access("xgroup|create", _stream(stream))


def _dead_letter(stream: str) -> Access:
    keys = (_stream(stream), _stream(DEAD), "ledger", "counts", "set_aside")
    return SCRIPTS + _access("xrange xadd time hset hget hincrby xack xdel", *keys)


def _receive(stream: str) -> Access:
    """As one of several workers, with leases that are renewed or given back."""
    taking = _access("xpending xautoclaim xack xreadgroup xclaim", _stream(stream))
    return SCRIPTS + _group(stream) + taking + _dead_letter(stream)


def _receive_held(stream: str) -> Access:
    """As the only worker, which holds entries until it acknowledges them."""
    return SCRIPTS + _group(stream) + _access("xreadgroup xpending xack", _stream(stream)) + _acknowledge(stream) + _dead_letter(stream)


def _acknowledge(stream: str) -> Access:
    return _access("multi exec xack xdel", _stream(stream))


def _depth(stream: str) -> Access:
    return SCRIPTS + _group(stream) + _access("xlen xpending xrange time", _stream(stream))


def _commit(*outputs: str) -> Access:
    """With moves of the ledger; what it consumes is the consumer's to add."""
    keys = ("marks", "ledger", "counts", "set_aside", *map(_stream, outputs))
    return SCRIPTS + _access("hexists hset hget hincrby xadd time", *keys)


_CONSUMED = _access("xack xdel")
_FENCED = _access("hget", "tokens")


def _turn(name: str) -> Access:
    return SCRIPTS + _access("get set del hget hset hincrby", f"turn:{name}", "tokens")


# What those of the payloads' port need


def _payloads(commands: str, *kinds: str) -> Access:
    return _access(commands, *(f"payload:{kind}/*" for kind in kinds))


_PRESENT = "multi exec exists strlen"
_TRAINER = SERVER + VALUE + VALUES + SET_VALUE + HEARTBEAT + _FENCED

SERVICES: Mapping[str, Access] = {
    "coordinator": _all(_depth(stream) for stream in STREAMS)
    + _all(_receive_held(stream) for stream in (VERDICTS, STEPS))
    + _commit(TICKETS, BATCHES)
    + _access("hdel", "values", "tokens")
    + (SERVER + COUNTS + STATES + LETTERS + VALUE + VALUES + PUT_NOTICE + SNAPSHOT + RESTORE + _turn("coordinator"))
    + _access("set unlink scan", "payload:*"),
    "generator": _receive(TICKETS)
    + (_commit(ROLLOUTS, VERDICTS) + _CONSUMED)
    + (SERVER + VALUE + HEARTBEAT + _turn("follow"))
    + _payloads("set unlink", ROLLOUT, TEXT),
    "verifier": _receive(ROLLOUTS)
    + _acknowledge(ROLLOUTS)
    + (_commit(VERDICTS) + _CONSUMED)
    + (SERVER + STATES + NOTICE + HEARTBEAT)
    + _payloads("mget", TEXT, MATERIAL)
    + _payloads("unlink", TEXT, ROLLOUT),
    "prm": _receive_held(BATCHES)
    + (_commit(SCORED) + _TRAINER + _turn("prm"))
    + _access("xrange", _stream(VERDICTS))
    + _payloads(f"set mget unlink {_PRESENT}", ROLLOUT, TEXT, REWARDS, REFERENCE),
    "learner": _all(_receive_held(stream) for stream in (SCORED, BATCHES))
    + (_commit(STEPS) + _TRAINER + _turn("learner"))
    + _payloads(f"mget unlink {_PRESENT}", ROLLOUT, TEXT, REWARDS),
    OPERATOR: SERVER
    + _access("ping")
    + (COUNTS + STATES + VALUE + VALUES + LETTERS)
    + _access("hscan", "ledger")
    + _access("xrange", *map(_stream, STREAMS))
    + _access("xadd time hset hget hincrby hdel xdel", "ledger", "counts", "set_aside")
    + _access("scan unlink", "payload:*"),
    SCALER: _access("ping info xlen xpending xinfo", *map(_stream, STREAMS)),
}
"""User -> what it may do. The gateway is no user: it speaks to the other services alone."""


def access_file(run: str, url: str, users: Mapping[str, tuple[str, str]]) -> str:
    """The text of Redis's `aclfile`; `users` gives the name and the password of each in SERVICES. Passwords are written as SHA-256 alone.

    Whoever gives no name and password, or another one, is nobody.
    """
    # Nobody logs in as the default user, but Redis loads its append-only file as that one: without the rights it would drop transactions.
    lines = ["user default reset off ~* &* +@all"]
    for service, (name, password) in users.items():
        access = SERVICES[service]
        commands = access.commands | ({"select"} if _database(url) else set())
        digest = hashlib.sha256(password.encode("utf-8", "surrogateescape")).hexdigest()
        keys = [f"~{escaped(key_prefix(run))}{key}" for key in sorted(access.keys)]
        lines.append(" ".join([f"user {name} reset on resetchannels #{digest}", *keys, *(f"+{command}" for command in sorted(commands))]))
    return "\n".join(lines) + "\n"


def _database(url: str) -> int:
    """The number of the database that an address names."""
    parts = urlsplit(url)
    path = parts.path.removeprefix("/") if parts.scheme != "unix" else ""
    return int(path or parse_qs(parts.query).get("db", ["0"])[0])
