"""The faults of the drill: what each one does to a job, and how it is mended."""

from __future__ import annotations

import mmap
import os
import resource
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from alexnet_dist.doctor.chaos.job import Job
from alexnet_dist.system import process

NO_ROOM_BYTES = 1024  # the size above which no file can be written while the disk is full


@dataclass(frozen=True)
class Harm:
    """A fault that was injected. what: to whom. undo: undoes it, if it does not pass by itself.

    noticed: text in the job's output after which it is mended; empty: once torchrun has ended, or after some seconds.
    """

    what: str
    undo: Callable[[], None] | None = None
    noticed: str = ""


@dataclass(frozen=True)
class Paths:
    """Where a job's files are. shards: the drill's own copy of the training shards, None if there is none."""

    run: Path
    shards: Path | None


Inject = Callable[[Job, Paths, Random], Harm | None]


def kill_rank(job: Job, _paths: Paths, random: Random) -> Harm | None:
    """Kill a rank, as the kernel does when memory is short."""
    return _signal_rank(job, random, signal.SIGKILL)


def stop_rank(job: Job, _paths: Paths, random: Random) -> Harm | None:
    """Stop a rank, which then neither works nor ends, as on a machine that hangs."""
    return _signal_rank(job, random, signal.SIGSTOP)


def _signal_rank(job: Job, random: Random, sent: signal.Signals) -> Harm | None:
    rank = random.randrange(job.ranks)
    return Harm(f"rank {rank}") if _send(job.rank_process(rank), sent) else None


def kill_loader(job: Job, _paths: Paths, random: Random) -> Harm | None:
    """Kill a loader process of a rank."""
    rank = random.randrange(job.ranks)
    pid = job.rank_process(rank)
    loaders = sorted(process.children(pid)) if pid is not None else []
    if not (loaders and _send(random.choice(loaders), signal.SIGKILL)):
        return None
    return Harm(f"a loader process of rank {rank}")


def kill_agent(job: Job, _paths: Paths, _random: Random) -> Harm | None:
    """Kill torchrun's agent, with which its ranks end, as if the machine lost power; the drill starts the job again."""
    return Harm("torchrun and its ranks") if _send(job.agent, signal.SIGKILL) else None


def terminate(job: Job, _paths: Paths, _random: Random) -> Harm | None:
    """Ask the job to stop, as a scheduler does; the drill starts it again."""
    return Harm("torchrun") if _send(job.agent, signal.SIGTERM) else None


def fill_disk(job: Job, _paths: Paths, _random: Random) -> Harm | None:
    """Let no rank write a file of more than a kilobyte, until a checkpoint could not be written."""
    limited = [pid for rank in range(job.ranks) if (pid := job.rank_process(rank)) is not None]
    if len(limited) < job.ranks:
        return None
    for pid in limited:
        _limit(pid, NO_ROOM_BYTES)

    def undo() -> None:
        for pid in limited:
            _limit(pid, resource.RLIM_INFINITY)

    return Harm("all ranks", undo, "not written: ")


def _limit(pid: int, size_bytes: int) -> None:
    with suppress(OSError):  # it has ended
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        soft = hard if size_bytes == resource.RLIM_INFINITY else size_bytes
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def tear_checkpoint(job: Job, paths: Paths, random: Random) -> Harm | None:
    """Cut the newest checkpoint in half, as a crash of a disk does, and kill a rank; an older one must be used."""
    from alexnet_dist.runs import checkpoint  # imports torch: --help names the faults without it

    home = paths.run / "checkpoints"
    steps = sorted(checkpoint.finished_steps(home))
    if len(steps) < 2:
        return None
    newest = checkpoint.step_directory(home, steps[-1]) / checkpoint.tower_file(0)
    harm = kill_rank(job, paths, random)
    if harm is None:
        return None
    try:
        os.truncate(newest, newest.stat().st_size // 2)
    except FileNotFoundError:  # it was replaced by a newer one
        return harm
    return Harm(f"the checkpoint of step {steps[-1]}, and {harm.what}")


def cut_shard(_job: Job, paths: Paths, random: Random) -> Harm | None:
    """Cut a training shard in half while it is read, and put it back."""
    assert paths.shards is not None, "left out without a copy of the shards"
    path = random.choice(sorted(paths.shards.glob("train-*.tar")))
    content = path.read_bytes()
    # Whole pages: of a page that is cut the rest reads as zeros, and a sample in it as a damaged one.
    kept = len(content) // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    os.truncate(path, kept)
    # Into the same file, which processes have mapped: they would not see another one.
    return Harm(path.name, lambda: _restore(path, content, kept))


def _restore(path: Path, content: bytes, kept: int) -> None:
    with path.open("r+b") as file:
        file.seek(kept)
        file.write(content[kept:])


def _send(pid: int | None, sent: signal.Signals) -> bool:
    """Send a signal; return whether there was such a process."""
    if pid is None:
        return False
    try:
        os.kill(pid, sent)
    except ProcessLookupError:
        return False
    return True


KINDS: Mapping[str, Inject] = {
    "kill-rank": kill_rank,
    "kill-loader": kill_loader,
    "kill-agent": kill_agent,
    "stop-rank": stop_rank,
    "terminate": terminate,
    "full-disk": fill_disk,
    "torn-checkpoint": tear_checkpoint,
    "cut-shard": cut_shard,
}
