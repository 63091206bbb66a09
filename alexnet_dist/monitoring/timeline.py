"""When things happened on a rank, noted without waiting for its device and read late.

On a CPU a moment is the host's clock. On CUDA it is an event on the stream that computes: the host runs ahead of the
device, so its own clock would tell when work was ordered, and a wait that the stream never stood still for would count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch.profiler import record_function

PHASES = ("data_wait", "forward", "link_wait", "backward", "allreduce_wait", "optimizer", "other")
DATA_WAIT, LINK_WAIT, ALLREDUCE_WAIT = "data_wait", "link_wait", "allreduce_wait"


Moment = float | torch.cuda.Event


def now(device: torch.device) -> Moment:
    """Return this moment on a device; on CUDA, the one at which it gets here."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def seconds(first: Moment, last: Moment) -> float:
    """Return the seconds between two moments of one device; waits until it has passed the last."""
    if isinstance(first, float) or isinstance(last, float):
        assert isinstance(first, float)
        assert isinstance(last, float)
        return last - first
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


@dataclass(frozen=True)
class Wait:
    """Time for which a rank stood still: in which lap, of which phase, for what (a join's name), from when to when."""

    lap: int
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
    """What happened between two cuts of a timeline; bytes crossed the link to the other tower."""

    began: Moment
    laps: tuple[tuple[str, Moment], ...]
    waits: tuple[Wait, ...]
    sent_bytes: int
    received_bytes: int

    def read(self) -> Times:
        """Return where the time went; on CUDA this waits until the device has come to the last lap's end."""
        phase_s, join_wait_s = dict.fromkeys(PHASES, 0.0), dict[str, float]()
        before, step_s = self.began, 0.0
        for phase, ended in self.laps:
            lap_s = seconds(before, ended)
            phase_s[phase] += lap_s
            step_s += lap_s
            before = ended
        for wait in self.waits:
            wait_s = seconds(wait.began, wait.ended)
            phase_s[self.laps[wait.lap][0]] -= wait_s
            phase_s[wait.phase] += wait_s
            if wait.phase == LINK_WAIT:
                join_wait_s[wait.what] = join_wait_s.get(wait.what, 0.0) + wait_s
        return Times(step_s, phase_s, join_wait_s)


@dataclass
class Timeline:
    """One rank's notes since the last cut: laps of the step, the waits in them, bytes over the link."""

    device: torch.device
    sent_bytes: int = 0
    received_bytes: int = 0
    _laps: list[tuple[str, Moment]] = field(default_factory=list)
    _waits: list[Wait] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin."""
        self._began = now(self.device)

    def lap(self, phase: str) -> None:
        """Say that the time since the last lap, but for the waits in it, was of this phase."""
        self._laps.append((phase, now(self.device)))

    @contextmanager
    def wait(self, phase: str, what: str) -> Iterator[None]:
        """Note a wait of this rank; LostRankError, naming `what`, where another rank did not answer."""
        began = now(self.device)
        with region(f"wait: {what}"), lost_rank_at(what):
            yield
        self._waits.append(Wait(len(self._laps), phase, what, began, now(self.device)))

    def cut(self) -> StepTrace:
        """Return what happened since the last cut, and begin anew."""
        stretch = StepTrace(self._began, tuple(self._laps), tuple(self._waits), self.sent_bytes, self.received_bytes)
        self.sent_bytes = self.received_bytes = 0
        self._laps, self._waits, self._began = [], [], now(self.device)
        return stretch


def region(name: str) -> AbstractContextManager[object]:
    """Name what happens inside to a profiler, where one is watching: to record it costs 30 us, watched or not."""
    return record_function(name) if torch._C._autograd._profiler_enabled() else nullcontext()
