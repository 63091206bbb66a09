"""When things happened on a rank, recorded without waiting for its device and read later.

On a CPU a moment is the host's clock. On CUDA it is an event on the computing stream: the host runs ahead of the
device, so its own clock would measure when work was launched, and would count waits for which the stream never stood
still.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch.profiler import record_function

# graph: forward, backward and update of a step that is one CUDA graph, inside which no moment is recorded.
PHASES = ("data_wait", "forward", "link_wait", "backward", "allreduce_wait", "optimizer", "graph", "other")
DATA_WAIT, LINK_WAIT, ALLREDUCE_WAIT, GRAPH = "data_wait", "link_wait", "allreduce_wait", "graph"

Moment = float | torch.cuda.Event


def now(device: torch.device) -> Moment:
    """Return this moment on a device; on CUDA, the moment at which the device reaches this point."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def seconds(first: Moment, last: Moment) -> float:
    """Return the seconds between two moments of one device; waits until the device has passed the last."""
    if isinstance(first, float) or isinstance(last, float):
        assert isinstance(first, float)
        assert isinstance(last, float)
        return last - first
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


@dataclass(frozen=True)
class Wait:
    """Time for which a rank stood still.

    interval: the index of the interval between two marks that it falls into. phase: its own phase. what: what it waited
    for, such as a join's name.
    """

    interval: int
    phase: str
    what: str
    began: Moment
    ended: Moment


@dataclass(frozen=True)
class Times:
    """Where the time of a step went.

    phase_s: seconds by phase, keys of PHASES; they add up to step_s. join_wait_s: seconds of link_wait, by join.
    """

    step_s: float
    phase_s: Mapping[str, float]
    join_wait_s: Mapping[str, float]


@dataclass(frozen=True)
class StepTrace:
    """What a timeline recorded since it was last taken: the marks, the waits, and the bytes that crossed the link."""

    began: Moment
    marks: tuple[tuple[str, Moment], ...]
    waits: tuple[Wait, ...]
    sent_bytes: int
    received_bytes: int

    def read(self) -> Times:
        """Return where the time went; on CUDA this waits until the device has reached the last mark."""
        phase_s, join_wait_s = dict.fromkeys(PHASES, 0.0), dict[str, float]()
        previous, step_s = self.began, 0.0
        for phase, moment in self.marks:
            interval_s = seconds(previous, moment)
            phase_s[phase] += interval_s
            step_s += interval_s
            previous = moment
        for wait in self.waits:
            wait_s = seconds(wait.began, wait.ended)
            phase_s[self.marks[wait.interval][0]] -= wait_s
            phase_s[wait.phase] += wait_s
            if wait.phase == LINK_WAIT:
                join_wait_s[wait.what] = join_wait_s.get(wait.what, 0.0) + wait_s
        return Times(step_s, phase_s, join_wait_s)


@dataclass
class Timeline:
    """What one rank records while a step runs: marks between phases, waits, bytes over the link."""

    device: torch.device
    sent_bytes: int = 0
    received_bytes: int = 0
    _marks: list[tuple[str, Moment]] = field(default_factory=list)
    _waits: list[Wait] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin to record."""
        self._began = now(self.device)

    def mark(self, phase: str) -> None:
        """Attribute the time since the previous mark, without the waits in it, to this phase."""
        self._marks.append((phase, now(self.device)))

    @contextmanager
    def wait(self, phase: str, what: str) -> Iterator[None]:
        """Record what happens inside as a wait of this rank for `what`."""
        began = now(self.device)
        with region(f"wait: {what}"):
            yield
        self._waits.append(Wait(len(self._marks), phase, what, began, now(self.device)))

    def take(self) -> StepTrace:
        """Return what was recorded since the last call, and begin again."""
        trace = StepTrace(self._began, tuple(self._marks), tuple(self._waits), self.sent_bytes, self.received_bytes)
        self.sent_bytes = self.received_bytes = 0
        self._marks, self._waits, self._began = [], [], now(self.device)
        return trace


def region(name: str) -> AbstractContextManager[object]:
    """Name what happens inside for a profiler, if one is running: a record costs 30 us even if nothing reads it."""
    return record_function(name) if torch._C._autograd._profiler_enabled() else nullcontext()
