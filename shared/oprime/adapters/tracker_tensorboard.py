"""Event files for TensorBoard. The only module that imports tensorboard; neither TensorFlow nor torch is needed."""

# pyright: reportAttributeAccessIssue=false
# tensorboard's generated messages have no types.

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from oprime.ports import TableRow, TrackedRun

TEXT = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))


class TensorBoardTracker:
    """Implements `oprime.ports.Tracker` in files of one folder, which TensorBoard reads while they grow."""

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _wait_for_a_later_name(folder)
        self._writer = EventFileWriter(str(folder))
        # TensorBoard forgets what earlier files have of this step and later ones.
        self._write(run.done + 1, session_log=SessionLog(status=SessionLog.START))
        if run.done == 0:
            self._write(0, summary=Summary(value=[_text("settings", _code(run.settings)), _text("commit", run.commit or "unknown")]))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]))

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        self._write(step, summary=Summary(value=[_text(name, "\n".join(_markdown(rows)))]))

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.add_event(Event(step=step, wall_time=time.time(), **content))
        self._writer.flush()


def _wait_for_a_later_name(folder: Path) -> None:
    """Until a new file's name comes after all others: TensorBoard reads them by name, which begins with the second that they are from."""
    newest = max((int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")), default=0)
    while int(time.time()) <= newest:
        time.sleep(0.02)


def _text(name: str, text: str) -> Any:
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]))
    return Summary.Value(tag=name, metadata=TEXT, tensor=tensor)


def _code(settings: Mapping[str, Any]) -> str:
    """Four spaces make a block of code in Markdown."""
    return "\n".join(f"    {line}" for line in json.dumps(settings, indent=2, default=str).splitlines())


def _markdown(rows: Sequence[TableRow]) -> Iterator[str]:
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{' --- |' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row.values())} |"


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
