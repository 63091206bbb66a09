"""The loader's processes: they ignore signals to their process group, end quickly and never outlive their rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_dist.data.loader import BatchRequest, Loader
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import RunError
from support.loaders import children, open_loader, training_requests
from support.remote_server import HttpServer
from support.remote_sets import remote_set

Pack = Callable[..., Path]


@pytest.fixture
def split(pack_tiny: Pack) -> Split:
    return Split.open(pack_tiny(), "train")


def test_workers_ignore_the_signals_to_their_process_group(split: Split) -> None:
    before = children()
    with open_loader(split, workers=2) as loader:
        workers = children() - before
        requests = training_requests(24)
        count = 0
        for batch in loader.run(requests):
            count += len(batch.rows) > 0
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                if count % 5 == 1:
                    for worker in workers:
                        os.kill(worker, number)
        assert count == len(requests)


def test_signals_of_the_rank_are_as_before(split: Split) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with open_loader(split, workers=1):
        assert (signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before


@pytest.mark.parametrize("moment", ["unused", "midway", "done"])
def test_close_is_quick_and_leaves_no_worker(split: Split, moment: str) -> None:
    before = children()
    loader = open_loader(split, workers=2)
    workers = children() - before
    assert len(workers) == 2
    if moment != "unused":
        batches = loader.run(training_requests(9))
        next(batches)
        if moment == "done":
            list(batches)
    began_s = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - began_s < 2.0
    assert not [worker for worker in workers if is_alive(worker)]
    if moment == "midway":
        assert next(batches, None) is None


def test_a_death_that_is_raised_in_close_leaves_no_worker(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def notice_a_death() -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = children()
    loader = open_loader(split, workers=2)
    workers = children() - before
    monkeypatch.setattr(loader, "_running", SimpleNamespace(close=notice_a_death))
    with pytest.raises(RuntimeError, match="killed by signal"):
        loader.close()
    assert not [worker for worker in workers if is_alive(worker)]


def test_close_is_quick_while_downloads_stall(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    root = pack_tiny()
    http_server.fail({root / f"train-{number:06d}.tar": ["slow*"] for number in (1, 2)})
    split = Split.open(remote_set(http_server.url(root), tmp_path), "train")
    before = children()
    loader = Loader({"train": split}, seed=5, crop=14, rows=6, workers=2, max_bad_fraction=0.1, ahead_bytes=10_000_000)
    processes = children() - before
    assert len(processes) == 3
    # The first shard arrives; of the second and third, the workers and the prefetcher's process have only half.
    batches = (np.arange(6), np.array([7]), np.arange(8, 14))
    next(loader.run([BatchRequest("train", 0, ids, random_crop=True) for ids in batches]))
    while not http_server.gets().keys() >= {"train-000001.tar", "train-000002.tar"}:
        time.sleep(0.01)
    began_s = time.monotonic()
    loader.close()
    assert time.monotonic() - began_s < 2.0  # DataLoader itself waits for 5 s, then for the server
    assert not [process for process in processes if is_alive(process)]


def test_processes_that_cannot_be_started_are_reported_and_none_is_left(
    pack_tiny: Pack, http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, before = Split.open(remote_set(http_server.url(pack_tiny()), tmp_path), "train"), children()

    def fail(_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", fail)
    with pytest.raises(RunError, match=r"data\.workers: 2 loader .* not be started: Resource temporarily unavailable;"):
        Loader({"train": split}, seed=5, crop=14, rows=6, workers=2, max_bad_fraction=0.1, ahead_bytes=10_000_000)
    assert children() == before


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# A rank that loads forever, or exits without closing its loader.
RANK = """
import multiprocessing, sys
from itertools import repeat
from pathlib import Path
import numpy as np
from alexnet_dist.data.loader import Loader, BatchRequest
from alexnet_dist.data.reader import Split

loader = Loader({"train": Split.open(Path(sys.argv[1]), "train")},
                seed=0, crop=14, rows=6, workers=2, max_bad_fraction=0.0)
batches = loader.run(repeat(BatchRequest("train", 0, np.arange(6), True)))
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
while sys.argv[2] == "forever":
    next(batches)
raise SystemExit(3)
"""


@contextmanager
def running_rank(root: Path, how_long: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a rank, and yield it with its workers' process ids when it has its first batch."""
    rank = subprocess.Popen([sys.executable, "-c", RANK, str(root), how_long], stdout=subprocess.PIPE, text=True)
    with rank:
        try:
            assert rank.stdout is not None
            yield rank, [int(pid) for pid in rank.stdout.readline().split()]
        finally:
            rank.kill()


def names_in_shared_memory(pid: int) -> list[str]:
    """Return the files in /dev/shm that a process has mapped or holds open."""
    mapped = [line.split(maxsplit=5)[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line]
    opened = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return [name for name in mapped + opened if name.startswith("/dev/shm")]


def test_a_killed_rank_leaves_no_worker_and_nothing_in_dev_shm(pack_tiny: Pack) -> None:
    with running_rank(pack_tiny(), "forever") as (rank, workers):
        assert len(workers) == 2
        for pid in (rank.pid, *workers):
            assert is_alive(pid)
            # Semaphores are unlinked as soon as they are created; the ring never had a name.
            assert [name for name in names_in_shared_memory(pid) if not name.endswith(" (deleted)")] == []
    deadline_s = time.monotonic() + 2.0  # DataLoader itself would take 5 s
    while any(is_alive(worker) for worker in workers) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not [worker for worker in workers if is_alive(worker)]


def test_a_rank_that_forgets_to_close_still_ends(pack_tiny: Pack) -> None:
    with running_rank(pack_tiny(), "once") as (rank, workers):
        assert rank.wait(timeout=20) == 3
        assert not [worker for worker in workers if is_alive(worker)]
