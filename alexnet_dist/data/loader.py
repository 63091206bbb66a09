"""Decode ahead of the training step: worker processes that write samples straight into one shared ring.

The rank says what is wanted, an BatchRequest a batch; DataLoader's worker processes decode and crop it into a slot of the
ring; only the slot's number and the list of bad samples cross the queue. The ring is anonymous shared memory, so it
needs no room in /dev/shm and nothing is left behind, however the processes end.
"""

from __future__ import annotations

import atexit
import math
import mmap
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from alexnet_dist import process
from alexnet_dist.data import pinning
from alexnet_dist.data.decoder import Decoder, Message, BatchRequest, SlotRequest, labels, pixels, row_bytes
from alexnet_dist.data.prefetcher import Prefetcher
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import RunError, UserError

__all__ = ["LoadedBatch", "Loader", "BatchRequest", "labels", "pixels", "row_bytes", "worker_death_as_error"]

# Orders that each worker has before it; more only makes the ring larger.
PREFETCH = 2
# Beside the orders under way: the batch in use, the one before it, and one to spare.
SPARE_SLOTS = 3
# Bad samples below which no fraction is too large: the first bad one of a run would otherwise stop it.
FEWEST_BAD = 10
# What torch says of workers that have died.
DEATH = re.compile(
    r"DataLoader worker \(pid(\(s\))? (?P<pids>[\d, ]+)\) (is killed by signal: (?P<signal>[^.]+)|exited)"
)


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """An order's samples.

    rows: uint8 (n, row_bytes), a view of the ring, valid until the second next batch is asked for; an empty row is
    zeros with label -1. bad: reports on the planned samples that another one stands in for.
    """

    order: BatchRequest
    rows: torch.Tensor
    bad: tuple[BadSample, ...]


class Loader:
    """The worker processes and their ring.

    Construct it in the main thread, before the metrics server, the process group and CUDA exist: it forks at once.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        *,
        seed: int,
        crop: int,
        rows: int,
        workers: int,
        max_bad_fraction: float,
        ahead_bytes: int = 0,
    ) -> None:
        """Allocate the ring and fork the workers; with workers=0 this process decodes, by the same code.

        rows: of the largest order. max_bad_fraction: of all samples asked for, beyond which the run stops.
        ahead_bytes: of remote shards that one more process fetches before the workers want them.
        Raises UserError where the crop is larger than a split's images.
        """
        for split in splits.values():
            if crop > split.manifest.size:
                raise UserError(
                    f"data.crop: {crop}; the images in {split.root} have {split.manifest.size} pixels a side"
                )
        self.crop = crop
        self._max_bad_fraction = max_bad_fraction
        self._samples = self._bad = 0
        self._last_bad: deque[BadSample] = deque(maxlen=3)
        shape = (workers * PREFETCH + SPARE_SLOTS, rows, row_bytes(crop))
        try:
            memory = mmap.mmap(-1, max(1, math.prod(shape)))
        except (OSError, OverflowError, ValueError):
            raise UserError(
                f"{rows:,} images at once, in {shape[0]} slots, need {math.prod(shape) / 1e9:,.1f} GB of memory; lower"
                " data.eval_rows, data.global_batch or data.workers"
            ) from None
        self.ring = torch.frombuffer(memory, dtype=torch.uint8).view(shape)
        self._feed = _Feed(warm_ups=workers * PREFETCH, slots=shape[0], rows=rows)
        loader = DataLoader(
            Decoder(splits, self.ring.numpy(), seed, crop),
            batch_size=None,
            sampler=self._feed,
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=partial(_settle, os.getpid()),
            generator=torch.Generator(),  # its own: DataLoader draws a number that nobody uses
        )
        self._ahead = Prefetcher(splits, 0)  # with no process yet
        self._messages: Iterator[Message] = iter(())
        self._fork(loader, splits, ahead_bytes)
        self._running: Generator[LoadedBatch, None, None] | None = None
        self._pinned = False
        # Workers ignore SIGTERM, by which Python would end them as it exits, and would be waited for in vain.
        atexit.register(self.close)

    def _fork(self, loader: DataLoader[Message], splits: Mapping[str, Split], ahead_bytes: int) -> None:
        # Held back until the processes ignore them, so that none dies of one in between.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, process.GROUP_SIGNALS)
        try:
            self._ahead = Prefetcher(splits, ahead_bytes)
            self._messages = iter(loader)
        except OSError as error:
            self._ahead.close()
            raise RunError(
                f"data.workers: {loader.num_workers} loader processes could not be started: {error.strerror}; lower it,"
                " or raise the limit on processes or memory"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def pin(self) -> None:
        """Register the ring with CUDA until `close`; call once, when CUDA is up in this process.

        Raises RunError where CUDA refuses.
        """
        if self._pinned:
            raise RuntimeError("Loader.pin is called once: the ring is registered already")
        pinning.register(self.ring)
        self._pinned = True

    def run(self, orders: Iterable[BatchRequest]) -> Iterator[LoadedBatch]:
        """Return the batches of the orders, in order; call once.

        Orders are asked for a few ahead of the batches. Raises UserError once too many samples are bad, RunError where
        a worker was killed, and whatever else goes wrong in a worker.
        """
        if self._running is not None:
            raise RuntimeError("Loader.run is called once: its workers follow one stream of orders")
        self._feed.orders = self._ahead.watch(iter(orders))
        self._running = self._batches()
        return self._running

    def _batches(self) -> Generator[LoadedBatch, None, None]:
        with worker_death_as_error():
            for message in self._messages:
                if message is None:
                    continue
                order = self._feed.sent.popleft()
                if isinstance(message, Exception):
                    raise message
                slot, bad = message
                self._count(order, bad)
                yield LoadedBatch(order, self.ring[slot, : len(order.ids)], bad)

    def _count(self, order: BatchRequest, bad: tuple[BadSample, ...]) -> None:
        self._samples += int((order.ids >= 0).sum())
        self._bad += len(bad)
        self._last_bad.extend(bad)
        if self._bad >= FEWEST_BAD and self._bad > self._max_bad_fraction * self._samples:
            raise UserError(
                f"{self._bad} of {self._samples} samples could not be read, more than data.max_bad_fraction ="
                f" {self._max_bad_fraction} allows; the last: {'; '.join(map(str, self._last_bad))}."
                " Pack the images again, or raise data.max_bad_fraction"
            )

    def close(self) -> None:
        """End the processes at once, dropping what is under way; may be called again."""
        atexit.unregister(self.close)
        if self._running is not None:
            self._running.close()
        messages, self._messages = self._messages, iter(())
        try:
            self._ahead.close()
            _end_workers(messages)
        finally:
            if self._pinned:
                self._pinned = False
                pinning.unregister(self.ring)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def worker_death_as_error() -> Iterator[None]:
    """Turn what torch raises for a dead worker into the RunError that says what may have killed it.

    Put it around whatever runs while a Loader is open: torch raises in a handler of SIGCHLD, so wherever the main
    thread is, in the middle of backward for one, and that may have made another error of it by the time it is here.
    """
    try:
        yield
    except Exception as error:
        deaths: list[re.Match[str]] = []
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, RuntimeError):
                deaths += [death for death in (DEATH.search(str(cause)),) if death]
            cause = cause.__cause__ or cause.__context__
        if not deaths:
            raise
        # While it waits for a batch, torch makes an error without the signal of the one that names it.
        death = max(deaths, key=lambda one: one["signal"] is not None)
        raise RunError(_obituary(death["pids"], death["signal"])) from None


def _obituary(pids: str, killer: str | None) -> str:
    """Return the sentence on dead workers; killer: what the C library calls the signal, where torch has seen it."""
    memory = "memory has run out: lower data.workers, or give the run more memory"
    shard = (
        "a shard was changed, or cannot be read any more: look at the disk, and check the packed set by"
        " python -m alexnet_dist.pack FOLDER --verify"
    )
    causes = {signal.SIGKILL: memory, signal.SIGBUS: shard}
    number = next((one for one in signal.valid_signals() if killer and signal.strsignal(one) == killer), None)
    cause = causes.get(signal.Signals(number)) if number else None
    by = "died" if killer is None else f"was killed by a signal ({killer})"
    return f"loader process {pids} {by}; most likely {cause or f'{memory}; or {shard}'}. Then start again"


class _Feed(Sampler[SlotRequest]):
    """DataLoader's sampler: first what wakes the workers up, then the orders, which nobody knows at the fork."""

    def __init__(self, warm_ups: int, slots: int, rows: int) -> None:
        self.orders: Iterator[BatchRequest] = iter(())
        self.sent: deque[BatchRequest] = deque()
        self._warm_ups, self._slots, self._rows = warm_ups, slots, rows

    def __iter__(self) -> Iterator[SlotRequest]:
        for _ in range(self._warm_ups):
            yield None
        for position, order in enumerate(self.orders):
            if len(order.ids) > self._rows:
                raise ValueError(f"an order of {len(order.ids)} rows; the loader was made for at most {self._rows}")
            self.sent.append(order)
            yield position % self._slots, order


def _settle(rank: int, _worker: int) -> None:
    process.init_worker(rank)
    # Torch's handler says that shared memory may be too small; here, it is a mapped shard that cannot be read.
    signal.signal(signal.SIGBUS, signal.SIG_DFL)


def _end_workers(iterator: Any) -> None:
    """Kill the workers of DataLoader's iterator, whatever they are doing, and let it put the rest away.

    By itself it would wait for a worker that is downloading, and then send the SIGTERM that workers ignore. It ends
    them when it is collected, too, but a traceback may keep it alive.
    """
    workers = getattr(iterator, "_workers", [])
    if not workers:
        return
    if iterator._worker_pids_set:
        iterator._worker_pids_set = False
        torch._C._remove_worker_pids(id(iterator))  # or their deaths would be raised as errors, wherever we are
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    # Nobody is left to see it set, and a worker may have died holding its lock.
    iterator._workers_done_event = threading.Event()
    iterator._shutdown_workers()


def _unchanged(message: Any) -> Any:
    """Stand in for DataLoader's collating, which would make tensors of arrays."""
    return message
