"""A job under torchrun as the drill sees it: its processes, what it has printed, and how far it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import IO

from alexnet_dist.errors import RunError
from alexnet_dist.system import environment, process, resources

STEP = re.compile(r"^step ([\d,]+)/", re.MULTILINE)
STARTED = re.compile(r"^training [\d,]+ parameters on ", re.MULTILINE)
RESUMED = re.compile(r"^resuming from step ([\d,]+) ", re.MULTILINE)
FINISHED = re.compile(r"^finished: |is finished: ", re.MULTILINE)
ERROR = re.compile(r"^error: .*$", re.MULTILINE)
MARK = "ALEXNET_DIST_DRILL"  # the environment variable that all processes of a job inherit
POLL_S = 0.05
COPY_S = 5.0  # for the last lines of a job that has ended


@dataclass
class Job:
    """One command that is started as often as it ends before the run is finished; its output goes to a file.

    words: of the training command; its last run.directory counts. ranks: of this machine, which is the only one.
    restarts: by torchrun. The job ends with the process that has started it.
    """

    words: Sequence[str]
    ranks: int
    log: Path
    restarts: int = 1000
    starts: int = 0
    _agent: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _copier: Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start torchrun in a session of its own."""
        options = ["--standalone", f"--nproc-per-node={self.ranks}", f"--max-restarts={self.restarts}"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "alexnet_dist.train", *self.words]
        self.starts += 1
        self._agent = subprocess.Popen(
            command,
            env={**environment.child_environment(max(1, resources.cores() // self.ranks)), MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(process.die_with_parent, os.getpid()),
        )
        assert self._agent.stdout is not None
        # Through a pipe: the drill limits the size of the files that ranks may write.
        self._copier = Thread(target=_copy, args=(self._agent.stdout, self.log), daemon=True)
        self._copier.start()

    @property
    def agent(self) -> int:
        """The process id of torchrun's agent."""
        assert self._agent is not None, "the job was started"
        return self._agent.pid

    def has_ended(self) -> bool:
        """Return whether torchrun has ended, and all that it has printed is in the log."""
        if self._agent is None or self._agent.poll() is None:
            return self._agent is None
        if self._copier is not None:
            self._copier.join(COPY_S)
        return True

    def is_finished(self) -> bool:
        """Return whether the run has trained all its steps."""
        return FINISHED.search(self.printed()) is not None

    def printed(self, offset: int = 0) -> str:
        """Return what the job has printed since an offset."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def offset(self) -> int:
        """Return the size of the output so far."""
        return self.log.stat().st_size if self.log.exists() else 0

    def last_step(self) -> int:
        """Return the last step that was printed, 0 before the first."""
        steps = STEP.findall(self.printed())
        return number(steps[-1]) if steps else 0

    def rank_process(self, rank: int) -> int | None:
        """Return the process id of a rank, None while there is none."""
        for child in process.children(self.agent):
            with suppress(OSError):
                if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                    return child
        return None

    def stop(self) -> None:
        """Kill the agent and with it its ranks, and wait for both."""
        if self._agent is not None and self._agent.poll() is None:
            self._agent.kill()
            self._agent.wait()
        self.wait_for_ranks(10.0)

    def wait_for_ranks(self, timeout_s: float) -> None:
        """Wait until no process of this job is left, at most for some time."""
        end_s = time.monotonic() + timeout_s
        while self.processes() and time.monotonic() < end_s:
            time.sleep(POLL_S)

    def processes(self) -> list[int]:
        """Return the process ids of all that this job has started, and of all that they have."""
        mark, found = f"{MARK}={self._mark}".encode(), []
        for variables in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in variables.read_bytes().split(b"\0"):
                    found.append(int(variables.parent.name))
        return found

    @property
    def _mark(self) -> str:
        """The run directory, by which processes of this job are known."""
        *_, directory = [word.partition("=")[2] for word in self.words if word.startswith("run.directory=")]
        return directory


def run_to_its_end(job: Job, timeout_s: float) -> None:
    """Start a job and wait until its run is finished; RunError if it is not."""
    job.start()
    end_s = time.monotonic() + timeout_s
    try:
        while not job.has_ended():
            if time.monotonic() > end_s:
                raise RunError(f"the run without faults has not finished within {timeout_s:,.0f} s; see {job.log}")
            time.sleep(POLL_S)
    finally:
        job.stop()
    if not job.is_finished():
        errors = ERROR.findall(job.printed())
        reason = errors[-1].removeprefix("error: ") if errors else "it has printed no error"
        raise RunError(f"the run without faults has not finished: {reason}; see {job.log}")


def _copy(source: IO[bytes], target: Path) -> None:
    """Append what comes from a pipe to a file, until its writers have ended."""
    with source, target.open("ab", buffering=0) as file:
        while content := source.read1():  # type: ignore[attr-defined]
            file.write(content)


def number(text: str) -> int:
    """Return a number that was printed with commas."""
    return int(text.replace(",", ""))
