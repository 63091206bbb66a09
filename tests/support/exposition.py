"""The names of all series that a rank exposes."""

from __future__ import annotations

from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import Times


def exposed() -> set[str]:
    """Return the names of all samples that a rank exposes once every gauge has a value."""
    metrics = Metrics(run="mine", rank=0, replica=0, tower="0", world_size=1, bad_sample_reasons=BAD_KINDS)
    metrics.restore(progress_images=0, step=0)
    metrics.observe_step(
        step=1,
        epoch=1,
        images_share=1,
        times=Times(1, {}, {"fc6 forward": 1}),
        link_bytes_sent=0,
        link_bytes_received=0,
        flops=0,
    )
    metrics.observe_log(1, 1, 1)
    metrics.observe_evaluation(1, 1, 1)
    metrics.set_restarts(0, preemptions=0)
    metrics.observe_disk(free_bytes=1, checkpoint_bytes=1)
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}
