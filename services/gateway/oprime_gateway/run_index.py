"""What a run's files hold, found without reading them: an index on this machine's disk, brought up to date in small portions.

    RUN/samples/step-000010.jsonl    one line per group  -> rollouts: what can be filtered and sorted, and where the line lies
    RUN/samples/learned-000010.jsonl the same groups, what the learner adds; small, and read as they are
    RUN/metrics.jsonl                one line per row    -> metric_rows: kind, train step, and where the line lies

The files stay the truth: an index that is lost, or written by another release, is made anew. Newest steps come first, so that a page has
something to show while the rest is being read.
"""

import atexit
import json
import math
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

METRICS_FILE = "metrics.jsonl"
SAMPLES = "samples"
RELEASE = 3
"""Of the tables below and of what stands in them."""
PROMPT_CHARS = 200
SUM_DECIMALS = 6
RIGHT_FROM = 0.5
"""Rollouts with at least this outcome reward count as right."""
LEARNED = ("advantages", "policy_logprobs")
SORTS = ("step", "outcome", "length", "reward", "lowest")

_TABLES = """
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, size INTEGER, modified INTEGER);
CREATE TABLE IF NOT EXISTS rollouts (
    file TEXT, step INTEGER, group_id INTEGER, number INTEGER, outcome REAL, status TEXT, finish TEXT, length INTEGER,
    reward REAL, lowest REAL, prm_version INTEGER, prompt TEXT, actions TEXT, form INTEGER, place INTEGER, bytes INTEGER,
    PRIMARY KEY (step, group_id, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rollouts_of_file ON rollouts (file);
CREATE TABLE IF NOT EXISTS metric_rows (kind TEXT, step INTEGER, place INTEGER, bytes INTEGER, PRIMARY KEY (kind, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics_read (one INTEGER PRIMARY KEY CHECK (one = 1), upto INTEGER, mark BLOB);
"""
_NO_WAY_TO_WRITE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
"""What SQLite says where the disk is full, has a fault, or may not be written."""
_NOT_NOW = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM})
_MARK_BYTES = 256
_READ_BYTES = 4 * 1024 * 1024
_BUSY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rollouts, in which order. None and empty mean any."""

    step_from: int | None = None
    step_to: int | None = None
    right: bool | None = None
    reason: str = ""
    """`stop`, `length`, or an outcome status such as `invalid`."""
    length_from: int | None = None
    length_to: int | None = None
    disagreement: str = ""
    """`prm_good`: process rewards add up to more than 0, the verifier says wrong. `prm_bad`: the other way round."""
    sort: str = "step"
    descending: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRollout:
    """What the index knows of a rollout."""

    step: int
    group_id: int
    index: int
    outcome_reward: float | None
    outcome_status: str
    finish_reason: str
    tokens: int
    process_reward: float | None
    """Sum of its process rewards."""
    lowest_reward: float | None
    """The least process reward of a token."""
    prm_version: int
    prompt: str
    """Its beginning."""
    actions: list[str]
    """Named actions that the response took."""
    keeps_action_form: bool | None
    """None where it took none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    rollouts: list[FoundRollout]
    total: int
    """How many there are besides those that were asked for."""
    files: int
    files_read: int
    """Less than `files` while the index is not complete: ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGroup:
    siblings: list[FoundRollout]
    line: dict[str, Any]
    """Its object in the file, with what the learner adds."""
    before: tuple[int, int] | None
    """Train step and group id of the sampled group before it."""
    after: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Columns of metrics of one kind."""

    steps: list[int]
    values: dict[str, list[float | None]]
    names: list[str]
    """All numbers that the newest row has."""
    rows: int
    """How many rows there are before thinning."""


class IndexUnwritableError(Exception):
    """The index can be neither written nor brought up to date: says where it lies, why, and what to do."""


class RunIndexes:
    """The indexes of the runs that somebody looks at."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` is where they lie; a folder of this user's cache if None."""
        self._directory = directory
        self._temporary: Path | None = None
        self._known: dict[Path, RunIndex] = {}
        self._lock = threading.Lock()

    def of(self, folder: Path) -> "RunIndex":
        folder = folder.absolute()
        with self._lock:
            if folder not in self._known:
                name = sha256(os.fsencode(folder)).hexdigest()[:24]
                self._known[folder] = RunIndex(folder, self._folder() / f"{name}.sqlite")
            return self._known[folder]

    def _folder(self) -> Path:
        try:
            wanted = self._directory or cache_folder()
            wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = wanted.stat()
            if facts.st_uid == os.geteuid() and not facts.st_mode & 0o022 and os.access(wanted, os.W_OK):
                return wanted
        except (OSError, RuntimeError):
            pass  # A user without a home folder is a RuntimeError.
        # Nowhere to keep it: for as long as this process lives.
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="oprime-index-"))
            atexit.register(shutil.rmtree, self._temporary, ignore_errors=True)
        return self._temporary


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "oprime" / "runs"


class RunIndex:
    """The index of one run. Methods may be called from any thread; each may raise IndexUnwritableError."""

    def __init__(self, folder: Path, database: Path, *, busy_s: float = _BUSY_S) -> None:
        """Another process that writes the index is waited for so many seconds."""
        self._folder = folder
        self._database = database
        self._busy_s = busy_s
        self._updating = threading.Lock()

    def rollouts(self, wanted: Wanted, *, offset: int, limit: int, budget_s: float) -> Found:
        """One page of rollouts. At most `budget_s` seconds are spent on files that are not in the index yet."""
        files = _sample_files(self._folder / SAMPLES)
        with self._opened() as database:
            self._read_samples(database, files, until=time.monotonic() + budget_s)
            where, values = _conditions(wanted)
            (total,) = database.execute(f"SELECT count(*) FROM rollouts {where}", values).fetchone()  # noqa: S608 - made of constants
            rows = database.execute(
                f"SELECT * FROM rollouts {where} ORDER BY {_order(wanted)} LIMIT ? OFFSET ?",  # noqa: S608
                (*values, limit, offset),
            ).fetchall()
            (read,) = database.execute("SELECT count(*) FROM files").fetchone()
        return Found(rollouts=[_found(row) for row in rows], total=total, files=len(files), files_read=read)

    def siblings(self, step: int, group_id: int) -> FoundGroup:
        """The rollouts of a group, its line of the file, and which groups stand beside it. Raises LookupError where there is none."""
        with self._opened() as database:
            name = f"step-{step:06d}.jsonl"
            files = _sample_files(self._folder / SAMPLES)
            self._read_samples(database, {near: files[near] for near in _beside(name, files)}, until=None, whole=False)
            rows = database.execute("SELECT * FROM rollouts WHERE step = ? AND group_id = ? ORDER BY number", (step, group_id)).fetchall()
            before, after = (_neighbour(database, step, group_id, way) for way in ("before", "after"))
        if not rows:
            raise LookupError(f"no sampled group {group_id} at train step {step}")
        place, length = rows[0]["place"], rows[0]["bytes"]
        with (self._folder / SAMPLES / name).open("rb") as file:
            file.seek(place)
            group = _object(file.read(length))
        if group is None or group.get("group_id") != group_id:
            raise LookupError(f"the sample of group {group_id} at train step {step} was replaced meanwhile: ask again")
        self._add_learned(group, self._folder / SAMPLES / f"learned-{step:06d}.jsonl")
        return FoundGroup(siblings=[_found(row) for row in rows], line=group, before=before, after=after)

    def _add_learned(self, group: dict[str, Any], path: Path) -> None:
        """Advantages and log-probs of the policy, which the learner writes once it has learned from the batch."""
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            return
        found = next((row for row in map(_object, lines) if row is not None and row.get("group_id") == group["group_id"]), None)
        known = {row.get("index"): row for row in objects((found or {}).get("rollouts"))}
        for row in objects(group.get("rollouts")):
            row.update({name: value for name, value in known.get(row.get("index"), {}).items() if name in LEARNED})

    def series(self, kind: str, names: Sequence[str], *, points: int) -> Series:
        """Metrics over train steps, thinned evenly to about `points` rows; the last row is always there."""
        with self._opened() as database:
            self._read_metrics(database)
            rows = database.execute("SELECT step, place, bytes FROM metric_rows WHERE kind = ? ORDER BY step", (kind,)).fetchall()
        stride = max(1, -(-len(rows) // points))
        chosen = [row for number, row in enumerate(rows) if number == 0 or (len(rows) - 1 - number) % stride == 0]
        read = list(self._metric_rows(chosen))
        known = sorted(name for name, value in (read[-1] if read else {}).items() if _number(value) is not None and name != "step")
        values = {name: [_number(row.get(name)) for row in read] for name in names}
        return Series(steps=[int(row["step"]) for row in read], values=values, names=known, rows=len(rows))

    @contextmanager
    def _opened(self) -> Generator[sqlite3.Connection, None, None]:
        try:
            with closing(self._open()) as database:
                yield database
        except sqlite3.DatabaseError as error:
            if _code(error) not in _NO_WAY_TO_WRITE:
                raise
            raise IndexUnwritableError(
                f"the index of the run's files cannot be written to {self._database.parent} ({error}): make room there, or start the "
                "gateway with XDG_CACHE_HOME on another disk; the run itself is not affected"
            ) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return _connected(self._database, self._busy_s)
        except sqlite3.DatabaseError as error:
            if _code(error) in _NO_WAY_TO_WRITE | _NOT_NOW:
                raise
            # Damaged: the run's files have everything.
            self._database.unlink(missing_ok=True)
            return _connected(self._database, self._busy_s)

    def _read_samples(
        self, database: sqlite3.Connection, files: Mapping[str, tuple[int, int]], *, until: float | None, whole: bool = True
    ) -> None:
        """Put into the index what is new or has changed, until the time is up; with `whole`, take out what is gone."""
        if not self._updating.acquire(blocking=until is None):
            return  # Another request is at it.
        try:
            known = {row["name"]: (row["size"], row["modified"]) for row in database.execute("SELECT * FROM files")}
            gone = sorted(set(known) - set(files)) if whole else []
            for name in gone:
                database.execute("DELETE FROM rollouts WHERE file = ?", (name,))
                database.execute("DELETE FROM files WHERE name = ?", (name,))
            for name in sorted((name for name, facts in files.items() if known.get(name) != facts), reverse=True):
                self._read_file(database, name, files[name])
                if until is not None and time.monotonic() >= until:
                    break
            database.commit()
        finally:
            self._updating.release()

    def _read_file(self, database: sqlite3.Connection, name: str, facts: tuple[int, int]) -> None:
        database.execute("DELETE FROM rollouts WHERE file = ?", (name,))
        place = 0
        try:
            with (self._folder / SAMPLES / name).open("rb") as file:
                for line in file:
                    database.executemany(
                        f"INSERT OR REPLACE INTO rollouts VALUES ({', '.join('?' * 16)})",  # noqa: S608
                        _rows_of_group(name, line, place),
                    )
                    place += len(line)
        except FileNotFoundError:
            return
        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (name, *facts))

    def _read_metrics(self, database: sqlite3.Connection) -> None:
        path = self._folder / METRICS_FILE
        with self._updating:
            if not path.is_file():
                database.execute("DELETE FROM metric_rows")
                database.execute("DELETE FROM metrics_read")
                database.commit()
                return
            with path.open("rb") as file:
                upto = self._goes_on_from(database, file)
                file.seek(upto)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # It is being written.
                    row = _object(line)
                    if row is not None and isinstance(row.get("step"), int):
                        entry = (str(row.get("kind")), _whole(row["step"]), upto, len(line))
                        database.execute("INSERT OR REPLACE INTO metric_rows VALUES (?, ?, ?, ?)", entry)
                    upto += len(line)
                database.execute("INSERT OR REPLACE INTO metrics_read VALUES (1, ?, ?)", (upto, _mark(file, upto)))
            database.commit()

    def _goes_on_from(self, database: sqlite3.Connection, file: Any) -> int:
        """Where reading goes on: at 0 where the file is not the one that was read, which a resumed run cuts back."""
        row = database.execute("SELECT upto, mark FROM metrics_read").fetchone()
        if row is not None and _mark(file, row["upto"]) == row["mark"]:
            return int(row["upto"])
        database.execute("DELETE FROM metric_rows")
        return 0

    def _metric_rows(self, entries: Iterable[sqlite3.Row]) -> Iterator[dict[str, Any]]:
        path = self._folder / METRICS_FILE
        if not path.is_file():
            return
        with path.open("rb") as file:
            for entry in entries:
                file.seek(entry["place"])
                row = _object(file.read(entry["bytes"]))
                if row is not None and row.get("step") == entry["step"]:
                    yield row


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error that is not SQLite's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _connected(path: Path, busy_s: float) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=busy_s)
    try:
        database.row_factory = sqlite3.Row
        _require_own_release(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_TABLES)
        database.execute(f"PRAGMA user_version = {RELEASE}")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _require_own_release(database: sqlite3.Connection) -> None:
    (release,) = database.execute("PRAGMA user_version").fetchone()
    if release not in (0, RELEASE):
        raise sqlite3.DatabaseError(f"the index is of release {release}, this is {RELEASE}")


def _sample_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file of samples."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.startswith("step-") and entry.name.endswith(".jsonl")]
    except OSError:
        return {}
    return {name: (facts.st_size, facts.st_mtime_ns) for name, facts in found}


def _beside(name: str, files: Iterable[str]) -> list[str]:
    """A file's name with those before and after it; nothing of the name where there is no such file."""
    known = sorted(files)
    place = bisect_left(known, name)
    there = place < len(known) and known[place] == name
    return known[max(0, place - 1) : place + 1 + there]


def _neighbour(database: sqlite3.Connection, step: int, group_id: int, way: Literal["before", "after"]) -> tuple[int, int] | None:
    """Train step and group id of the nearest group that the index knows."""
    sign, order = ("<", "DESC") if way == "before" else (">", "ASC")
    row = database.execute(
        f"SELECT step, group_id FROM rollouts WHERE (step, group_id) {sign} (?, ?) "  # noqa: S608 - made of constants
        f"ORDER BY step {order}, group_id {order} LIMIT 1",
        (step, group_id),
    ).fetchone()
    return None if row is None else (row["step"], row["group_id"])


def _rows_of_group(file: str, line: bytes, place: int) -> Iterator[tuple[object, ...]]:
    group = _object(line)
    if group is None:
        return
    for row in objects(group.get("rollouts")):
        rewards = [value for value in map(_number, row.get("process_rewards") or ()) if value is not None]
        yield (
            file,
            _whole(group.get("step")),
            _whole(group.get("group_id")),
            _whole(row.get("index")),
            _number(row.get("outcome_reward")),
            str(row.get("outcome_status", "")),
            str(row.get("finish_reason", "")),
            len(row.get("tokens") or ()),
            # Samples have six decimals: more in their sum come of adding in binary.
            round(math.fsum(rewards), SUM_DECIMALS),
            min(rewards, default=None),
            _whole(group.get("prm_version")),
            str(group.get("prompt", ""))[:PROMPT_CHARS],
            " ".join(map(str, row.get("actions") or ())),
            row.get("keeps_action_form") is True,
            place,
            len(line),
        )


def _conditions(wanted: Wanted) -> tuple[str, list[object]]:
    tests: list[tuple[str, Sequence[object]]] = []
    for column, least, most in (("step", wanted.step_from, wanted.step_to), ("length", wanted.length_from, wanted.length_to)):
        tests += [(f"{column} >= ?", [least])] if least is not None else []
        tests += [(f"{column} <= ?", [most])] if most is not None else []
    if wanted.right is not None:
        tests.append(("outcome >= ?" if wanted.right else "outcome < ?", [RIGHT_FROM]))
    if wanted.reason:
        tests.append(("(finish = ? OR status = ?)", [wanted.reason, wanted.reason]))
    if wanted.disagreement:
        good = wanted.disagreement == "prm_good"
        tests.append(("reward > 0 AND outcome < ?" if good else "reward < 0 AND outcome >= ?", [RIGHT_FROM]))
    where = " AND ".join(test for test, _ in tests)
    return (f"WHERE {where}" if where else ""), [value for _, values in tests for value in values]


def _order(wanted: Wanted) -> str:
    if wanted.sort not in SORTS:
        raise ValueError(f"sort is {wanted.sort!r}: use one of {', '.join(SORTS)}")
    direction = "DESC" if wanted.descending else "ASC"
    return f"{wanted.sort} {direction}, step {direction}, group_id, number"


def _found(row: sqlite3.Row) -> FoundRollout:
    return FoundRollout(
        step=row["step"],
        group_id=row["group_id"],
        index=row["number"],
        outcome_reward=row["outcome"],
        outcome_status=row["status"],
        finish_reason=row["finish"],
        tokens=row["length"],
        process_reward=row["reward"],
        lowest_reward=row["lowest"],
        prm_version=row["prm_version"],
        prompt=row["prompt"],
        actions=row["actions"].split(),
        keeps_action_form=bool(row["form"]) if row["actions"] else None,
    )


def _mark(file: Any, upto: int) -> bytes:
    """What stands before a place: another file, or one that was cut back and grew again, has something else there."""
    file.seek(max(0, upto - _MARK_BYTES))
    read: bytes = file.read(min(upto, _MARK_BYTES))
    return read if len(read) == min(upto, _MARK_BYTES) else b"cut back"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(line, parse_constant=lambda _: None)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def objects(value: object) -> list[dict[str, Any]]:
    """The JSON objects of a list; none where it is no list."""
    return [cast("dict[str, Any]", one) for one in cast("list[Any]", value) if isinstance(one, dict)] if isinstance(value, list) else []


def _number(value: object) -> float | None:
    """A number that JSON has a word for; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and abs(value) < 2**63 else 0
