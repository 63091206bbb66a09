"""The loop of a run: step by step train, tell, save and evaluate, until it is over or somebody asks it to stop.

What all ranks must decide alike they learn from the control word, at the same step.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_dist import config, process
from alexnet_dist.config import Config
from alexnet_dist.distributed.control import Control, PendingSum
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training import optim, step
from alexnet_dist.training.build import schedule_of
from alexnet_dist.training.feed import Feed
from alexnet_dist.training.resume import Start
from alexnet_dist.training.run_logger import Evaluation, RunLogger, StepRecord
from alexnet_dist.training.run_plan import RunPlan
from alexnet_dist.training.step import Engine, PendingStep


@dataclass(frozen=True)
class InFlightStep:
    """A step that was ordered: its number, the rate it uses, and the training seconds when all of it was ordered."""

    step: int
    rate: float
    started: PendingStep
    time_s: float


class StopPoll:
    """Whether any rank was asked to stop, put to all ranks at each call and known one call later."""

    def __init__(self, control: Control, stop: process.StopRequest) -> None:
        """Take the line to all ranks and this rank's own answer."""
        self._control, self._stop = control, stop
        self._words: deque[PendingSum] = deque()

    def __call__(self) -> bool:
        """Put the question once more and return the answer to the one before; the same on every rank."""
        self._words.append(self._control.post([float(bool(self._stop))]))
        return len(self._words) > 1 and self._control.wait(self._words.popleft())[0] > 0

    def end(self) -> bool:
        """Return the answer to the last question."""
        return any(self._control.wait(self._words.popleft())[0] > 0 for _ in range(len(self._words)))


@dataclass(frozen=True)
class Loop:
    """What the steps of a run need, open."""

    settings: Config
    place: Topology
    programme: RunPlan
    position: dict[str, int | str]
    trainer: Engine
    feed: Feed
    control: Control
    journal: RunLogger
    stop: process.StopRequest

    def go(self, at: Start, after_step: Callable[[], None]) -> None:
        """Step until the programme is over or a rank was asked to stop; save where it is due.

        after_step: called when a step has been ordered.
        """
        schedule, stopping = schedule_of(self.settings), False
        if self.programme.owes_evaluation(at.step, at.evaluated_step):
            at, stopping = self.evaluate(at)
        started: deque[InFlightStep] = deque()
        words: deque[tuple[StepRecord, PendingSum]] = deque()
        while at.step < self.programme.steps and not stopping:
            rate = optim.learning_rate(schedule, at.progress, at.step, self.programme.steps_per_epoch)
            ordered = step.train_step(self.trainer, self.feed, at.step, rate)
            started.append(InFlightStep(at.step + 1, rate, ordered, self.journal.time_s))
            after_step()
            at = replace(at, step=at.step + 1)
            evaluating = self.programme.is_evaluated_after(at.step)
            due = evaluating or at.step == self.programme.steps or at.step % self.settings.run.save_every == 0
            # A step is read when the next one has been ordered, so that a GPU always has work before it, and its word
            # is waited for one step later still; both at once where the outcome is about to be made durable.
            while started and (due or len(started) > 1):
                words.append(self.tell(started.popleft()))
            while words and (due or len(words) > 1):
                stopping |= self.settle(*words.popleft())
            while stopping and (started or words):
                if started:
                    words.append(self.tell(started.popleft()))
                self.settle(*words.popleft())
            # Before the evaluation, which may take longer than whoever stops this run will wait.
            if due or stopping:
                self.save(at)
            if evaluating and not stopping:
                at, stopping = self.evaluate(at)
        if at.step < self.programme.steps or self.programme.owes_evaluation(at.step, at.evaluated_step):
            if self.place.is_rank0:
                (self.directory / run_directory.PREEMPTED).write_text(f"stopped and saved at step {at.step}\n")
            self.journal.say(f"asked to stop: saved at step {at.step:,}; the same command goes on from there")
        else:
            self.journal.say(f"finished: {at.step:,} steps in {self.journal.time_s:,.0f} s")

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return Path(self.settings.run.directory)

    def once(self, value: float) -> float:
        """Return a value on the rank that speaks for its replica, 0 on the other, which computes the same loss."""
        return value if 0 in self.place.towers else 0.0

    def tell(self, ordered: InFlightStep) -> tuple[StepRecord, PendingSum]:
        """Wait for a step's end, count it, and begin to share what all ranks must know of it."""
        report = ordered.started.read()
        # On CUDA the step is over only now.
        time_s = self.journal.time_s if self.place.device.type == "cuda" else ordered.time_s
        told = StepRecord(ordered.step, ordered.rate, report, time_s)
        word = self.control.post([float(bool(self.stop)), self.once(report.loss), self.once(report.wrong)])
        self.journal.stepped(ordered.step, report)
        self.journal.replaced(self.feed.take_bad())
        self.journal.sampled(ordered.step, report.tasks, [self.feed.own_rows(task) for task in report.tasks])
        return told, word

    def settle(self, told: StepRecord, word: PendingSum) -> bool:
        """Take in a step's word on every rank and return whether to stop; UserError where the loss is not finite."""
        asked, loss, wrong = self.control.wait(word)
        if not math.isfinite(loss):
            self.journal.diverged()
            raise self.diverged(f"step {told.step}: the loss is {loss} at a learning rate of {told.rate:g}")
        self.journal.logged(told, loss, wrong / self.programme.global_batch)
        return asked > 0

    def diverged(self, found: str) -> UserError:
        """Return the end of a run whose numbers are not finite."""
        return UserError(
            f"{found}: training has diverged; lower optim.learning_rate and start again; where that ends in the same"
            f" way, remove the newest of {self.directory / run_directory.CHECKPOINTS} first: it was saved too late"
        )

    def evaluate(self, at: Start) -> tuple[Start, bool]:
        """Evaluate the whole validation set, each image once, let the schedule see the error, and save what it now is.

        Return where the run stands and whether to stop. A signal ends the evaluation; it is then still owed.
        """
        began_s = time.monotonic()
        vote = StopPoll(self.control, self.stop)
        batches = self.programme.validation_steps(self.place.replicas)
        sums = step.validate(self.trainer, self.feed, batches, vote)
        self.journal.replaced(self.feed.take_bad())
        stopping = vote.end()
        if sums is None:
            return at, True
        loss, top1, top5, images = self.control.sums([self.once(value) for value in sums.tolist()])
        if images != self.programme.validation_images:
            raise RunError(f"validation saw {images:.0f} images of {self.programme.validation_images}: a fault of ours")
        if not math.isfinite(loss):
            raise self.diverged(f"validation after step {at.step}: the loss is {loss}")
        top5_error = top5 / images if self.settings.model.classes > 5 else None
        found = Evaluation(loss / images, top1 / images, top5_error)
        self.journal.evaluated(at.step, found, time.monotonic() - began_s)
        progress = optim.after_evaluation(
            schedule_of(self.settings), at.progress, top1 / images, at.step, self.programme.steps_per_epoch
        )
        at = replace(at, evaluated_step=at.step, progress=progress)
        self.commit(at)
        return at, stopping

    def save(self, at: Start) -> None:
        """Write the checkpoint of a completed step: replica 0's towers, then, when both are durable, the manifest."""
        began_s = time.monotonic()
        ruined = 0
        if self.place.replica == 0:
            for tower in self.place.towers:
                tensors = self.trainer.state(tower)
                ruined += sum(not bool(tensor.isfinite().all()) for tensor in tensors.values())
                with self.writing(at.step):
                    checkpoint.write_tower(self.directory / run_directory.CHECKPOINTS, at.step, tower, tensors)
        if self.control.sums([ruined])[0]:
            raise self.diverged(f"after step {at.step} there are weights or velocities that are not finite")
        self.commit(at)
        self.journal.saved(time.monotonic() - began_s)

    def commit(self, at: Start) -> None:
        """Write the manifest of a checkpoint whose towers are there (chief only), anew after its evaluation."""
        if self.place.is_rank0:
            state = {
                **replace(at, time_s=self.journal.time_s).state(),
                "geometry": run_directory.geometry_state(config.geometry(self.settings)),
                "position": {**self.position, "step": at.step},
            }
            with self.writing(at.step):
                checkpoint.commit(self.directory / run_directory.CHECKPOINTS, at.step, state, self.settings.run.keep)

    @contextmanager
    def writing(self, number: int) -> Iterator[None]:
        """Turn what keeps the checkpoint of a step from being written into RunError."""
        try:
            yield
        except OSError as problem:
            home = self.directory / run_directory.CHECKPOINTS
            raise RunError(f"{home}: checkpoint of step {number} not written: {problem.strerror}") from None
