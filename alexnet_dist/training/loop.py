"""The loop of a run: train step by step, log, save and evaluate, until the plan ends or a rank is asked to stop.

What all ranks must decide together they learn from the status sum, at the same step.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from alexnet_dist.distributed.control import Control, StopPoll
from alexnet_dist.errors import PermanentError, RunError, UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, mark_preempted
from alexnet_dist.runs.load import geometry_state
from alexnet_dist.training import step
from alexnet_dist.training.build import schedule_of
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.feed import Feed
from alexnet_dist.training.pipeline import FinishedStep, InFlightStep, StepPipeline
from alexnet_dist.training.resume import Start
from alexnet_dist.training.run_logger import Evaluation, RunLogger, StepRecord, decoded_ids
from alexnet_dist.training.schedule import after_evaluation, rates_at
from alexnet_dist.training.step import Engine

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Loop:
    """What the steps of a run need, open; stop_requested: whether this rank was asked to stop."""

    run: RunContext
    engine: Engine
    feed: Feed
    control: Control
    logger: RunLogger
    stop_requested: Callable[[], bool]

    def train(self, at: Start, after_launch: Callable[[], None]) -> None:
        """Train from a start until the plan ends or a rank was asked to stop; save when a checkpoint is due.

        after_launch: called when a step has been launched.
        """
        plan, schedule, stopping = self.run.plan, schedule_of(self.run.config), False
        pipeline = StepPipeline(self.finish_step, self.apply_status)
        if plan.evaluation_missing(at.step, at.evaluated_step):
            at, stopping = self.evaluate(at)
        while at.step < plan.steps and not stopping:
            rates = rates_at(schedule, at.progress, at.step, plan.steps_per_epoch)
            pending = step.train_step(self.engine, self.feed, at.step, rates)
            in_flight = InFlightStep(at.step + 1, rates.weights, pending, self.logger.time_s)
            after_launch()
            at = replace(at, step=at.step + 1)
            stopping = pipeline.launch(in_flight)
            evaluating = plan.is_evaluated_after(at.step)
            due = evaluating or at.step == plan.steps or at.step % self.run.config.run.save_every == 0
            if due or stopping:
                stopping |= pipeline.drain()
                # Before the evaluation, which may take longer than the grace period of whoever stops this run.
                self.save(at)
            if evaluating and not stopping:
                at, stopping = self.evaluate(at)
        if at.step < plan.steps or plan.evaluation_missing(at.step, at.evaluated_step):
            if self.run.topology.is_rank0:
                mark_preempted(self.run.directory, at.step)
            self.logger.log(f"asked to stop: saved at step {at.step:,}; the same command resumes from there")
        else:
            self.logger.log(f"finished: {at.step:,} steps in {self.logger.time_s:,.0f} s")

    def count_once(self, value: float) -> float:
        """Return a value on one rank of each replica and 0 on the other, which computes the same loss."""
        return value if 0 in self.run.topology.towers else 0.0

    def finish_step(self, in_flight: InFlightStep) -> FinishedStep:
        """Wait for a step's end, count it, and begin to sum its status over all ranks."""
        report = in_flight.pending.read()
        # On CUDA the step ends only now.
        time_s = self.logger.time_s if self.run.topology.device.type == "cuda" else in_flight.time_s
        status = self.control.post(
            [float(self.stop_requested()), self.count_once(report.loss), self.count_once(report.wrong)]
        )
        self.logger.log_step(in_flight.step, report)
        if self.run.config.run.record_samples:
            ids = decoded_ids(report, self.run.topology.towers)
            self.logger.log_samples(in_flight.step, self.control.gather(ids))
        self.logger.log_bad_samples(self.feed.take_bad())
        return FinishedStep(StepRecord(in_flight.step, in_flight.learning_rate, report, time_s), status)

    def apply_status(self, finished: FinishedStep) -> bool:
        """Read a step's status on every rank and return whether to stop; UserError if the loss is not finite."""
        stop_requests, loss, wrong = self.control.wait(finished.status)
        record = finished.record
        if not math.isfinite(loss):
            self.logger.log_divergence()
            raise self.divergence(
                f"step {record.step}: the loss is {loss} at a learning rate of {record.learning_rate:g}"
            )
        self.logger.log_loss(record, loss, wrong / self.run.plan.global_batch)
        return stop_requests > 0

    def divergence(self, symptom: str) -> UserError:
        """Return the error that ends a run whose numbers are not finite."""
        return UserError(
            f"{symptom}: training has diverged; lower optim.learning_rate and start again; if it ends in the same way"
            f" again, first remove the newest of {self.run.directory / CHECKPOINTS}: it was saved too late"
        )

    def evaluate(self, at: Start) -> tuple[Start, bool]:
        """Evaluate the whole validation set, each image once, update the schedule's state, and save it.

        Return where the run stands and whether to stop. A signal ends the evaluation; the next start repeats it.
        """
        plan, began_s = self.run.plan, time.monotonic()
        stop_poll = StopPoll(self.control, self.stop_requested)
        steps = plan.validation_steps(self.run.topology.replicas)
        sums = step.validate(self.engine, self.feed, steps, stop_poll)
        self.logger.log_bad_samples(self.feed.take_bad())
        stopping = stop_poll.drain()
        if sums is None:
            return at, True
        loss, top1, top5, images = self.control.sums([self.count_once(value) for value in sums.tolist()])
        if images != plan.validation_images:
            raise PermanentError(
                f"validation saw {images:.0f} images of {plan.validation_images}: a bug in alexnet_dist"
            )
        if not math.isfinite(loss):
            raise self.divergence(f"validation after step {at.step}: the loss is {loss}")
        top5_error = top5 / images if self.run.config.model.classes > 5 else None
        evaluation = Evaluation(loss / images, top1 / images, top5_error)
        self.logger.log_evaluation(at.step, evaluation, time.monotonic() - began_s)
        progress = after_evaluation(
            schedule_of(self.run.config), at.progress, evaluation.top1_error, at.step, plan.steps_per_epoch
        )
        at = replace(at, evaluated_step=at.step, progress=progress)
        self.commit(at)
        return at, stopping

    def save(self, at: Start) -> None:
        """Write the checkpoint of a completed step: replica 0's towers, then, when both are durable, the manifest."""
        began_s = time.monotonic()
        not_finite = 0
        if self.run.topology.replica == 0:
            for tower in self.engine.weights:
                tensors = self.engine.state(tower)
                not_finite += sum(not bool(tensor.isfinite().all()) for tensor in tensors.values())
                with self.write_error_as_run_error(at.step):
                    checkpoint.write_tower(self.run.directory / CHECKPOINTS, at.step, tower, tensors)
        if self.control.sums([not_finite])[0]:
            raise self.divergence(f"after step {at.step} there are weights or velocities that are not finite")
        self.commit(at)
        self.logger.log_checkpoint(time.monotonic() - began_s)

    def commit(self, at: Start) -> None:
        """Write the manifest of a checkpoint whose towers are durable (rank 0 only), and again after its evaluation."""
        if self.run.topology.is_rank0:
            state = {
                **replace(at, time_s=self.logger.time_s).state(),
                "geometry": geometry_state(self.run.net),
                "position": self.run.position(at.step),
            }
            with self.write_error_as_run_error(at.step):
                checkpoint.commit(
                    self.run.directory / CHECKPOINTS, at.step, state, self.run.config.run.keep, self.run.net.towers
                )

    @contextmanager
    def write_error_as_run_error(self, number: int) -> Iterator[None]:
        """Turn an OSError while the checkpoint of a step is written into RunError, a full disk into PermanentError."""
        try:
            yield
        except OSError as error:
            home = self.run.directory / CHECKPOINTS
            kind = PermanentError if error.errno in NO_SPACE else RunError
            raise kind(f"{home}: checkpoint of step {number} not written: {error.strerror}") from None
