"""The metrics of a rank: what is counted, and the HTTP server that exposes it.

Only counters and seconds; PromQL's `rate()` computes rates. Each rank exposes its own series, so a slow or missing rank
is visible. Metrics never end a run: a failure here is one warning on stderr.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import NamedTuple

import torch
from prometheus_client import Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from alexnet_dist.monitoring.access import ANYBODY, Access
from alexnet_dist.monitoring.device import DeviceSeries, identity
from alexnet_dist.monitoring.series import (
    CHECKPOINT_BUCKETS_S,
    COUNTERS,
    GAUGES,
    LABELS,
    PREFIX,
    STEP_BUCKETS_S,
    Registry,
)
from alexnet_dist.monitoring.server import PageServer
from alexnet_dist.monitoring.targets import is_loopback, warn
from alexnet_dist.monitoring.timeline import PHASES, Times

CPU = torch.device("cpu")
MOST_STEPS = 200  # that wait to be counted; together they take about 2 ms


class _Step(NamedTuple):
    """A completed step that waits to be counted: the arguments of observe_step, and the Unix time of its end."""

    step: int
    epoch: float
    images_share: float
    times: Times
    link_bytes_sent: float
    link_bytes_received: float
    flops: float
    ended_s: float


class Metrics(Collector):
    """One rank's series. Counters are exposed as 0 from the start, so that `increase()` sees their first step.

    A gauge without a value yet (loss, evaluation) is absent until it has one. Counters restart at 0 with each process,
    which `rate()` handles; `step` and `progress_images` continue from the checkpoint.
    """

    def __init__(
        self,
        run: str,
        rank: int,
        replica: int,
        tower: str | int,
        world_size: int,
        bad_sample_reasons: Iterable[str],
        device: torch.device = CPU,
        peak_flops: float | None = None,
    ) -> None:
        """Register the series; all of them have the rank's labels, except those of the process collector.

        tower: "0+1" on a rank that has both towers. bad_sample_reasons: the valid arguments of add_bad_sample.
        device: of the rank; on CUDA it has series of its own. peak_flops: FLOP/s of that device, None if not known.
        """
        self.registry = Registry()
        self._steps, self._counting = deque[_Step](), Lock()
        self.registry.register(self)  # the first, so that steps are counted before any series is read
        self._labels = {"run": run, "rank": str(rank), "replica": str(replica), "tower": str(tower)}
        self._counters = {name: self._counter(name, text).labels(**self._labels) for name, text in COUNTERS.items()}
        self._gauges = {name: self._gauge(name, text) for name, text in GAUGES.items()}
        self._set_gauges = dict[str, Gauge]()  # with the rank's labels; a gauge is shown once it is here
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
        self._waits_s = dict[str, Counter]()  # by join; which ones a rank has, it learns from its first step
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
            "checkpoint_duration_seconds",
            "Seconds that training waited for a checkpoint to be saved or, at the start of the process, loaded.",
            CHECKPOINT_BUCKETS_S,
            "op",
        )
        for op in ("save", "load"):
            self._checkpoint_s.labels(**self._labels, op=op)
        self._register_rank_info(device)
        if device.type == "cuda":
            self.registry.register(DeviceSeries(device, self._labels, peak_flops))
        ProcessCollector(registry=self.registry)
        # The start and not 0, so that a run before its first step does not look stalled since 1970.
        self._set(world_size=world_size, running=0, last_step_timestamp_seconds=time.time())
        self._set(last_checkpoint_timestamp_seconds=time.time())
        self._world_size, self._progress_images = world_size, 0.0
        self._server: PageServer | None = None

    def _register_rank_info(self, device: torch.device) -> None:
        info = identity(device)
        text = "Always 1; the labels name the node, the device and the software versions of this rank."
        self._gauge("rank_info", text, *info).labels(**self._labels, **info).set(1)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help_text, (*LABELS, *labels), registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, help_text, (*LABELS, *labels), registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, help_text, (*LABELS, *labels), registry=self.registry, buckets=buckets)

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            gauge = self._set_gauges.get(name)
            if gauge is None:
                gauge = self._set_gauges[name] = self._gauges[name].labels(**self._labels)
            gauge.set(value)

    def restore(self, progress_images: float, step: int) -> None:
        """Continue from a checkpoint; progress_images: images of the whole run so far, over all epochs."""
        self._progress_images = progress_images / self._world_size
        self._set(progress_images=self._progress_images, step=step)

    def set_restarts(self, count: int, preemptions: int = 0) -> None:
        """Set how often the run was started besides its first start; preemptions: after it was asked to stop."""
        self._set(restarts=count, preemptions=preemptions)

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
        """Count a completed step, at the latest when it is scraped: a step leaves the caches to the net, not to this.

        step: completed steps. epoch: completed epochs and the fraction of the current one. images_share, flops: this
        rank's share. link_bytes_sent, link_bytes_received: bytes of this step.
        """
        self._steps.append(
            _Step(step, epoch, images_share, times, link_bytes_sent, link_bytes_received, flops, time.time())
        )
        if len(self._steps) >= MOST_STEPS:
            self._count_steps()

    def collect(self) -> Iterable[Metric]:
        """Count the steps that wait, and yield no family: prometheus_client calls this before it reads the others."""
        self._count_steps()
        return ()

    def _count_steps(self) -> None:
        with self._counting:  # of the training loop and the server
            while self._steps:
                self._count(self._steps.popleft())

    def _count(self, done: _Step) -> None:
        self._counters["images_total"].inc(done.images_share)
        self._counters["steps_total"].inc()
        self._counters["model_flops_total"].inc(done.flops)
        self._step_s.observe(done.times.step_s)
        for phase, seconds in done.times.phase_s.items():
            # Waits are subtracted from the phase that contains them: rounding may leave a negative remainder.
            if seconds > 0:
                self._phase_s[phase].inc(seconds)
        for join, seconds in done.times.join_wait_s.items():
            wait_s = self._waits_s.get(join)
            if wait_s is None:
                wait_s = self._waits_s[join] = self._join_wait_s.labels(**self._labels, join=join)
            wait_s.inc(max(0.0, seconds))
        self._link_bytes["send"].inc(done.link_bytes_sent)
        self._link_bytes["recv"].inc(done.link_bytes_received)
        self._progress_images += done.images_share
        self._set(
            step=done.step,
            epoch=done.epoch,
            progress_images=self._progress_images,
            last_step_timestamp_seconds=done.ended_s,
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
        """Count a checkpoint operation and its duration; op: "save" or "load"."""
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

    def serve(self, address: str = "127.0.0.1", port: int = 0, access: Access = ANYBODY) -> int | None:
        """Serve on `address` and return the port: `port`, or any free one if it is 0 or taken.

        access: to whom. Returns None, after a warning, if no port of that address can be opened.
        """
        prefix = f"rank {self._labels['rank']}: metrics"
        first_error: Exception | None = None
        for candidate in dict.fromkeys((port, 0)):
            try:
                # OverflowError: the base port is so high that this rank's port exceeds 65535.
                self._server = PageServer(lambda: generate_latest(self.registry), address, candidate, access)
            except (OSError, OverflowError, UnicodeError) as error:
                first_error = first_error or error
                continue
            served_port = self._server.port
            if self._labels["rank"] == "0" and not is_loopback(address) and (warning := access.warning(address)):
                warn(f"{prefix} {warning}")
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
