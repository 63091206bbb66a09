"""TensorBoard event files of a run, written by rank 0: what is in metrics.jsonl and evaluations.jsonl, as scalars.

RUN/tensorboard/train and RUN/tensorboard/validation are two runs for TensorBoard, so that a chart shows both losses.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.runs.records import append_whole
from alexnet_dist.system.resources import host_name

FOLDER, TRAIN, VALIDATION = "tensorboard", "train", "validation"
VERSION = "brain.Event:2"  # of the file's format


def check_installed() -> None:
    """Raise UserError if the package is missing that defines the format."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "run.tensorboard: true, but the package tensorboard is not installed;"
            " pip install 'alexnet_dist[tensorboard]', or set run.tensorboard=false"
        )


class EventFile:
    """The event file of one start. A point is in the file when it is logged; one that finds no room is left out."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a file in a folder; what earlier files of the folder have after a step is void."""
        # They import protobuf: other runs start without it.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = Event, Summary, RecordWriter
        # TensorBoard reads the files of a folder in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.{host_name()}"
        self._is_full = False
        with suppress(OSError):  # appending to it says so
            folder.mkdir(parents=True, exist_ok=True)
        begin = SessionLog(status=SessionLog.START)
        self._append(Event(file_version=VERSION), Event(step=step + 1, session_log=begin))

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Append the values of a step by tag, without those that are None."""
        points = [
            self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None
        ]
        self._append(self._event(step=step, summary=self._summary(value=points)))

    def _append(self, *events: object) -> None:
        """Append events whole, or warn once that there is no room for them."""
        records = io.BytesIO()
        for event in events:
            event.wall_time = time.time()  # type: ignore[attr-defined]  # a protobuf message
            self._writer(records).write(event.SerializeToString())  # type: ignore[attr-defined]
        try:
            append_whole(self._path, records.getvalue())
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                print(f"warning: {self._path}: {error.strerror}; points are left out", file=sys.stderr, flush=True)
            self._is_full = True
