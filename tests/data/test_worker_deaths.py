"""A loader process that dies, or a shard that changes under it: one sentence with the likely cause."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.loader import BatchRequest, worker_death_as_error
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import RunError
from support.loaders import children, open_loader, training_requests

Pack = Callable[..., Path]


@pytest.fixture
def split(pack_tiny: Pack) -> Split:
    return Split.open(pack_tiny(), "train")


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
