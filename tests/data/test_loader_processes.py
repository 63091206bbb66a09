"""The loader's processes: they ignore signals to their process group, end quickly and never outlive their rank."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_dist.data.loader import BatchRequest, Loader, worker_death_as_error
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import RunError
from support.remote_server import HttpServer
from support.remote_sets import remote_set

Pack = Callable[..., Path]


@pytest.fixture
def split(pack_tiny: Pack) -> Split:
    return Split.open(pack_tiny(), "train")


def open_loader(split: Split, workers: int) -> Loader:
    return Loader({"train": split}, seed=5, crop=14, rows=6, workers=workers, max_bad_fraction=0.1)


def training_requests(count: int) -> list[BatchRequest]:
    return [BatchRequest("train", epoch, np.arange(6), random_crop=True) for epoch in range(count)]


def children() -> set[int]:
    """Return the child processes of this one, started by any test."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


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


def fail_outside_the_loader() -> None:
    """Run other code, as backward would be, when a worker's death is noticed, and raise another error for it."""
    try:
        time.sleep(20)
    except RuntimeError:
        raise ValueError("an error raised by a library")  # noqa: B904


@pytest.mark.parametrize("where", ["loading", "elsewhere"])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"\(Killed\); most likely memory ran out: lower data\.workers, or give .* memory\. Then"),
        (
            signal.SIGBUS,
            r"\(Bus error\); most likely a shard was changed or can no longer be read: .* --verify\. Then",
        ),
        (signal.SIGSEGV, r"\(Segmentation fault\); most likely memory .*; or a shard was changed"),
    ],
)
def test_a_killed_worker_is_reported_with_its_likely_cause(
    split: Split, number: signal.Signals, message: str, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def load_and_lose_a_worker() -> None:
        before = children()
        with open_loader(split, workers=2) as loader:
            batches = loader.run(repeat(training_requests(1)[0]))
            next(batches)
            os.kill(min(children() - before), number)
            if where == "elsewhere":
                fail_outside_the_loader()
            deque(batches, maxlen=0)

    with (
        pytest.raises(RunError, match=rf"^loader process \d+ was killed by a signal {message}"),
        worker_death_as_error(),
    ):
        load_and_lose_a_worker()
    assert "shared memory" not in capfd.readouterr().err


@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_while_it_holds_a_lock_is_reported(
    split: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rank, told = os.getpid(), tmp_path / "told"

    def die_with_the_lock(event: Event) -> bool:
        if os.getpid() != rank and told.exists():
            event._cond.acquire()  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    monkeypatch.setattr(Event, "is_set", die_with_the_lock)

    def load_and_lose_a_worker() -> None:
        with open_loader(split, workers=2) as loader:
            monkeypatch.undo()  # this process waits for locks as torch does
            batches = loader.run(repeat(training_requests(1)[0]))
            next(batches)
            told.touch()
            deque(batches, maxlen=0)

    with (
        pytest.raises(RunError, match=r"^loader process .* was killed by a signal \(Killed\)"),
        worker_death_as_error(),
    ):
        load_and_lose_a_worker()


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^another error$"), worker_death_as_error():
        raise RuntimeError("another error")


def test_a_death_that_was_noticed_late_is_reported() -> None:
    with (
        pytest.raises(RunError, match=r"^loader process 7, 8 died; most likely memory .*; or a shard "),
        worker_death_as_error(),
    ):
        raise RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: shard.unlink(), "No such file or directory since the packed set was opened"),
        (lambda shard: os.truncate(shard, 0), "truncated to 0 bytes since the packed set was opened"),
        (lambda shard: os.truncate(shard, 1000), "truncated to 1,000 bytes since the packed set was opened"),
    ],
)
def test_a_shard_that_changes_under_a_run_is_named(
    pack_tiny: Pack, damage: Callable[[Path], object], message: str
) -> None:
    root = pack_tiny()
    with open_loader(Split.open(root, "train"), workers=1) as loader:
        damage(root / "train-000002.tar")
        with pytest.raises(RunError, match=rf"{root}/train-000002\.tar: {message}.* start the run again"):
            list(loader.run([BatchRequest("train", 0, np.arange(8, 14), random_crop=True)]))


def test_a_shard_truncated_while_it_is_mapped_is_reported_by_its_signal(pack_tiny: Pack) -> None:
    root = pack_tiny()
    request = BatchRequest("train", 0, np.arange(8, 14), random_crop=True)
    with open_loader(Split.open(root, "train"), workers=1) as loader:
        batches = loader.run(repeat(request))
        next(batches)
        os.truncate(root / "train-000002.tar", 1000)
        with pytest.raises(RunError, match=r"Bus error.* a shard was changed"):
            deque(batches, maxlen=0)


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
