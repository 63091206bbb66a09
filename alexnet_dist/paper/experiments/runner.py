"""The runner of an experiment: training processes, several at a time, until all runs or the time have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.paper.experiments.arms import Job
from alexnet_dist.paper.experiments.results import (
    Result,
    check_own,
    fingerprint,
    read_results,
    result_of,
    shard_hashes,
    write_result,
)
from alexnet_dist.runs.directory import PREEMPTED
from alexnet_dist.system import environment, resources
from alexnet_dist.system.files import lock_file
from alexnet_dist.system.wording import counted, percent

POLL_S = 1.0
DIVERGED = b"training has diverged"
LOCK = ".lock"
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM, 0)  # ends of a training that was asked to stop, whenever it was
# Starts a training process that ends with this one, also if this one is killed.
CODE = (
    "from alexnet_dist import train; from alexnet_dist.system import process; import sys;"
    " process.die_with_parent({parent}); sys.exit(train.run())"
)

Ended = Callable[[Job, Path], bool]


@dataclass(frozen=True)
class Active:
    """A run in progress: its job, its process, how long its log was before, and whether it was asked to stop.

    decided: the reason to stop it is that it has shown all that it is for.
    """

    job: Job
    child: subprocess.Popen[bytes]
    log_bytes: int
    decided: bool = False


@dataclass(frozen=True)
class Experiment:
    """Where an experiment reads and writes, and how many processes it trains at a time.

    is_decided: whether a run has shown all that it is for; None: runs train to their ends.
    """

    data: Path
    directory: Path
    parallel: int
    is_decided: Ended | None = None

    def results(self, jobs: Sequence[Job]) -> dict[Job, Result]:
        """Return the results that there are, and say of how many others there are results too."""
        results, others = read_results(self.directory, self._fingerprints(jobs))
        if others:
            print(
                f"{self.directory}: left out: {counted(others, 'result')} of other arms, seeds, configurations or"
                " shards",
                flush=True,
            )
        return results

    def run(self, jobs: Sequence[Job], end_s: float) -> dict[Job, Result]:
        """Train the jobs that have no result, in order, until `end_s` on the monotonic clock; return all results.

        A run that is not finished then is asked to save, and the next call resumes it. Raises UserError if another
        process runs this experiment, or for a run of another configuration; RunError if a training fails for another
        reason than divergence; OSError.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = lock_file(self.directory / LOCK)
        if lock is None:
            raise UserError(
                f"{self.directory}: another process runs an experiment there; stop it, or choose another --out"
            )
        with lock:
            return self._run(jobs, end_s)

    def _run(self, jobs: Sequence[Job], end_s: float) -> dict[Job, Result]:
        results, hashes = self.results(jobs), self._fingerprints(jobs)
        for job in jobs:
            check_own(self.directory / job.name, job.config(self.data, self.directory), self._shards)
        waiting = []
        for job in jobs:
            if job not in results and self._is_decided(job):
                results[job] = self._write(job, hashes, diverged=False)
            elif job not in results:
                waiting.append(job)
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
                    result = self._end(each, hashes)
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

    def _fingerprints(self, jobs: Sequence[Job]) -> dict[Job, str]:
        return {job: fingerprint(job.config(self.data, self.directory), self._shards) for job in jobs}

    @cached_property
    def _shards(self) -> tuple[str, str]:
        """The hashes of the splits, which do not change while the experiment runs."""
        return shard_hashes(self.data)

    def _start(self, job: Job) -> Active:
        """Start a training process, whose output goes to a file in the run's folder."""
        folder = self.directory / job.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        files = [word for name in job.arm.configs for word in ("--config", name)]
        words = [*files, "metrics.port=null", "run.report=false", *job.overrides(self.data, self.directory)]
        with self._log(job).open("ab") as log:
            before = log.tell()
            child = subprocess.Popen(
                [sys.executable, "-c", CODE.format(parent=os.getpid()), *words],
                env=environment.child_environment(threads=max(1, resources.cores() // self.parallel)),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        print(f"training {job.name}; its output: {self._log(job)}", flush=True)
        return Active(job, child, before)

    def _log(self, job: Job) -> Path:
        return self.directory / f"{job.name}.log"

    def _is_decided(self, job: Job) -> bool:
        return self.is_decided is not None and self.is_decided(job, self.directory / job.name)

    def _decide(self, each: Active) -> Active:
        """Ask a run to stop once it has shown all that it is for."""
        if each.decided or not self._is_decided(each.job):
            return each
        each.child.send_signal(signal.SIGTERM)
        return replace(each, decided=True)

    def _end(self, each: Active, hashes: Mapping[Job, str]) -> Result | None:
        """Return the result of a run whose process has ended, and write it; None if it was asked to stop by others."""
        run, code = self.directory / each.job.name, each.child.returncode
        log = self._log(each.job).read_bytes()[each.log_bytes :]
        diverged = code == 2 and DIVERGED in log
        if code and not diverged and not (each.decided and code in STOPPED):
            last = log.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise RunError(
                f"{each.job.name}: training ended with exit code {code}: {last[0]}; see {self._log(each.job)}"
            )
        if not diverged and not each.decided and (run / PREEMPTED).exists():
            return None
        return self._write(each.job, hashes, diverged)

    def _write(self, job: Job, hashes: Mapping[Job, str], diverged: bool) -> Result:
        """Write the result of a run that has ended, print it and return it."""
        result = result_of(job, self.directory / job.name, hashes[job], diverged)
        write_result(self.directory, result)
        found = "diverged" if diverged else "no evaluation"
        if self.is_decided is not None and result.training_error is not None:
            found = f"training error {percent(result.training_error)}"
        elif result.top1_error is not None:
            found = f"top-1 error {percent(result.top1_error)}"
        print(f"{job.name}: {found} after {result.epochs:.1f} epochs, {result.seconds:,.0f} s", flush=True)
        return result
