"""The series that a rank shows: names, labels, help texts and buckets."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

PREFIX = "alexnet_train_"
LABELS = ("run", "rank", "replica", "tower")
STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
CHECKPOINT_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300)

COUNTERS = {
    "images_total": "Training images, this rank's share: its replica's images divided among the replica's ranks, so"
    " that sum() over ranks is the run's images and sum(rate()) its throughput.",
    "steps_total": "Optimizer steps completed by this process.",
    "nonfinite_loss_total": "Steps after which training had diverged: a loss that was not finite or was above"
    " train.max_loss, or weights that were not finite.",
    "checkpoint_failures_total": "Checkpoints that could not be written, such as to a full disk.",
    "skipped_batches_total": "Batches that have changed no weight, because their numbers were not finite, or because a"
    " rollback has left them out.",
    "model_flops_total": "Floating-point operations of the net's training (a multiply-add is two), this rank's share.",
}
GAUGES = {
    "running": "1 while this rank is in its training loop, otherwise 0.",
    "last_step_timestamp_seconds": "Unix time of the last completed step; before the first step, of the start.",
    "step": "Optimizer steps completed since epoch 0, over all restarts.",
    "epoch": "Epochs completed since the start; the fraction is the completed part of the current epoch.",
    "progress_images": "Images trained on since epoch 0, over all restarts, this rank's share; sum() is the run's.",
    "loss": "Mean cross-entropy of the global batch, in nats, at the last logged step.",
    "top1_error": "Fraction of the global batch whose top-1 prediction was wrong, at the last logged step.",
    "learning_rate": "Learning rate of the last logged step.",
    "evaluation_loss": "Mean cross-entropy over the validation set, in nats, at the last evaluation.",
    "evaluation_top1_error": "Fraction of the validation set whose top-1 prediction was wrong, at the last evaluation.",
    "evaluation_top5_error": "Fraction of the validation set whose label was not in the top-5 predictions, at the last"
    " evaluation.",
    "world_size": "Number of ranks in the run.",
    "restarts": "Starts of this run so far, in any process, besides its first.",
    "preemptions": "Those of these restarts before which the run had been asked to stop by a signal, and was saved.",
    "last_checkpoint_timestamp_seconds": "Unix time of the last valid checkpoint of this process; before it, of the"
    " start.",
    "run_disk_free_bytes": "Free bytes on the disk of the run directory, on rank 0 only, at the last logged step.",
    "checkpoint_size_bytes": "Bytes of the weights and velocities of a checkpoint, on rank 0 only.",
}


class Registry(CollectorRegistry):
    """A registry without the `_created` series, one more for each counter and histogram, which no panel reads.

    They are filtered here because prometheus_client's own switch is global to the process and affects other registries.
    """

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
