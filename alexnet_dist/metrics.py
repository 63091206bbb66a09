"""What Prometheus reads of one rank: its own registry, served over HTTP, by default on the loopback only."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from alexnet_dist import __version__

PREFIX = "alexnet_train_"
LABELS = ("run", "rank", "replica", "tower")
PHASES = ("data_wait", "forward", "link_wait", "backward", "allreduce_wait", "optimizer", "other")
STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
CHECKPOINT_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 100)

COUNTERS = {
    "images": "Images trained on; each rank credits its share of its replica's, so that sum() is the run's throughput",
    "steps": "Optimizer steps completed",
    "bad_samples": "Samples that could not be read and were replaced by another",
    "nonfinite_loss": "Steps whose loss was not finite",
    "model_flops": "Floating-point operations of this rank's share of the images, forward and backward",
}
GAUGES = {
    "last_step_timestamp_seconds": "Unix time at the end of the last step; before the first, of the start",
    "running": "1 while the rank trains, 0 once it has ended by itself",
    "step": "Completed steps of the run, over all its starts",
    "epoch": "Completed epochs of the run, with the fraction of the one under way",
    "progress_images": "Images that the whole run has trained on, over all its starts",
    "loss": "Mean loss of the last logged global batch",
    "top1_error": "Top-1 error of the last logged global batch, a fraction",
    "learning_rate": "Learning rate of the last logged step",
    "evaluation_loss": "Mean loss of the last evaluation of the validation set",
    "evaluation_top1_error": "Top-1 error of the last evaluation of the validation set, a fraction",
    "evaluation_top5_error": "Top-5 error of the last evaluation of the validation set, a fraction",
    "world_size": "Ranks of the run",
}


class Metrics:
    """One rank's series, all labelled run, rank, replica and tower, and the server that Prometheus scrapes."""

    def __init__(self, *, run: str, rank: int, replica: int, tower: str, world_size: int) -> None:
        """Create every series at once, so that increase() sees the zero it starts from."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        place = {"run": run, "rank": str(rank), "replica": str(replica), "tower": tower}
        values = tuple(place[label] for label in LABELS)
        self._counters = {
            name: Counter(PREFIX + name, text, LABELS, registry=self.registry).labels(*values)
            for name, text in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(PREFIX + name, text, LABELS, registry=self.registry).labels(*values)
            for name, text in GAUGES.items()
        }
        phases = Counter(
            PREFIX + "phase_seconds", "Seconds by phase of the step", (*LABELS, "phase"), registry=self.registry
        )
        self._phases = {phase: phases.labels(*values, phase) for phase in PHASES}
        traffic = Counter(
            PREFIX + "link_bytes", "Bytes over the pair link", (*LABELS, "direction"), registry=self.registry
        )
        self._sent, self._received = (traffic.labels(*values, direction) for direction in ("send", "recv"))
        self._step_s = Histogram(
            PREFIX + "step_duration_seconds", "Seconds a step took", LABELS, buckets=STEP_BUCKETS_S,
            registry=self.registry,
        ).labels(*values)  # fmt: skip
        saves = Histogram(
            PREFIX + "checkpoint_duration_seconds", "Seconds a checkpoint took", (*LABELS, "op"),
            buckets=CHECKPOINT_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._checkpoints = {"save": saves.labels(*values, "save")}
        info = Gauge(
            PREFIX + "rank_info", "1; what the rank runs on", (*LABELS, "node", "torch", "version"),
            registry=self.registry,
        )  # fmt: skip
        info.labels(*values, platform.node(), torch.__version__, __version__).set(1)
        self._gauges["world_size"].set(world_size)
        self._gauges["last_step_timestamp_seconds"].set(time.time())
        self._server: tuple[WSGIServer, Thread] | None = None

    def serve(self, address: str, port: int) -> int | None:
        """Serve on a port (0: any free one) and return it; where it is taken, warn and take a free one.

        Metrics never end a run: an address that cannot be bound at all is a warning, and None.
        """
        for attempt in (port, 0):
            try:
                self._server = start_http_server(attempt, address, self.registry)
            except OSError as problem:
                remedy = "taking a free port" if attempt else "metrics are not served"
                print(f"metrics: {address}:{attempt}: {problem.strerror}; {remedy}", file=sys.stderr, flush=True)
                if not attempt:
                    return None
                continue
            break
        assert self._server is not None
        bound = int(self._server[0].server_port)
        if not address.startswith("127.") and address not in ("localhost", "::1"):
            print(f"metrics: {address}:{bound} is open to the network, without a password", file=sys.stderr, flush=True)
        return bound

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()

    def restore(self, *, progress_images: int, step: int) -> None:
        """Set what a checkpoint knows."""
        self._gauges["progress_images"].set(progress_images)
        self._gauges["step"].set(step)

    def set_running(self, running: bool) -> None:
        """Say whether the rank trains."""
        self._gauges["running"].set(running)

    def observe_step(
        self, *, step: int, epoch: float, images_share: float, progress_images: int, step_s: float,
        phase_s: Mapping[str, float], link_bytes_sent: int, link_bytes_received: int, flops: float,
    ) -> None:  # fmt: skip
        """Count one completed step; images_share: the replica's images divided by its ranks."""
        self._counters["images"].inc(images_share)
        self._counters["steps"].inc()
        self._counters["model_flops"].inc(flops)
        for phase, seconds in phase_s.items():
            self._phases[phase].inc(max(seconds, 0.0))
        self._step_s.observe(step_s)
        self._sent.inc(link_bytes_sent)
        self._received.inc(link_bytes_received)
        for name, value in (("step", step), ("epoch", epoch), ("progress_images", progress_images)):
            self._gauges[name].set(value)
        self._gauges["last_step_timestamp_seconds"].set(time.time())

    def observe_log(self, loss: float, top1_error: float, learning_rate: float) -> None:
        """Show a logged step's global batch."""
        for name, value in (("loss", loss), ("top1_error", top1_error), ("learning_rate", learning_rate)):
            self._gauges[name].set(value)

    def observe_evaluation(self, loss: float, top1_error: float, top5_error: float | None) -> None:
        """Show an evaluation; top5_error None below six classes."""
        self._gauges["evaluation_loss"].set(loss)
        self._gauges["evaluation_top1_error"].set(top1_error)
        if top5_error is not None:
            self._gauges["evaluation_top5_error"].set(top5_error)

    def observe_checkpoint(self, op: str, seconds: float) -> None:
        """Count a checkpoint; op: "save"."""
        self._checkpoints[op].observe(seconds)

    def add_bad_samples(self, number: int) -> None:
        """Count samples that were replaced."""
        self._counters["bad_samples"].inc(number)

    def add_nonfinite(self, number: int) -> None:
        """Count steps whose loss was not finite."""
        self._counters["nonfinite_loss"].inc(number)


def write_targets(path: Path, endpoints: Sequence[str]) -> None:
    """Write Prometheus's file_sd list of a run's ranks, whole at any moment, under a name that its glob sees last."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps([{"targets": list(endpoints)}], indent=1) + "\n")
    temporary.replace(path)


def remove_targets(path: Path) -> None:
    """Remove the list, so that Prometheus stops looking for ranks that are gone."""
    path.unlink(missing_ok=True)
