"""The runner of an experiment: training processes, several at a time, until all runs or the time have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.config import Config
from alexnet_dist.errors import RunError
from alexnet_dist.paper.experiments.arms import Job
from alexnet_dist.paper.experiments.results import Result, fingerprint, read_results, result_of, write_result
from alexnet_dist.runs.directory import PREEMPTED
from alexnet_dist.system import environment, resources

POLL_S = 1.0
DIVERGED = "training has diverged"
# Starts a training process that ends with this one, also if this one is killed.
CODE = (
    "from alexnet_dist import train; from alexnet_dist.system import process; import sys;"
    " process.die_with_parent({parent}); sys.exit(train.run())"
)

Ended = Callable[[Job, Path], bool]


@dataclass(frozen=True)
class Active:
    """A run in progress: its job, its process, and whether it was asked to stop because it is decided."""

    job: Job
    child: subprocess.Popen[bytes]
    decided: bool = False


@dataclass(frozen=True)
class Experiment:
    """Where an experiment reads and writes, and how many processes it trains at a time.

    is_decided: whether a run that still trains has shown all that it is for; None: runs train to their ends.
    """

    data: Path
    directory: Path
    parallel: int
    is_decided: Ended | None = None

    def run(self, jobs: Sequence[Job], end_s: float) -> dict[Job, Result]:
        """Train the jobs that have no result, in order, until `end_s` on the monotonic clock; return all results.

        A run that is not finished then is asked to save, and the next call resumes it. Raises RunError if a training
        fails for another reason than divergence.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {job: job.config(self.data, self.directory) for job in jobs}
        results, others = read_results(self.directory, {job: fingerprint(each) for job, each in settings.items()})
        if others:
            print(
                f"{self.directory}: {others} result(s) of other arms, seeds or configurations are left out", flush=True
            )
        waiting = [job for job in jobs if job not in results]
        print(f"{len(jobs)} runs: {len(results)} finished, {len(waiting)} to train", flush=True)
        active: list[Active] = []
        try:
            while (waiting or active) and time.monotonic() < end_s:
                while waiting and len(active) < self.parallel:
                    active.append(self._start(waiting.pop(0)))
                time.sleep(POLL_S)
                active = [self._decide(each) for each in active]
                for each in [each for each in active if each.child.poll() is not None]:
                    active.remove(each)
                    result = self._end(each, settings[each.job])
                    if result is None:
                        waiting.insert(0, each.job)
                    else:
                        results[each.job] = result
        finally:
            for each in active:
                each.child.send_signal(signal.SIGTERM)
            for each in active:
                each.child.wait()
        return results

    def _start(self, job: Job) -> Active:
        """Start a training process, whose output goes to a file in the run's folder."""
        folder = self.directory / job.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        files = [word for name in job.arm.configs for word in ("--config", name)]
        words = [*files, "metrics.port=null", *job.overrides(self.data, self.directory)]
        with self._log(job).open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", CODE.format(parent=os.getpid()), *words],
                env=environment.child_environment(threads=max(1, resources.cores() // self.parallel)),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        print(f"training {job.name}; its output: {self._log(job)}", flush=True)
        return Active(job, child)

    def _log(self, job: Job) -> Path:
        return self.directory / f"{job.name}.log"

    def _decide(self, each: Active) -> Active:
        """Ask a run to stop once it has shown all that it is for."""
        decided = self.is_decided is not None and self.is_decided(each.job, self.directory / each.job.name)
        if each.decided or not decided:
            return each
        each.child.send_signal(signal.SIGTERM)
        return Active(each.job, each.child, decided=True)

    def _end(self, each: Active, settings: Config) -> Result | None:
        """Return the result of a run whose process has ended, and write it; None if it was asked to stop by others."""
        run, code = self.directory / each.job.name, each.child.returncode
        log = self._log(each.job).read_text(errors="replace")
        diverged = code == 2 and DIVERGED in log
        if code and not diverged:
            last = log.strip().splitlines()[-1:] or ["no output"]
            raise RunError(
                f"{each.job.name}: training ended with exit code {code}: {last[0]}; see {self._log(each.job)}"
            )
        if not diverged and not each.decided and (run / PREEMPTED).exists():
            return None
        result = result_of(each.job, run, settings, diverged)
        write_result(self.directory, result)
        error = "diverged" if result.top1_error is None else f"top-1 error {result.top1_error:.2%}"
        print(f"{each.job.name}: {error} after {result.epochs:.1f} epochs, {result.seconds:,.0f} s", flush=True)
        return result
