"""What a run's directory says of it: curves, speed, and what happened to it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Manifest, manifest_path
from alexnet_dist.errors import UserError
from alexnet_dist.figures.curves import Record, read_record
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import (
    CHECKPOINTS,
    CONFIG,
    LOCK,
    METRICS,
    POST_MORTEM,
    PREEMPTED,
    RANKS,
    SKIPPED,
    STARTS,
    read_lines,
)

Line = Mapping[str, Any]
Points = list[tuple[float, float]]

MOST_CHARACTERS = 20_000  # of a post-mortem, whose page is short


@dataclass(frozen=True)
class Event:
    """Something that happened to a run: what, and the text of its record, which may have several lines."""

    title: str
    text: str


@dataclass(frozen=True)
class History:
    """A run as its directory records it.

    manifest: of the training set; None if the run has not kept it. times: what happened when, as far as files tell.
    process: which process of which node wrote it last. unchanged: steps up to the newest checkpoint that have changed
    no weight, because their numbers were not finite; None if that is not known. starts: the lines of starts.jsonl.
    ends: those of ranks.jsonl, of each rank at the end of a start.
    """

    directory: Path
    record: Record
    config: Config
    manifest: Manifest | None
    times: Sequence[tuple[str, str]]
    process: str
    events: Sequence[Event]
    unchanged: int | None
    starts: Sequence[Line]
    ends: Sequence[Line]

    @property
    def name(self) -> str:
        """The name of the run among those that are shown."""
        return self.record.name

    @property
    def planned_epochs(self) -> int:
        """The epochs after which the run ends."""
        return self.config.run.epochs


def read_history(directory: Path, name: str) -> History:
    """Read a run, live or finished. Raises UserError if the directory is not a run or a record cannot be read."""
    if directory.is_file():
        raise UserError(f"{directory}: a file, not a run; expected the run.directory of a training")
    record = read_record(directory, name)
    known = manifest_path(directory, "train")
    lock = directory / LOCK
    return History(
        directory,
        record,
        configs.load([directory / CONFIG], []).config,
        manifest.load(known) if known.exists() else None,
        list(_times(directory)),
        _text(lock).strip() if lock.exists() else "",
        list(_events(directory)),
        _unchanged(directory),
        read_lines(directory / STARTS),
        read_lines(directory / RANKS),
    )


def points(lines: Sequence[Line], key: str) -> Points:
    """Return the (epoch, value) of the lines that have a finite number under a key."""
    found = [(float(line["epoch"]), number(line, key)) for line in lines]
    return [(epoch, value) for epoch, value in found if math.isfinite(epoch) and math.isfinite(value)]


def number(line: Line, key: str) -> float:
    """Return a number of a line, NaN if it has none."""
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def images_per_s(steps: Sequence[Line], evaluations: Sequence[Line]) -> Points:
    """Return (epoch, images per second of training) for each interval between two lines of metrics.

    An evaluation is no slow step: an interval that begins with one is measured from the evaluation's end. One with an
    evaluation inside is measured by the duration of its last step alone.
    """
    ends: dict[int, list[tuple[int, float]]] = {}
    logged = [int(number(line, "step")) if math.isfinite(number(line, "step")) else -1 for line in steps]
    position = 0
    for step, time_s in sorted((number(line, "step"), number(line, "time_s")) for line in evaluations):
        while position < len(logged) and logged[position] <= step:
            position += 1
        ends.setdefault(position, []).append((int(step) if math.isfinite(step) else -1, time_s))
    found: Points = []
    for index in range(1, len(steps)):
        before, after = steps[index - 1], steps[index]
        began_s, images = number(before, "time_s"), number(after, "images") - number(before, "images")
        seconds = number(after, "time_s") - began_s
        if inside := ends.get(index):
            if all(step == logged[index - 1] for step, _ in inside):
                seconds = number(after, "time_s") - max(time_s for _, time_s in inside)
            else:
                images /= max(1, logged[index] - logged[index - 1])
                seconds = number(after, "step_s")
        rate = images / seconds if seconds > 0 else math.nan
        if math.isfinite(rate) and rate > 0:
            found.append((float(after["epoch"]), rate))
    return found


def data_wait_share(steps: Sequence[Line]) -> float | None:
    """Return the share of the logged steps' duration for which rank 0 waited for samples; None without durations."""
    pairs = [(number(line, "data_wait_s"), number(line, "step_s")) for line in steps]
    known = [(wait, step) for wait, step in pairs if math.isfinite(wait) and math.isfinite(step) and step > 0]
    total = sum(step for _, step in known)
    return min(1.0, max(0.0, sum(wait for wait, _ in known) / total)) if total else None


def typical_rate(history: History) -> float | None:
    """Return the median of a run's images per second; None if they are not known."""
    rates = [rate for _, rate in images_per_s(history.record.steps, history.record.evaluations)]
    return median(rates) if rates else None


def best_evaluation(history: History) -> Line | None:
    """Return the evaluation with the lowest top-1 error, the first of equals; None if there is none."""
    return min(history.record.evaluations, key=lambda line: float(line["top1_error"]), default=None)


def _times(directory: Path) -> Iterator[tuple[str, str]]:
    named = [("last start", directory / CONFIG), ("last line of metrics", directory / METRICS)]
    saved = checkpoint.finished_steps(directory / CHECKPOINTS)
    if saved:
        home = checkpoint.step_directory(directory / CHECKPOINTS, max(saved))
        named.append((f"newest checkpoint, step {max(saved):,}", home / checkpoint.MANIFEST))
    for title, path in named:
        try:
            when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError:  # there is none yet, or the run has deleted it
            continue
        yield title, f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _events(directory: Path) -> Iterator[Event]:
    for name, title in ((PREEMPTED, "Asked to stop, and saved"), (POST_MORTEM, "The last error in training")):
        if (directory / name).exists():
            yield Event(title, _text(directory / name))
    for line in read_lines(directory / SKIPPED):
        steps = line.get("steps")
        listed = ", ".join(map(str, steps)) if isinstance(steps, list) else str(steps)
        yield Event("Batches left out after a rollback", f"steps {listed}: {line.get('reason', 'no reason recorded')}")
    damaged = sorted(path.name for path in (directory / CHECKPOINTS).glob(f"*{checkpoint.DAMAGED}*"))
    if damaged:
        yield Event("Checkpoints that did not verify, set aside", "\n".join(damaged))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")[:MOST_CHARACTERS]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a text file") from None


def _unchanged(directory: Path) -> int | None:
    """Return how many steps changed no weight, as the newest readable checkpoint says."""
    home = directory / CHECKPOINTS
    for step in sorted(checkpoint.finished_steps(home), reverse=True):
        try:
            state = json.loads((checkpoint.step_directory(home, step) / checkpoint.MANIFEST).read_text("utf-8"))
            return int(state["unchanged"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None
