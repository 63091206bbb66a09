"""The Prometheus metrics of a rank: its series, and the HTTP server that exposes them.

Only counters and seconds; PromQL's `rate()` computes rates. Each rank exposes its own series, so a slow or missing rank
is visible. Metrics never end a run: a failure here is one warning on stderr.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

from alexnet_dist.monitoring.server import PageServer
from alexnet_dist.monitoring.targets import is_loopback, warn
from alexnet_dist.monitoring.timeline import PHASES, Times

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
    "last_checkpoint_timestamp_seconds": "Unix time of the last valid checkpoint of this process; before it, of the"
    " start.",
    "run_disk_free_bytes": "Free bytes on the disk of the run directory, on rank 0 only, at the last logged step.",
    "checkpoint_size_bytes": "Bytes of the weights and velocities of a checkpoint, on rank 0 only.",
}


class _Registry(CollectorRegistry):
    """A registry without the `_created` series, one more for each counter and histogram, which no panel reads.

    They are filtered here because prometheus_client's own switch is global to the process and affects other registries.
    """

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class Metrics:
    """One rank's series. Counters are exposed as 0 from the start, so that `increase()` sees their first step.

    A gauge without a value yet (loss, evaluation) is absent until it has one. Counters restart at 0 with each process,
    which `rate()` handles; `step` and `progress_images` continue from the checkpoint.
    """

    def __init__(
        self, run: str, rank: int, replica: int, tower: str | int, world_size: int, bad_sample_reasons: Iterable[str]
    ) -> None:
        """Register the series; all of them have the rank's labels, except those of the process collector.

        tower: "0+1" on a rank that has both towers. bad_sample_reasons: the valid arguments of add_bad_sample.
        """
        self.registry = _Registry()
        self._labels = {"run": run, "rank": str(rank), "replica": str(replica), "tower": str(tower)}
        self._counters = {name: self._counter(name, text).labels(**self._labels) for name, text in COUNTERS.items()}
        self._gauges = {name: self._gauge(name, text) for name, text in GAUGES.items()}
        self._step_s = self._histogram(
            "step_duration_seconds", "Duration of one optimizer step.", STEP_BUCKETS_S
        ).labels(**self._labels)
        phase_s = self._counter(
            "phase_seconds_total",
            "Seconds of training steps by phase; they add up to the steps' duration. Waits for decoded samples,"
            " for the other tower and for the other replicas are phases of their own, wherever they occur.",
            "phase",
        )
        self._phase_s = {phase: phase_s.labels(**self._labels, phase=phase) for phase in PHASES}
        link_bytes = self._counter("link_bytes_total", "Bytes sent to and received from the other tower.", "direction")
        self._link_bytes = {way: link_bytes.labels(**self._labels, direction=way) for way in ("send", "recv")}
        self._join_wait_s = self._counter(
            "link_wait_seconds_total",
            "Seconds of training steps for which this rank waited for the link to the other tower, not hidden behind"
            " computation, by join: a layer that reads both towers with its pass, the logits, or the next batch's"
            " pixels.",
            "join",
        )
        bad_samples = self._counter(
            "bad_samples_total",
            "Samples that this rank could not use and for which it substituted others, by reason: a wrong checksum, a"
            " damaged JPEG, or an image of another size.",
            "reason",
        )
        self._bad_samples = {reason: bad_samples.labels(**self._labels, reason=reason) for reason in bad_sample_reasons}
        self._checkpoint_s = self._histogram(
            "checkpoint_duration_seconds", "Seconds that training waited for a checkpoint.", CHECKPOINT_BUCKETS_S, "op"
        )
        self._checkpoint_s.labels(**self._labels, op="save")
        self._register_rank_info()
        ProcessCollector(registry=self.registry)
        # The start and not 0, so that a run before its first step does not look stalled since 1970.
        self._set(world_size=world_size, running=0, last_step_timestamp_seconds=time.time())
        self._set(last_checkpoint_timestamp_seconds=time.time())
        self._world_size, self._progress_images = world_size, 0.0
        self._server: PageServer | None = None

    def _register_rank_info(self) -> None:
        software = {"torch": _version("torch"), "version": _version("alexnet_dist")}
        rank_info = self._gauge(
            "rank_info", "Always 1; the labels name the node and the software versions of this rank.", "node", *software
        )
        rank_info.labels(**self._labels, node=platform.node(), **software).set(1)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help_text, (*LABELS, *labels), registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, help_text, (*LABELS, *labels), registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, help_text, (*LABELS, *labels), registry=self.registry, buckets=buckets)

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            self._gauges[name].labels(**self._labels).set(value)

    def restore(self, progress_images: float, step: int) -> None:
        """Continue from a checkpoint; progress_images: images of the whole run so far, over all epochs."""
        self._progress_images = progress_images / self._world_size
        self._set(progress_images=self._progress_images, step=step)

    def set_restarts(self, count: int) -> None:
        """Set how often the run was started besides its first start."""
        self._set(restarts=count)

    def set_running(self, running: bool) -> None:
        """Set whether this rank is in its training loop."""
        self._set(running=float(running))

    def observe_step(
        self,
        *,
        step: int,
        epoch: float,
        images_share: float,
        times: Times,
        link_bytes_sent: float,
        link_bytes_received: float,
        flops: float,
    ) -> None:
        """Count a completed step.

        step: completed steps. epoch: completed epochs and the fraction of the current one. images_share, flops: this
        rank's share. link_bytes_sent, link_bytes_received: bytes of this step.
        """
        self._counters["images_total"].inc(images_share)
        self._counters["steps_total"].inc()
        self._counters["model_flops_total"].inc(flops)
        self._step_s.observe(times.step_s)
        for phase, seconds in times.phase_s.items():
            # Waits are subtracted from the phase that contains them: rounding may leave a negative remainder.
            self._phase_s[phase].inc(max(0.0, seconds))
        for join, seconds in times.join_wait_s.items():
            self._join_wait_s.labels(**self._labels, join=join).inc(max(0.0, seconds))
        self._link_bytes["send"].inc(link_bytes_sent)
        self._link_bytes["recv"].inc(link_bytes_received)
        self._progress_images += images_share
        self._set(
            step=step, epoch=epoch, progress_images=self._progress_images, last_step_timestamp_seconds=time.time()
        )

    def observe_log(self, loss: float, top1_error: float, learning_rate: float) -> None:
        """Set the values of a log step; loss and error (a fraction) are of the global batch."""
        self._set(loss=loss, top1_error=top1_error, learning_rate=learning_rate)

    def observe_evaluation(self, loss: float, top1_error: float, top5_error: float | None) -> None:
        """Set the results of an evaluation; errors are fractions, top-5 None if there are fewer than six classes."""
        self._set(evaluation_loss=loss, evaluation_top1_error=top1_error)
        if top5_error is not None:
            self._set(evaluation_top5_error=top5_error)

    def observe_checkpoint(self, op: str, seconds: float) -> None:
        """Count a checkpoint operation and its duration; op: such as "save"."""
        self._checkpoint_s.labels(**self._labels, op=op).observe(seconds)

    def observe_valid_checkpoint(self) -> None:
        """Note that a checkpoint has become valid now."""
        self._set(last_checkpoint_timestamp_seconds=time.time())

    def observe_disk(self, free_bytes: int, checkpoint_bytes: int) -> None:
        """Set the free bytes of the run directory's disk, and what a checkpoint takes of them."""
        self._set(run_disk_free_bytes=free_bytes, checkpoint_size_bytes=checkpoint_bytes)

    def add_bad_sample(self, reason: str) -> None:
        """Count a sample for which another was substituted; reason: one of bad_sample_reasons."""
        self._bad_samples[reason].inc()

    def add_checkpoint_failure(self) -> None:
        """Count a checkpoint that could not be written."""
        self._counters["checkpoint_failures_total"].inc()

    def add_skipped_batch(self) -> None:
        """Count a batch that has changed no weight."""
        self._counters["skipped_batches_total"].inc()

    def add_nonfinite(self, count: int) -> None:
        """Count steps after which training had diverged."""
        self._counters["nonfinite_loss_total"].inc(count)

    def total(self, name: str, **labels: str) -> float:
        """Return what a counter has counted so far; labels: besides those of the rank."""
        return self.registry.get_sample_value(PREFIX + name, {**self._labels, **labels}) or 0.0

    def serve(self, address: str = "127.0.0.1", port: int = 0) -> int | None:
        """Serve on `address` and return the port: `port`, or any free one if it is 0 or taken.

        Returns None, after a warning, if no port of that address can be opened.
        """
        prefix = f"rank {self._labels['rank']}: metrics"
        first_error: Exception | None = None
        for candidate in dict.fromkeys((port, 0)):
            try:
                # OverflowError: the base port is so high that this rank's port exceeds 65535.
                self._server = PageServer(lambda: generate_latest(self.registry), address, candidate)
            except (OSError, OverflowError, UnicodeError) as error:
                first_error = first_error or error
                continue
            served_port = self._server.port
            if self._labels["rank"] == "0" and not is_loopback(address):
                warn(
                    f"{prefix} are served on {address} without a password, to anyone who can reach it; with"
                    " metrics.address=127.0.0.1 only this machine can"
                )
            if first_error:
                warn(f"{prefix}: port {port} on {address} cannot be opened ({first_error}); using port {served_port}")
            return served_port
        warn(f"{prefix} are not served on {address}: {first_error}")
        return None

    def wait_for_scrape(self, stopped: Callable[[float], bool]) -> None:
        """Wait for one more scrape, if the metrics are scraped; stopped: as in PageServer.wait_for_reader."""
        if self._server:
            self._server.wait_for_reader(stopped)

    def close(self) -> None:
        """Stop the server, if it was started."""
        if self._server:
            self._server.close()
            self._server = None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
