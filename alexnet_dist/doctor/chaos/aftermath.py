"""What is left after a drill, and the report: faults, leaks, and whether the run is the same run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from safetensors.torch import load_file

from alexnet_dist.doctor.chaos.drill import Record, describe
from alexnet_dist.doctor.chaos.job import Job
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS
from alexnet_dist.system.wording import counted

SHARED = Path("/dev/shm")
# What torch, NCCL and Python leave there of a process that they could not clean up after.
SHARED_FILES = ("torch_*", "nccl-*", "sem.*")
RESTARTED = ("kill-rank", "kill-loader", "stop-rank", "torn-checkpoint")  # faults after which torchrun itself restarts


@dataclass(frozen=True)
class Outcome:
    """The outcome of a drill.

    wanted: faults that were asked for. leaked: processes and files that are left. difference: the largest relative
    difference of a weight or velocity at the end from that of the run without faults: 0 if all are equal bit for bit,
    None if they cannot be compared.
    """

    records: Sequence[Record]
    wanted: int
    finished: bool
    leaked: Sequence[str]
    difference: float | None
    starts: int

    @property
    def passed(self) -> bool:
        """Whether the run has survived all faults, if possible by restarts, left nothing, and is the same run."""
        unaided = not any(record.started_again for record in self.records if record.kind in RESTARTED)
        complete = self.finished and len(self.records) == self.wanted
        return complete and unaided and not self.leaked and self.difference == 0

    def text(self) -> str:
        """Return the report."""
        times = [record.recovery_s for record in self.records if record.recovery_s is not None]
        lost = [record.lost_steps for record in self.records]
        lines = ["", *(describe(record) for record in self.records), ""]
        lines.append(
            f"faults           {len(self.records)} of {self.wanted}; the job was started {counted(self.starts, 'time')}"
        )
        if times:
            lines.append(f"recovery         {fmean(times):.1f} s on average, {max(times):.1f} s at most")
            lines.append(f"steps lost       {fmean(lost):.1f} on average, {max(lost)} at most")
        lines.append(f"finished         {'yes' if self.finished else 'no'}")
        lines.append(f"left behind      {'; '.join(self.leaked) or 'nothing'}")
        lines.append(f"the same run     {_same(self.difference)}")
        lines.append(f"result           {'passed' if self.passed else 'failed'}")
        return "\n".join(lines)

    def json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps({**asdict(self), "passed": self.passed})


def _same(difference: float | None) -> str:
    if difference is None:
        return "not compared: a checkpoint is missing"
    return "yes, bit for bit" if difference == 0 else f"no: weights differ by up to {difference:.2g}, relatively"


def files_outside() -> set[Path]:
    """Return the files that jobs of this package leave outside of their directories, of this and of other jobs."""
    found = set(Path(tempfile.gettempdir()).glob("alexnet_dist-*"))
    return found.union(*(SHARED.glob(pattern) for pattern in SHARED_FILES))


def leaks(job: Job, run: Path, before: set[Path]) -> list[str]:
    """Return what a job that has ended has left: processes, half-written files, files outside of its directory."""
    found = [f"process {pid}" for pid in job.processes()]
    found += [str(path) for path in run.rglob("*.tmp")]
    found += [
        f"{path} without a manifest"
        for path in (run / CHECKPOINTS).glob("step-*[0-9]")
        if not (path / checkpoint.MANIFEST).exists()
    ]
    return found + [str(path) for path in sorted(files_outside() - before)]


def difference(run: Path, reference: Path) -> float | None:
    """Return the largest relative difference between two runs' last checkpoints, None without two of the same step."""
    (own, _), (other, _) = (checkpoint.find(directory / CHECKPOINTS) for directory in (run, reference))
    if own is None or other is None or own.step != other.step:
        return None
    if own.state["files"] == other.state["files"]:
        return 0.0
    largest = 1e-30  # the files differ, in numbers that are not finite if in nothing else
    for name in own.state["files"]:
        ours, theirs = load_file(own.directory / name), load_file(other.directory / name)
        for key, tensor in ours.items():
            gap = float((tensor.double() - theirs[key].double()).abs().max())
            largest = max(largest, gap / max(float(theirs[key].double().abs().max()), 1e-30))
    return largest
