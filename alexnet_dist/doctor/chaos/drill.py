"""The drill: inject faults into a job at random times, and wait until it has recovered from each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from alexnet_dist.doctor.chaos.faults import KINDS, Harm, Paths
from alexnet_dist.doctor.chaos.job import ERROR, POLL_S, RESUMED, STARTED, STEP, Job, number
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS
from alexnet_dist.system.wording import counted

UNNOTICED_S = 15.0  # after which a fault that nothing shows is mended, if it is not expected to show
WAIT_FOR_RANKS_S = 10.0  # of an agent that has ended


@dataclass(frozen=True)
class Record:
    """One fault: its kind, what it hit, the last step before it, and the steps that had to be trained again.

    recovery_s: until the job was as before, None if it was not within the limit. started_again: whether torchrun had
    ended, so that the drill has started it again, as a scheduler does.
    """

    kind: str
    what: str
    step: int
    lost_steps: int
    recovery_s: float | None
    started_again: bool = False


@dataclass(frozen=True)
class Limits:
    """mean_s: between a recovery and the next fault, on average. recovery_s: most seconds until a job trains again."""

    mean_s: float
    recovery_s: float


@dataclass(frozen=True)
class Before:
    """Where a job was when a fault hit it: its last step, the size of its output, and the time."""

    step: int
    offset: int
    time_s: float


def drill(
    job: Job, paths: Paths, kinds: Sequence[str], faults: int, limits: Limits, random: Random
) -> tuple[list[Record], bool]:
    """Start a job, inject faults until there were enough or the run has ended, and let it finish.

    Returns a record of each fault, and whether the run has finished. The kinds come in a random order, again and again.
    A fault that is impossible at its time, such as a torn checkpoint before there are two, is tried again later.
    """
    job.start()
    records: list[Record] = []
    waiting: list[str] = []
    _wait_for_step(job, limits.recovery_s)
    while len(records) < faults and _wait(job, random.expovariate(1 / limits.mean_s)):
        if not waiting:
            waiting = random.sample(list(kinds), len(kinds))
        kind = waiting.pop(0)
        before = Before(job.last_step(), job.offset(), time.monotonic())
        harm = KINDS[kind](job, paths, random)
        if harm is None:
            waiting.append(kind)
            continue
        record = _recover(job, paths, kind, harm, before, limits.recovery_s)
        records.append(record)
        print(f"{len(records)}/{faults}: {describe(record)}", file=sys.stderr, flush=True)
        if record.recovery_s is None:
            return records, False
    return records, _finish(job, limits.recovery_s)


def describe(record: Record) -> str:
    """Return a record as a line."""
    end = "no recovery" if record.recovery_s is None else f"trains again after {record.recovery_s:.1f} s"
    by = ", started again" if record.started_again else ""
    return f"{record.kind} ({record.what}) at step {record.step}: {end}, {counted(record.lost_steps, 'step')} lost{by}"


def _wait(job: Job, seconds: float) -> bool:
    """Wait while the job trains; return whether it still does."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not job.has_ended():
        time.sleep(POLL_S)
    return not (job.has_ended() or job.is_finished())


def _wait_for_step(job: Job, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not job.last_step() and time.monotonic() < end_s and not job.has_ended():
        time.sleep(POLL_S)


def _recover(job: Job, paths: Paths, kind: str, harm: Harm, before: Before, timeout_s: float) -> Record:
    """Mend what was harmed once it is noticed, start the job again if it has ended, and wait until it is as before.

    It is when it has resumed and trains, or, if it has not stopped training, when it has saved a newer checkpoint.
    """
    is_undone, what, starts = harm.undo is None, harm.what, job.starts
    patience_s = timeout_s / 2 if harm.noticed else UNNOTICED_S
    try:
        while (elapsed_s := time.monotonic() - before.time_s) < timeout_s:
            time.sleep(POLL_S)
            ended = job.has_ended()
            printed = job.printed(before.offset)
            started, error = STARTED.search(printed), ERROR.search(printed)
            shows = ended or started or error or (harm.noticed and harm.noticed in printed)
            if harm.undo is not None and not is_undone and (shows or elapsed_s > patience_s):
                harm.undo()
                is_undone = True
                what += "" if shows else ", not noticed"
            if ended:
                if job.is_finished():
                    return Record(kind, what, before.step, 0, elapsed_s, job.starts > starts)
                job.wait_for_ranks(WAIT_FOR_RANKS_S)
                job.start()
            elif is_undone and started:
                if (trains := STEP.search(printed, started.end())) is not None:
                    lost = _lost(printed[: trains.start()], started.start(), before.step)
                    return Record(kind, what, before.step, lost, elapsed_s, job.starts > starts)
            elif is_undone and harm.undo is not None and not error and _saved(paths) > before.step:
                return Record(kind, what, before.step, 0, elapsed_s)
        return Record(kind, what, before.step, 0, None, job.starts > starts)
    finally:
        if harm.undo is not None and not is_undone:
            harm.undo()


def _lost(printed: str, started: int, step: int) -> int:
    """Return how many steps are trained again after a start at a position of what was printed since a step."""
    steps = [number(text) for text in STEP.findall(printed[:started])]
    resumed = RESUMED.search(printed, started)
    return max(0, max([step, *steps]) - (number(resumed[1]) if resumed else 0))


def _saved(paths: Paths) -> int:
    """Return the step of the newest checkpoint."""
    return max(checkpoint.finished_steps(paths.run / CHECKPOINTS), default=0)


def _finish(job: Job, patience_s: float) -> bool:
    """Wait for the end of a job that no fault hits any more; return whether its run is finished.

    patience_s: without a new step, after which it counts as lost.
    """
    last, since_s = job.last_step(), time.monotonic()
    while not job.has_ended():
        time.sleep(POLL_S)
        if (step := job.last_step()) != last:
            last, since_s = step, time.monotonic()
        elif time.monotonic() - since_s > patience_s:
            return False
    return job.is_finished()
