"""Everything a run logs while it trains: metrics.jsonl, Prometheus, the terminal, and which samples were used."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm

from alexnet_dist.data.reader import BadSample
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.stuck_loss import LossWatch, stuck_sentence, watched
from alexnet_dist.nn import geometry
from alexnet_dist.runs.directory import EVALUATIONS, METRICS, samples_file
from alexnet_dist.runs.progress import Progress
from alexnet_dist.runs.records import Records
from alexnet_dist.system.wording import counted, percent
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.feed import rows_of_rank
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.resume import Start
from alexnet_dist.training.step import StepReport
from alexnet_dist.training.tensorboard import FOLDER, TRAIN, VALIDATION, EventFile


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the whole validation set; errors are fractions, top-5 null below six classes."""

    loss: float
    top1_error: float
    top5_error: float | None


@dataclass(frozen=True)
class StepRecord:
    """A finished step on this rank: its number, its learning rates, its report, and the training seconds at its end."""

    step: int
    rates: Rates
    report: StepReport
    time_s: float


def decoded_ids(report: StepReport, towers: tuple[int, ...]) -> str:
    """Return the ids of the samples that a rank with these towers decoded for a step, as JSON."""
    ids: list[int] = []
    for spec in report.batches:
        first, end = rows_of_rank(spec, towers)
        ids += spec.ids[first:end].tolist()
    return json.dumps(ids)


class RunLogger:
    """What one rank logs: files and terminal on rank 0 only, Prometheus on every rank."""

    def __init__(self, run: RunContext, metrics: Metrics, start: Start) -> None:
        """Begin at a start; start.time_s: seconds of training in earlier starts of this run.

        finished_step: the last one that this rank has finished. unchanged: steps that have changed no weight, over all
        starts.
        """
        self._run, self._metrics = run, metrics
        self._flops_per_image = geometry.training_flops(run.net)
        self._began_s = time.monotonic() - start.time_s
        self._logged_step, self._logged_s = start.step, start.time_s
        self.finished_step, self.unchanged = start.step, start.unchanged
        self._records, self._is_full = Records(run.directory), False
        self._curves: EventFile | None = None
        self._evaluations: EventFile | None = None
        if run.topology.is_rank0 and run.config.run.tensorboard:
            self._curves = EventFile(run.directory / FOLDER / TRAIN, start.step)
            self._evaluations = EventFile(run.directory / FOLDER / VALIDATION, start.evaluated_step)
        self._watch = LossWatch(run.config.model.classes, run.plan.steps_per_epoch)
        self._bar: tqdm[object] | None = None
        if run.topology.is_rank0 and sys.stderr.isatty():
            self._bar = tqdm(total=run.plan.steps, initial=start.step, unit="step", dynamic_ncols=True)
        metrics.restore(progress_images=start.step * run.plan.global_batch, step=start.step)
        if start.step:
            metrics.observe_checkpoint("load", start.load_s)
        metrics.set_running(True)
        self._observe_disk()

    @property
    def time_s(self) -> float:
        """Seconds of training, over all starts of this run."""
        return time.monotonic() - self._began_s

    def log(self, text: str) -> None:
        """Print a line on rank 0, clear of the progress bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            self._run.log(text)

    def log_end(self, text: str) -> None:
        """Print how training has ended; the bar stays above it as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self.log(text)

    @contextmanager
    def evaluating(self, steps: int, poll: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
        """Show on rank 0 how far an evaluation of so many steps is; yields what calls `poll` and counts a step."""
        if not self._run.topology.is_rank0:
            yield poll
            return
        images = self._run.plan.validation_images
        with Progress("validation", images, keep=False) as progress:

            def count() -> bool:
                progress.add(-(-images // steps))
                return poll()

            yield count

    def log_step(self, step: int, report: StepReport) -> None:
        """Count a step that this rank has finished, its replica's images in equal shares."""
        self.finished_step = step
        images_share = sum(len(spec.ids) for spec in report.batches) * len(self._run.topology.towers) / 2
        self._metrics.observe_step(
            step=step,
            epoch=step / self._run.plan.steps_per_epoch,
            images_share=images_share,
            times=report.times,
            link_bytes_sent=report.sent_bytes,
            link_bytes_received=report.received_bytes,
            flops=images_share * self._flops_per_image,
        )

    def log_samples(self, step: int, ids_by_rank: Sequence[str]) -> None:
        """Record which samples each rank decoded for a step; ids_by_rank: what `decoded_ids` returned on each."""
        if self._run.topology.is_rank0:
            for rank, ids in enumerate(ids_by_rank):
                self._record(samples_file(rank), {"step": step, "ids": json.loads(ids)})

    def log_bad_samples(self, bad: list[BadSample]) -> None:
        """Report samples for which others were substituted."""
        for sample in bad:
            self._metrics.add_bad_sample(sample.kind)
            print(
                f"rank {self._run.topology.rank}: another sample substituted for a bad one: {sample}",
                file=sys.stderr,
                flush=True,
            )

    def log_loss(self, record: StepRecord, loss: float, top1_error: float) -> None:
        """Log the loss and the error of the global batch of a finished step, if it is a log step."""
        step, plan = record.step, self._run.plan
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if step % self._run.config.run.log_every and step != plan.steps:
            return
        self._metrics.observe_log(loss, top1_error, record.rates.weights)
        if not self._run.topology.is_rank0:
            return
        self._observe_disk()
        epoch = step / plan.steps_per_epoch
        line = {
            "step": step,
            "epoch": round(epoch, 6),
            "images": step * plan.global_batch,
            "loss": loss,
            "top1_error": top1_error,
            "learning_rate": record.rates.weights,
            "step_s": record.report.times.step_s,
            "data_wait_s": record.report.times.phase_s["data_wait"],
            "time_s": record.time_s,
        }
        self._record(METRICS, line)
        self._watch, is_stuck = watched(self._watch, step, loss)
        if is_stuck:
            self.log_warning(stuck_sentence(self._watch.classes, step, record.rates.weights))
        images_per_s = (step - self._logged_step) * plan.global_batch / (record.time_s - self._logged_s)
        self._logged_step, self._logged_s = step, record.time_s
        if self._curves is not None:
            rates = {"weights": record.rates.weights, "biases": record.rates.biases, **record.rates.layers}
            values = {"loss": loss, "top1_error": top1_error, "images_per_s": images_per_s}
            self._curves.add(step, values | {f"learning_rate/{name}": rate for name, rate in rates.items()})
        text = (
            f"epoch {epoch:.2f}  loss {loss:.4f}  top-1 error {percent(top1_error)}"
            f"  learning rate {record.rates.weights:g}  {images_per_s:,.0f} images/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            print(f"step {step:,}/{plan.steps:,}  {text}", flush=True)

    def log_evaluation(self, step: int, evaluation: Evaluation, seconds: float) -> None:
        """Log an evaluation and leave its seconds out of the training speed."""
        self._metrics.observe_evaluation(evaluation.loss, evaluation.top1_error, evaluation.top5_error)
        plan = self._run.plan
        if self._run.topology.is_rank0:
            line = {
                "step": step,
                "epoch": round(step / plan.steps_per_epoch, 6),
                "images": plan.validation_images,
                "loss": evaluation.loss,
                "top1_error": evaluation.top1_error,
                "top5_error": evaluation.top5_error,
                "time_s": self.time_s,
            }
            self._record(EVALUATIONS, line)
            if self._evaluations is not None:
                self._evaluations.add(step, {name: line[name] for name in ("loss", "top1_error", "top5_error")})
            top5 = "" if evaluation.top5_error is None else f"  top-5 error {percent(evaluation.top5_error)}"
            self.log(
                f"validation after epoch {step // plan.steps_per_epoch}:"
                f" top-1 error {percent(evaluation.top1_error)}{top5}  loss {evaluation.loss:.4f}"
            )
        self._logged_s += seconds

    def log_checkpoint(self, seconds: float) -> None:
        """Log the seconds that a checkpoint took, and leave them out of the training speed."""
        self._metrics.observe_checkpoint("save", seconds)
        self._logged_s += seconds

    def log_valid_checkpoint(self) -> None:
        """Note that a checkpoint has become valid."""
        self._metrics.observe_valid_checkpoint()

    def count_save_failure(self) -> None:
        """Count a checkpoint that could not be written."""
        self._metrics.add_checkpoint_failure()

    def log_warning(self, text: str) -> None:
        """Print a warning, on rank 0 only."""
        if self._bar is not None:
            self._bar.write(f"warning: {text}", file=sys.stderr)
        elif self._run.topology.is_rank0:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def log_unchanged(self, step: int) -> None:
        """Count and report a step whose gradients were not finite, so that it has changed no weight."""
        self.unchanged += 1
        self._metrics.add_skipped_batch()
        self.log(f"step {step:,}: gradients that are not finite; skipped: the weights stay as they were")

    def log_left_out(self, step: int) -> None:
        """Count and report a step whose batch a rollback has left out."""
        self._metrics.add_skipped_batch()
        self.log(f"step {step:,}: left out after a rollback")

    def log_divergence(self) -> None:
        """Count a step after which training has diverged."""
        self._metrics.add_nonfinite(1)

    def _observe_disk(self) -> None:
        """Show what room the run directory has, on rank 0: others may have none."""
        if self._run.topology.is_rank0:
            with suppress(OSError):  # it was removed: the next line that is recorded says so
                size_bytes = 2 * 4 * geometry.parameter_count(self._run.net)
                self._metrics.observe_disk(shutil.disk_usage(self._run.directory).free, size_bytes)

    def _record(self, name: str, line: Mapping[str, object]) -> None:
        """Append a line to a file of the run directory; without room it waits, which is reported once."""
        problem = self._records.append(name, line)
        if problem and not self._is_full:
            print(f"warning: {problem}; lines wait in memory until there is room", file=sys.stderr, flush=True)
        self._is_full = bool(problem)

    def __enter__(self) -> RunLogger:
        """Return the logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the progress bar and mark this rank as no longer training."""
        self._metrics.set_running(False)
        if problem := self._records.flush_all():
            print(f"warning: {problem}; {counted(self._records.waiting, 'line')} lost", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.close()
