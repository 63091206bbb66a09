"""The run plan: the clock of a run and the sequence of its batches, training and validation, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alexnet_dist.data.plan import (
    PLAN_VERSION,
    EpochPlan,
    Ids,
    micro_batch,
    replica_slots,
    validation_ids,
    validation_steps,
)


@dataclass(frozen=True)
class BatchSpec:
    """One batch of one replica: a micro-batch to train on, or rows to validate.

    epoch: completed epochs before it. step: completed steps before it, in the run (training) or in the validation.
    ids: int64 (n,), the samples of the replica; -1 is an empty row. first_slot: the global batch's slot of ids[0].
    """

    train: bool
    epoch: int
    step: int
    ids: Ids
    first_slot: int


@dataclass(frozen=True)
class RunPlan:
    """The one clock of a run and the order of its batches: a pure function of these values.

    counts: samples of each training shard. steps: steps of the whole run. validation_images: 0 for no validation.
    evaluate_every: epochs between validations of the whole validation set.
    skipped: batches that are left out, by the number of steps completed before them; their steps change nothing.
    """

    counts: tuple[int, ...]
    seed: int
    global_batch: int
    lanes: int
    window: int
    accumulate: int
    steps: int
    validation_images: int
    validation_rows: int
    evaluate_every: int
    skipped: frozenset[int] = frozenset()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return sum(self.counts) // self.global_batch

    def is_evaluated_after(self, step: int) -> bool:
        """Return whether an evaluation follows when `step` steps are complete."""
        if not (self.validation_images and self.evaluate_every):
            return False
        return step > 0 and step % (self.steps_per_epoch * self.evaluate_every) == 0

    def evaluation_missing(self, step: int, evaluated_step: int) -> bool:
        """Return whether the evaluation that follows `step` steps is missing; the last one was at evaluated_step.

        Only that one: if `evaluate_every` was changed, evaluations that it would have required earlier are not made.
        """
        return self.is_evaluated_after(step) and evaluated_step < step

    def validation_steps(self, replicas: int) -> int:
        """Return the steps of one validation, the same on every rank."""
        return validation_steps(self.validation_images, replicas, self.validation_rows)

    def batches(self, replica: int, replicas: int, step: int, evaluated_step: int) -> Iterator[BatchSpec]:
        """Yield one replica's batches to the end of the run, from `step` completed steps on.

        evaluated_step: of the last evaluation; if the one that follows `step` is missing, its batches come first.
        """
        if self.evaluation_missing(step, evaluated_step):
            yield from self._validation(replica, replicas, step)
        epoch_plan: EpochPlan | None = None
        while step < self.steps:
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch_plan is None or epoch_plan.epoch != epoch:
                epoch_plan = EpochPlan(self.counts, self.seed, epoch, self.global_batch, self.lanes, self.window)
            slots = replica_slots(replica, replicas, self.global_batch)
            for index in range(self.accumulate) if step not in self.skipped else ():
                first, end = micro_batch(index, self.accumulate, *slots)
                yield BatchSpec(True, epoch, step, epoch_plan.sample_ids(batch, first, end), first)
            step += 1
            if self.is_evaluated_after(step):
                yield from self._validation(replica, replicas, step)

    def _validation(self, replica: int, replicas: int, step: int) -> Iterator[BatchSpec]:
        for index in range(self.validation_steps(replicas)):
            ids = validation_ids(index, replica, replicas, self.validation_images, self.validation_rows)
            yield BatchSpec(False, step // self.steps_per_epoch, index, ids, 0)

    def position(self, step: int, manifest_sha256: str) -> dict[str, int | str]:
        """Return the position that a checkpoint stores: all that the order of the coming batches depends on."""
        return {
            "plan_version": PLAN_VERSION,
            "seed": self.seed,
            "step": step,
            "global_batch": self.global_batch,
            "lanes": self.lanes,
            "window": self.window,
            "manifest_sha256": manifest_sha256,
        }
