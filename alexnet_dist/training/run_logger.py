"""All that a run tells while it goes on: metrics.jsonl, Prometheus, the terminal, and which samples were used."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from alexnet_dist.data.reader import BadSample
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training.run_plan import RunPlan, BatchSpec
from alexnet_dist.training.step import Report


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the whole validation set; errors are fractions, top-5 null below six classes."""

    loss: float
    top1_error: float
    top5_error: float | None


@dataclass(frozen=True)
class StepRecord:
    """A completed step as this rank knows it: its number, the rate it used, and the training seconds at its end."""

    step: int
    rate: float
    report: Report
    time_s: float


class RunLogger:
    """What one rank tells; files and terminal are the chief's, Prometheus and samples every rank's."""

    def __init__(
        self,
        directory: Path,
        place: Topology,
        programme: RunPlan,
        net: Geometry,
        metrics: Metrics,
        log_every: int,
        record_samples: bool,
        step: int,
        time_s: float,
    ) -> None:
        """Begin at `step` completed steps, after `time_s` seconds of training in earlier starts of this run."""
        self._directory, self._place, self._programme, self._metrics = directory, place, programme, metrics
        self._log_every, self._record_samples = log_every, record_samples
        self._flops_per_image = geometry.training_flops(net)
        self._began_s = time.monotonic() - time_s
        self._told_step, self._told_s = step, time_s
        self._bar: tqdm[object] | None = None
        if place.is_rank0 and sys.stderr.isatty():
            self._bar = tqdm(total=programme.steps, initial=step, unit="step", dynamic_ncols=True)
        metrics.restore(progress_images=step * programme.global_batch, step=step)
        metrics.set_running(True)

    @property
    def time_s(self) -> float:
        """Seconds of training, over all starts of this run."""
        return time.monotonic() - self._began_s

    def say(self, text: str) -> None:
        """Print a line of the chief's, clear of the progress bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._place.is_rank0:
            print(text, flush=True)

    def stepped(self, step: int, report: Report) -> None:
        """Count a step that this rank has completed; its replica's images are credited to its ranks in equal shares."""
        share = sum(len(task.ids) for task in report.tasks) * len(self._place.towers) / 2
        self._metrics.observe_step(
            step=step,
            epoch=step / self._programme.steps_per_epoch,
            images_share=share,
            times=report.times,
            link_bytes_sent=report.sent_bytes,
            link_bytes_received=report.received_bytes,
            flops=share * self._flops_per_image,
        )

    def replaced(self, bad: list[BadSample]) -> None:
        """Tell of samples that others stand in for."""
        for one in bad:
            self._metrics.add_bad_sample(one.kind)
            print(f"rank {self._place.rank}: bad sample replaced: {one}", file=sys.stderr, flush=True)

    def sampled(self, step: int, tasks: tuple[BatchSpec, ...], own_rows: list[tuple[int, int]]) -> None:
        """Record the samples that this rank decoded for a step."""
        if self._record_samples:
            ids = [int(i) for task, (first, end) in zip(tasks, own_rows, strict=True) for i in task.ids[first:end]]
            run_directory.append(
                self._directory / run_directory.samples_file(self._place.rank), {"step": step, "ids": ids}
            )

    def logged(self, told: StepRecord, loss: float, top1_error: float) -> None:
        """Tell of the global batch of a completed step, in every log step."""
        step, steps = told.step, self._programme.steps
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if step % self._log_every and step != steps:
            return
        self._metrics.observe_log(loss, top1_error, told.rate)
        if not self._place.is_rank0:
            return
        epoch = step / self._programme.steps_per_epoch
        line = {
            "step": step,
            "epoch": round(epoch, 6),
            "images": step * self._programme.global_batch,
            "loss": loss,
            "top1_error": top1_error,
            "learning_rate": told.rate,
            "step_s": told.report.times.step_s,
            "data_wait_s": told.report.times.phase_s["data_wait"],
            "time_s": told.time_s,
        }
        run_directory.append(self._directory / run_directory.METRICS, line)
        images_s = (step - self._told_step) * self._programme.global_batch / (told.time_s - self._told_s)
        self._told_step, self._told_s = step, told.time_s
        text = (
            f"epoch {epoch:.2f}  loss {loss:.4f}  error {top1_error:.3f}  rate {told.rate:g}  {images_s:,.0f} images/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            print(f"step {step:,}/{steps:,}  {text}", flush=True)

    def evaluated(self, step: int, found: Evaluation, seconds: float) -> None:
        """Tell of an evaluation that took this long."""
        self._metrics.observe_evaluation(found.loss, found.top1_error, found.top5_error)
        if self._place.is_rank0:
            line = {
                "step": step,
                "epoch": round(step / self._programme.steps_per_epoch, 6),
                "images": self._programme.validation_images,
                "loss": found.loss,
                "top1_error": found.top1_error,
                "top5_error": found.top5_error,
                "time_s": self.time_s,
            }
            run_directory.append(self._directory / run_directory.EVALUATIONS, line)
            top5 = "" if found.top5_error is None else f"  top-5 error {found.top5_error:.2%}"
            self.say(
                f"validation after epoch {step // self._programme.steps_per_epoch}:"
                f" top-1 error {found.top1_error:.2%}{top5}  loss {found.loss:.4f}"
            )
        self._told_s += seconds

    def saved(self, seconds: float) -> None:
        """Tell how long a checkpoint took, in seconds."""
        self._metrics.observe_checkpoint("save", seconds)
        self._told_s += seconds

    def diverged(self) -> None:
        """Count a loss that is not finite."""
        self._metrics.add_nonfinite(1)

    def __enter__(self) -> RunLogger:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and say that this rank no longer trains."""
        self._metrics.set_running(False)
        if self._bar is not None:
            self._bar.close()
