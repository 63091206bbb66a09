"""Faults for tests: what a rank does to itself at a given step and phase. No run of a user has any."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.timeline import PHASES, Timeline
from alexnet_dist.training.feed import Batch, Feed

LOAD, SAVE = "load", "save"  # a batch has come; a tower's file is about to be written
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
NAN = "nan"  # the images of the batch become not a number, whenever it is loaded
SLEEP = "sleep"  # each forward pass takes so many seconds longer, from this step on
PHASE_OF = {NAN: LOAD, SLEEP: "forward"}
EXAMPLE = "rank=2,step=7,phase=forward,kind=kill"
SLEEP_EXAMPLE = "rank=2,step=7,phase=forward,kind=sleep,seconds=0.1"


@dataclass(frozen=True)
class Fault:
    """One fault. step: the first is 1. phase: LOAD, SAVE or one of the timeline's PHASES. kind: kill, stop, nan, sleep.

    seconds: of a sleep, otherwise 0. A wait for data belongs to the step in which it happens, though it is for the
    samples of the next one.
    """

    rank: int
    step: int
    phase: str
    kind: str
    seconds: float = 0.0


def parse_fault(text: str) -> Fault:
    """Return the fault that a text such as EXAMPLE describes; UserError if it describes none."""
    values = dict(part.partition("=")[::2] for part in text.split(","))
    phases = (LOAD, *PHASES, SAVE)
    kinds = (*SIGNALS, *PHASE_OF)
    example = SLEEP_EXAMPLE if values.get("kind") == SLEEP else EXAMPLE
    if set(values) != {part.partition("=")[0] for part in example.split(",")}:
        raise UserError(f"--unsafe-fault: {text!r}; expected such as {example}")
    if not (values["rank"].isdecimal() and values["step"].isdecimal()):
        raise UserError(f"--unsafe-fault: {text!r}: rank and step are whole numbers, such as in {example}")
    if values["phase"] not in phases or values["kind"] not in kinds:
        raise UserError(
            f"--unsafe-fault: {text!r}; expected a phase of {', '.join(phases)} and a kind of {', '.join(kinds)}"
        )
    if values["phase"] != (phase := PHASE_OF.get(values["kind"], values["phase"])):
        raise UserError(f"--unsafe-fault: {text!r}: {values['kind']} is a fault of phase={phase}")
    seconds = values.get("seconds", "0")
    if not re.fullmatch(r"\d+(\.\d+)?", seconds):
        raise UserError(f"--unsafe-fault: {text!r}: seconds is a number, such as in {example}")
    return Fault(int(values["rank"]), int(values["step"]), values["phase"], values["kind"], float(seconds))


@dataclass(frozen=True)
class Injector:
    """The faults of one rank; a file in the run directory keeps one that has ended the rank from recurring."""

    faults: Sequence[Fault]
    directory: Path

    def strike(self, step: int, phase: str) -> None:
        """End or stop this process if there is a fault here that was not yet."""
        for fault in self.faults:
            if (fault.step, fault.phase) == (step, phase) and fault.kind in SIGNALS and self._claim(fault):
                os.kill(os.getpid(), SIGNALS[fault.kind])

    def poisons(self, step: int) -> bool:
        """Return whether the batch of a step is poisoned."""
        return any((fault.step, fault.kind) == (step, NAN) for fault in self.faults)

    def delay_s(self, step: int, phase: str) -> float:
        """Return how many seconds longer a phase of a step takes."""
        sleeps = (fault for fault in self.faults if fault.kind == SLEEP and fault.phase == phase)
        return sum(fault.seconds for fault in sleeps if fault.step <= step)

    def _claim(self, fault: Fault) -> bool:
        path = self.directory / f".fault-{fault.rank}-{fault.step}-{fault.phase}-{fault.kind}"
        try:
            path.open("x").close()
        except FileExistsError:
            return False
        return True


@dataclass
class FaultyTimeline(Timeline):
    """A timeline that strikes when a wait begins or another phase has ended; step: the one that is trained.

    A sleep is at the end of its phase, and part of it.
    """

    injector: Injector = field(kw_only=True)
    step: int = 0

    def mark(self, phase: str) -> None:
        """Sleep, record the end of a phase, and strike."""
        time.sleep(self.injector.delay_s(self.step, phase))
        super().mark(phase)
        self.injector.strike(self.step, phase)

    @contextmanager
    def wait(self, phase: str, what: str) -> Iterator[None]:
        """Strike, then record a wait."""
        self.injector.strike(self.step, phase)
        with super().wait(phase, what):
            yield


class FaultyFeed(Feed):
    """A feed that tells the timeline which step is trained, and poisons batches."""

    def take(self) -> Batch:
        """Return the next batch, if this rank still exists."""
        batch, timeline = super().take(), self._timeline
        if batch.spec.train and isinstance(timeline, FaultyTimeline):
            timeline.step = batch.spec.step + 1
            timeline.injector.strike(timeline.step, LOAD)
            if timeline.injector.poisons(timeline.step):
                batch.images.mul_(float("nan"))
        return batch
