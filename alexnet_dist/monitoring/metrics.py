"""What Prometheus reads of a rank: its series, the HTTP server that shows them, and the file that says where it is.

Counters and seconds, no rates: `rate()` makes those. Every rank serves its own, so that a slow or missing one is seen.
Metrics never end a run: what goes wrong here is told in one line on stderr.
"""

from __future__ import annotations

import ipaddress
import json
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.metrics_core import Metric

from alexnet_dist.monitoring.timeline import PHASES, Times

PREFIX = "alexnet_train_"
LABELS = ("run", "rank", "replica", "tower")
STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
CHECKPOINT_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300)

COUNTERS = {
    "images_total": "Training images, this rank's share: its replica's images divided among the replica's ranks, so"
    " that sum() over ranks is the run's images and sum(rate()) its throughput.",
    "steps_total": "Optimizer steps completed by this process.",
    "nonfinite_loss_total": "Steps whose loss over the global batch was not finite.",
    "model_flops_total": "Floating-point operations of the net's training (a multiply-add is two), this rank's share.",
}
GAUGES = {
    "running": "1 while this rank is in its training loop, else 0.",
    "last_step_timestamp_seconds": "Unix time of the last completed step; of the start before the first.",
    "step": "Optimizer steps completed since epoch 0, over all restarts.",
    "epoch": "Epochs completed since the start, with the part of the current one as a fraction.",
    "progress_images": "Images trained on since epoch 0, over all restarts, this rank's share; sum() is the run's.",
    "loss": "Mean cross-entropy of the global batch, in nats, at the last logged step.",
    "top1_error": "Fraction of the global batch whose first guess was wrong, at the last logged step.",
    "learning_rate": "Learning rate of the last logged step.",
    "evaluation_loss": "Mean cross-entropy over the validation set, in nats, at the last evaluation.",
    "evaluation_top1_error": "Fraction of the validation set whose first guess was wrong, at the last evaluation.",
    "evaluation_top5_error": "Fraction of the validation set whose label was not among five guesses.",
    "world_size": "Ranks of the run.",
}


class _Registry(CollectorRegistry):
    """A registry without the `_created` series: one more for every counter, and nobody's question here.

    Filtered here because prometheus_client's own switch is global to the process and would act on other registries.
    """

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class Metrics:
    """One rank's series: counters stand at 0 from the start, so that `increase()` sees their first step.

    Gauges of what has not happened yet (a loss, an evaluation) appear when it has. Counters begin at 0 with each
    process, which `rate()` knows; `step` and `progress_images` go on where the checkpoint left them.
    """

    def __init__(
        self, run: str, rank: int, replica: int, tower: str | int, world_size: int, bad_sample_reasons: Iterable[str]
    ) -> None:
        """Register the series; the rank's labels are on all except those of the process collector.

        tower: "0+1" on a rank that holds both. bad_sample_reasons: what add_bad_sample may be called with.
        """
        self.registry = _Registry()
        self._names = {"run": run, "rank": str(rank), "replica": str(replica), "tower": str(tower)}
        self._counters = {name: self._counter(name, text).labels(**self._names) for name, text in COUNTERS.items()}
        self._gauges = {name: self._gauge(name, text) for name, text in GAUGES.items()}
        self._step_s = self._histogram(
            "step_duration_seconds", "Duration of one optimizer step.", STEP_BUCKETS_S
        ).labels(**self._names)
        phase_s = self._counter(
            "phase_seconds_total",
            "Seconds of training steps by phase; they add up to the steps' duration. A wait counts as a wait wherever"
            " it falls: for decoded samples, for the other tower, for the other replicas.",
            "phase",
        )
        self._phase_s = {phase: phase_s.labels(**self._names, phase=phase) for phase in PHASES}
        link_bytes = self._counter("link_bytes_total", "Bytes sent to and received from the other tower.", "direction")
        self._link_bytes = {way: link_bytes.labels(**self._names, direction=way) for way in ("send", "recv")}
        self._join_wait_s = self._counter(
            "link_wait_seconds_total",
            "Seconds of training steps for which this rank stood still at the link to the other tower, not hidden by"
            " its work, by join: a layer that reads both towers and the pass, the logits, or the next batch's pixels.",
            "join",
        )
        bad_samples = self._counter(
            "bad_samples_total",
            "Samples that this rank could not use and replaced by others, by reason: the checksum of their bytes, a"
            " damaged JPEG, or a picture of another size.",
            "reason",
        )
        self._bad_samples = {reason: bad_samples.labels(**self._names, reason=reason) for reason in bad_sample_reasons}
        self._checkpoint_s = self._histogram(
            "checkpoint_duration_seconds", "Seconds that training waited for a checkpoint.", CHECKPOINT_BUCKETS_S, "op"
        )
        self._checkpoint_s.labels(**self._names, op="save")
        software = {"torch": _version("torch"), "version": _version("alexnet_dist")}
        self._gauge("rank_info", "1; its labels say where this rank runs, and on what.", "node", *software).labels(
            **self._names, node=platform.node(), **software
        ).set(1)
        ProcessCollector(registry=self.registry)
        self._set(world_size=world_size, running=0)
        # The start and not 0: a run that has yet to make its first step has not stood still since 1970.
        self._gauges["last_step_timestamp_seconds"].labels(**self._names).set_to_current_time()
        self._world_size, self._progress_images = world_size, 0.0
        self._server: tuple[WSGIServer, Thread] | None = None

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(PREFIX + name, text, (*LABELS, *more), registry=self.registry)

    def _gauge(self, name: str, text: str, *more: str) -> Gauge:
        return Gauge(PREFIX + name, text, (*LABELS, *more), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *more: str) -> Histogram:
        return Histogram(PREFIX + name, text, (*LABELS, *more), registry=self.registry, buckets=buckets)

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            self._gauges[name].labels(**self._names).set(value)

    def restore(self, progress_images: float, step: int) -> None:
        """Go on from a checkpoint; progress_images: of the whole run, in all epochs until now."""
        self._progress_images = progress_images / self._world_size
        self._set(progress_images=self._progress_images, step=step)

    def set_running(self, running: bool) -> None:
        """Say whether this rank is in its training loop."""
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

        step: completed steps. epoch: completed epochs, with the part of the current one. images_share, flops: this
        rank's share. link_bytes: of this step.
        """
        self._counters["images_total"].inc(images_share)
        self._counters["steps_total"].inc()
        self._counters["model_flops_total"].inc(flops)
        self._step_s.observe(times.step_s)
        for phase, seconds in times.phase_s.items():
            # A phase is what is left of a time after its waits: rounding may leave less than nothing.
            self._phase_s[phase].inc(max(0.0, seconds))
        for join, seconds in times.join_wait_s.items():
            self._join_wait_s.labels(**self._names, join=join).inc(max(0.0, seconds))
        self._link_bytes["send"].inc(link_bytes_sent)
        self._link_bytes["recv"].inc(link_bytes_received)
        self._progress_images += images_share
        self._set(
            step=step, epoch=epoch, progress_images=self._progress_images, last_step_timestamp_seconds=time.time()
        )

    def observe_log(self, loss: float, top1_error: float, learning_rate: float) -> None:
        """Show what a log step tells; loss and error (a fraction) are the global batch's."""
        self._set(loss=loss, top1_error=top1_error, learning_rate=learning_rate)

    def observe_evaluation(self, loss: float, top1_error: float, top5_error: float | None) -> None:
        """Show an evaluation's outcome; errors are fractions, top-5 None where there are fewer than six classes."""
        self._set(evaluation_loss=loss, evaluation_top1_error=top1_error)
        if top5_error is not None:
            self._set(evaluation_top5_error=top5_error)

    def observe_checkpoint(self, op: str, seconds: float) -> None:
        """Count a checkpoint; op: what was done with it, such as "save"."""
        self._checkpoint_s.labels(**self._names, op=op).observe(seconds)

    def add_bad_sample(self, reason: str) -> None:
        """Count a sample for which another one was substituted; reason: one of bad_sample_reasons."""
        self._bad_samples[reason].inc()

    def add_nonfinite(self, count: int) -> None:
        """Count steps whose loss was not finite."""
        self._counters["nonfinite_loss_total"].inc(count)

    def serve(self, address: str = "127.0.0.1", port: int = 0) -> int | None:
        """Serve on `address` and return the port: the given one, or any free one when it is taken or 0.

        Returns None, with a warning, where no port of that address can be had.
        """
        where = f"rank {self._names['rank']}: metrics"
        problem: Exception | None = None
        for candidate in dict.fromkeys((port, 0)):
            try:
                # OverflowError: a base port so high that this rank's is above 65535.
                self._server = start_http_server(candidate, address, registry=self.registry)
            except (OSError, OverflowError, UnicodeError) as refusal:
                problem = problem or refusal
                continue
            found = int(self._server[0].server_port)
            if self._names["rank"] == "0" and not _is_loopback(address):
                _warn(
                    f"{where} are served on {address} to whoever can reach it, without a password; 127.0.0.1 is closed"
                )
            if problem:
                _warn(f"{where}: port {port} on {address} cannot be had ({problem}); port {found} is used instead")
            return found
        _warn(f"{where} are not served: {address}: {problem}")
        return None

    def close(self) -> None:
        """Stop serving, if it was begun."""
        if self._server:
            (server, thread), self._server = self._server, None
            server.shutdown()
            server.server_close()
            thread.join()


def write_targets(path: Path, endpoints: Sequence[str]) -> None:
    """Write where the ranks' metrics are, as Prometheus's file_sd reads it; endpoints: host:port, one a rank.

    No labels: run, rank, replica and tower come from the ranks themselves. The file appears whole or not at all.
    """
    # Hidden and not *.json: no pattern of a Prometheus may find it half-written.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps([{"targets": list(endpoints)}], indent=1) + "\n")
        temporary.replace(path)
    except OSError as problem:
        _warn(f"{path} not written, Prometheus will not find this run: {problem.strerror}")


def remove_targets(path: Path) -> None:
    """Remove what `write_targets` wrote, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        _warn(f"{path} not removed, Prometheus will look for this run in vain: {problem.strerror}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
