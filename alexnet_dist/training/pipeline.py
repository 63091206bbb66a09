"""Steps in flight: launched, then finished, then their status applied, each one step after the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from alexnet_dist.distributed.status_sum import PendingSum
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.run_logger import StepRecord
from alexnet_dist.training.step import PendingStep

Launched = TypeVar("Launched")
Finished = TypeVar("Finished")


@dataclass(frozen=True)
class InFlightStep:
    """A launched step: its number, its learning rates, and the training seconds when all of it was launched."""

    step: int
    rates: Rates
    pending: PendingStep
    time_s: float


@dataclass(frozen=True)
class FinishedStep:
    """A finished step whose status is being summed over all ranks."""

    record: StepRecord
    status: PendingSum


class StepPipeline(Generic[Launched, Finished]):
    """Finishes step n after n + 1 was launched, to keep the GPU busy, and applies its status one step later still.

    Every rank calls `launch` and `drain` at the same steps, so all of them finish steps and apply statuses in one
    order, and stop at the same step.
    """

    def __init__(self, finish: Callable[[Launched], Finished], apply_status: Callable[[Finished], bool]) -> None:
        """Take what finishes a launched step, and what applies a finished step's status and returns whether to stop."""
        self._finish, self._apply_status = finish, apply_status
        self._launched: deque[Launched] = deque()
        self._finished: deque[Finished] = deque()

    def launch(self, step: Launched) -> bool:
        """Add a step that was just launched, finish the one before it, and return whether to stop."""
        self._launched.append(step)
        return self._advance(depth=1)

    def drain(self) -> bool:
        """Finish every step and apply every status, as before anything is saved; return whether to stop."""
        return self._advance(depth=0)

    def abandon(self) -> list[Finished]:
        """Finish every step and return those whose status was not applied: nothing is in flight afterwards."""
        while self._launched:
            self._finished.append(self._finish(self._launched.popleft()))
        finished = list(self._finished)
        self._finished.clear()
        return finished

    def _advance(self, depth: int) -> bool:
        """Keep at most `depth` launched and `depth` finished steps; return whether any status asks to stop."""
        stopping = False
        while len(self._launched) > depth:
            self._finished.append(self._finish(self._launched.popleft()))
        while len(self._finished) > depth:
            stopping |= self._apply_status(self._finished.popleft())
        return stopping
