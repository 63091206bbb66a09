"""The loop of a run: train step by step, log, save and evaluate, until the plan ends or a rank is asked to stop.

What all ranks must decide together they learn from the status sum, at the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from alexnet_dist.distributed.control import Control, StopPoll
from alexnet_dist.errors import PermanentError, RollbackError, RunError, UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, mark_preempted, skip_batches
from alexnet_dist.runs.load import geometry_state
from alexnet_dist.system.wording import counted
from alexnet_dist.training import step
from alexnet_dist.training.build import schedule_of
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.feed import Feed
from alexnet_dist.training.graph import LaunchStep
from alexnet_dist.training.pipeline import FinishedStep, InFlightStep, StepPipeline
from alexnet_dist.training.resume import Start
from alexnet_dist.training.run_logger import Evaluation, RunLogger, StepRecord, decoded_ids
from alexnet_dist.training.saver import Saved, Saver
from alexnet_dist.training.schedule import after_evaluation, rates_at
from alexnet_dist.training.step import Engine


@dataclass(frozen=True)
class Loop:
    """What the steps of a run need, open.

    stop_requested: whether this rank was asked to stop. launch_step: as `step.train_step`.
    """

    run: RunContext
    engine: Engine
    feed: Feed
    control: Control
    logger: RunLogger
    saver: Saver
    stop_requested: Callable[[], bool]
    launch_step: LaunchStep

    def train(self, at: Start, after_launch: Callable[[], None]) -> bool:
        """Train from a start until the plan ends or a rank was asked to stop; return whether the plan has ended.

        Saves when a checkpoint is due. after_launch: called when a step has been launched.
        """
        pipeline = StepPipeline(self.finish_step, self.apply_status)
        try:
            at = self.train_steps(at, pipeline, after_launch)
        except RollbackError:
            for finished in pipeline.abandon():
                self.control.wait(finished.status)
            self.control.sums([0.0])  # no rank still waits for a message of this attempt
            raise
        if at.step < self.run.plan.steps or self.run.plan.evaluation_missing(at.step, at.evaluated_step):
            if self.run.topology.is_rank0:
                mark_preempted(self.run.directory, at.step)
            self.logger.log_end(f"asked to stop: saved at step {at.step:,}; the same command resumes from there")
            return False
        self.logger.log_end(f"finished: {counted(at.step, 'step')} in {self.logger.time_s:,.0f} s")
        return True

    def train_steps(
        self, at: Start, pipeline: StepPipeline[InFlightStep, FinishedStep], after_launch: Callable[[], None]
    ) -> Start:
        """Train, save and evaluate until the plan ends or a rank was asked to stop; return where the run stands."""
        plan, stopping = self.run.plan, False
        if plan.evaluation_missing(at.step, at.evaluated_step):
            at, stopping = self.evaluate(at)
        while at.step < plan.steps and not stopping:
            in_flight = self.launch(at)
            after_launch()
            at = replace(at, step=at.step + 1)
            if in_flight is None:
                self.logger.log_left_out(at.step)
            else:
                stopping = pipeline.launch(in_flight)
            evaluating = plan.is_evaluated_after(at.step)
            if self.is_due(at.step) or stopping or self.saver.is_retry(at.step):
                stopping |= pipeline.drain()
                # Before the evaluation, which may take longer than the grace period of whoever stops this run.
                self.save(at)
            if evaluating and not stopping:
                at, stopping = self.evaluate(at)
        self.apply_saved(self.saver.finish(), ending=True)
        if self.saver.failure is not None:
            self.end_unsaved(self.saver.failure)
        return at

    def launch(self, at: Start) -> InFlightStep | None:
        """Launch the step that follows a position; None if its batch is left out."""
        plan = self.run.plan
        if at.step in plan.skipped:
            return None
        rates = rates_at(schedule_of(self.run.config), at.progress, at.step, plan.steps_per_epoch)
        pending = self.launch_step(self.engine, self.feed, at.step, rates)
        return InFlightStep(at.step + 1, rates, pending, self.logger.time_s)

    def count_once(self, value: float) -> float:
        """Return a value on one rank of each replica and 0 on the other, which computes the same loss."""
        return value if 0 in self.run.topology.towers else 0.0

    def finish_step(self, in_flight: InFlightStep) -> FinishedStep:
        """Wait for a step's end, count it, and begin to sum its status over all ranks."""
        report = in_flight.pending.read()
        # On CUDA the step ends only now.
        time_s = self.logger.time_s if self.run.topology.device.type == "cuda" else in_flight.time_s
        sums = (report.loss, report.wrong, 0.0) if report.updated else (0.0, 0.0, 1.0)
        status = self.control.post([float(self.stop_requested()), *map(self.count_once, sums), *self.saver.status])
        self.logger.log_step(in_flight.step, report)
        if self.run.config.run.record_samples:
            ids = decoded_ids(report, self.run.topology.towers)
            self.logger.log_samples(in_flight.step, self.control.gather(ids))
        self.logger.log_bad_samples(self.feed.take_bad())
        return FinishedStep(StepRecord(in_flight.step, in_flight.rates, report, time_s), status)

    def apply_status(self, finished: FinishedStep) -> bool:
        """Read a step's status on every rank and return whether to stop; raise if its numbers have gone wrong."""
        stop_requests, loss, wrong, unchanged, *missing = self.control.wait(finished.status)
        self.apply_saved(self.saver.poll(*missing))
        record, limit = finished.record, self.run.config.run.max_skipped
        if unchanged:
            self.logger.log_unchanged(record.step)
            if self.logger.unchanged > limit:
                raise self.diverged(record.step, f"the gradients are not finite, after {limit} skipped steps")
        elif excess := self.excess(loss):
            raise self.diverged(record.step, f"{excess} at a learning rate of {record.rates.weights:g}")
        else:
            self.logger.log_loss(record, loss, wrong / self.run.plan.global_batch)
        return stop_requests > 0

    def excess(self, loss: float) -> str:
        """Return what is wrong with a mean loss: not finite, or above the limit; empty if it is neither."""
        limit = self.run.config.train.max_loss
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if loss <= limit:
            return ""
        return f"the loss is {loss:.4g}, above train.max_loss = {limit:g} (raise it if that is expected),"

    def diverged(self, steps: int, symptom: str) -> UserError | RollbackError:
        """Return what ends this attempt after so many steps: every rank raises it, at the same step.

        RollbackError if run.on_divergence asks for it and run.max_skipped allows it; the batch is then noted in the
        run directory.
        """
        self.logger.log_divergence()
        what, settings = f"step {steps}: {symptom}", self.run.config.run
        if settings.on_divergence == "rollback" and len(self.run.plan.skipped) < settings.max_skipped:
            new = self.control.run_on_rank0(lambda: self.note_skipped(steps, what))
            if new:
                named = " and ".join(str(number + 1) for number in new)
                return RollbackError(f"{what}: resuming from the last checkpoint without the batch of step {named}")
        return UserError(
            f"{what}: training has diverged; lower optim.learning_rate and start again; if it ends in the same way"
            f" again, first remove the newest of {self.run.directory / CHECKPOINTS}, which was saved too late, or the"
            " run directory if there is no older one"
        )

    def note_skipped(self, steps: int, reason: str) -> list[int]:
        """Write down and return the batches to leave out after so many steps (rank 0 only).

        They are the last one, and the one before it, whose update may have done it; but none from before the last
        checkpoint, whose weights are finite. Raises UserError if the file cannot be written.
        """
        self.saver.close()  # a checkpoint may become valid until then
        saved = max(checkpoint.finished_steps(self.run.directory / CHECKPOINTS), default=0)
        skipped = self.run.plan.skipped
        room = self.run.config.run.max_skipped - len(skipped)
        new = [number for number in (steps - 2, steps - 1) if number >= saved and number not in skipped][-room:]
        try:
            if new:
                skip_batches(self.run.directory, new, reason)
        except OSError as error:
            raise UserError(f"{self.run.directory}: the rollback is not noted: {error.strerror}") from None
        return new

    def evaluate(self, at: Start) -> tuple[Start, bool]:
        """Evaluate the whole validation set, each image once, update the schedule's state, and save it.

        Return where the run stands and whether to stop. A signal ends the evaluation; the next start repeats it.
        """
        plan, began_s = self.run.plan, time.monotonic()
        stop_poll = StopPoll(self.control, self.stop_requested)
        steps = plan.validation_steps(self.run.topology.replicas)
        with self.logger.evaluating(steps, stop_poll) as poll:
            sums = step.validate(self.engine, self.feed, steps, poll)
        self.logger.log_bad_samples(self.feed.take_bad())
        stopping = stop_poll.drain()
        if sums is None:
            return at, True
        loss, top1, top5, images = self.control.sums([self.count_once(value) for value in sums.tolist()])
        if images != plan.validation_images:
            raise PermanentError(
                f"validation saw {images:.0f} images of {plan.validation_images}: a bug in alexnet_dist"
            )
        if excess := self.excess(loss / images):
            raise self.diverged(at.step, f"in the validation {excess.rstrip(',')}")
        top5_error = top5 / images if self.run.config.model.classes > 5 else None
        evaluation = Evaluation(loss / images, top1 / images, top5_error)
        self.logger.log_evaluation(at.step, evaluation, time.monotonic() - began_s)
        progress = after_evaluation(
            schedule_of(self.run.config), at.progress, evaluation.top1_error, at.step, plan.steps_per_epoch
        )
        at = replace(at, evaluated_step=at.step, progress=progress)
        self.apply_saved(self.saver.finish())
        if self.saver.saved_step == at.step or (self.saver.saved_step is None and self.saver.failure is None):
            self.apply_saved(self.saver.rewrite_manifest(at.step, self.manifest(at)))
        return at, stopping

    def save(self, at: Start) -> None:
        """Begin to write the checkpoint of a completed step; the one before it is finished first."""
        began_s = time.monotonic()
        self.apply_saved(self.saver.finish())
        towers = self.engine.weights if self.run.topology.replica == 0 else ()
        states = {tower: self.engine.tensors(tower) for tower in towers}
        self.apply_saved(self.saver.begin(at.step, self.manifest(at), states))
        self.logger.log_checkpoint(time.monotonic() - began_s)

    def manifest(self, at: Start) -> dict[str, object]:
        """Return what the manifest of a checkpoint stores of the run."""
        return {
            **replace(at, time_s=self.logger.time_s, unchanged=self.logger.unchanged).state(),
            "geometry": geometry_state(self.run.net),
            "position": self.run.position(at.step),
        }

    def apply_saved(self, saved: Saved | None, ending: bool = False) -> None:
        """Act on how a save has ended, on every rank; None: it has not. ending: whether no later one follows.

        Raises what `diverged` returns if the weights are not finite. A file that could not be written is a warning, if
        run.on_save_error allows it, until the next checkpoint that is due fails too. A run whose directory has been
        removed ends.
        """
        if saved is None:
            return
        if saved.note:
            self.logger.log_warning(saved.note)
        if not (saved.not_finite or saved.error):
            self.logger.log_valid_checkpoint()
            return
        if saved.not_finite:
            raise self.diverged(saved.step, "there are weights or velocities that are not finite")
        self.logger.count_save_failure()
        failed_before = self.saver.failure is not None
        self.saver.failure = self.saver.failure or saved
        due_again = failed_before and self.is_due(saved.step)
        if ending or saved.gone or due_again or self.run.config.run.on_save_error == "stop":
            self.end_unsaved(saved)
        self.logger.log_warning(f"{self.not_written(saved)}; training goes on, and tries again")

    def end_unsaved(self, failure: Saved) -> None:
        """End the run because a checkpoint could not be written: RunError, or PermanentError if a restart would too."""
        if self.run.topology.is_rank0:
            raise (PermanentError if failure.permanent else RunError)(self.not_written(failure))
        self.control.gather("")  # rank 0 is reported as lost, with its reason

    def not_written(self, failure: Saved) -> str:
        """Return which checkpoint could not be written, and why."""
        return f"{self.run.directory / CHECKPOINTS}: checkpoint of step {failure.step} not written: {failure.error}"

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after so many steps."""
        plan = self.run.plan
        return plan.is_evaluated_after(step) or step == plan.steps or step % self.run.config.run.save_every == 0
