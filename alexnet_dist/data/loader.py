"""Decode ahead of the training step: worker processes write samples directly into one shared ring.

The rank passes one BatchRequest per batch; DataLoader's worker processes decode and crop its samples into a slot of the
ring. Only the slot's number and the list of bad samples cross the queue. The ring is anonymous shared memory: it needs
no space in /dev/shm, and nothing is left behind, however the processes end.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from alexnet_dist.data import pinning
from alexnet_dist.data.decoder import BatchRequest, Decoder, Message, SlotRequest, labels, pixels, row_bytes
from alexnet_dist.data.prefetcher import Prefetcher
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system import process, resources
from alexnet_dist.system.signals import GROUP_SIGNALS

__all__ = ["BatchRequest", "LoadedBatch", "Loader", "labels", "pixels", "row_bytes", "worker_death_as_error"]

# Requests queued per worker; more only makes the ring larger.
PREFETCH = 2
# Slots besides those of queued requests: the batch in use, the one before it, and one spare.
SPARE_SLOTS = 3
# Of DataLoader's queues, one a worker and one for results, and its event.
LOCKS_PER_WORKER, FIXED_LOCKS = 3, 8
# Bad samples below which the fraction is not checked: otherwise the first bad sample of a run could stop it.
MIN_BAD = 10
# The message of torch's error for workers that died.
WORKER_DEATH = re.compile(
    r"DataLoader worker \(pid(\(s\))? (?P<pids>[\d, ]+)\) (is killed by signal: (?P<signal>[^.]+)|exited)"
)


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """A request's samples.

    rows: uint8 (n, row_bytes), a view of the ring, valid until the batch after the next one is requested; an empty row
    is zeros with label -1. bad: reports on the planned samples for which another one was substituted.
    """

    request: BatchRequest
    rows: torch.Tensor
    bad: tuple[BadSample, ...]


class Loader:
    """The worker processes and their ring.

    Construct it in the main thread, before the metrics server, the process group and CUDA exist: it forks immediately.
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
        """Allocate the ring and fork the workers; with workers=0 this process decodes, with the same code.

        rows: of the largest request. max_bad_fraction: of all requested samples, above which the run stops.
        ahead_bytes: of remote shards that a separate process fetches before the workers need them.
        Raises UserError if the crop is larger than a split's images, or the ring does not fit in memory, and RunError
        if the processes cannot be started.
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
        self._sampler = _RequestSampler(warm_ups=workers * PREFETCH, slots=shape[0], rows=rows)
        loader = DataLoader(
            Decoder(splits, self.ring.numpy(), seed, crop),
            batch_size=None,
            sampler=self._sampler,
            collate_fn=_keep_message,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,  # at the end of the requests torch leaves them alone: `close` ends them
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=partial(_init_worker, os.getpid()),
            generator=torch.Generator(),  # DataLoader draws an unused number: not from the global generator
        )
        self._prefetcher = Prefetcher(splits, 0)  # without a process
        self._messages: Iterator[Message] = iter(())
        self._fork(loader, splits, ahead_bytes)
        self._running: Generator[LoadedBatch, None, None] | None = None
        self._pinned = False
        # At exit Python sends its children SIGTERM and joins them; workers ignore SIGTERM, so it would wait forever.
        atexit.register(self.close)

    def _fork(self, loader: DataLoader[Message], splits: Mapping[str, Split], ahead_bytes: int) -> None:
        if loader.num_workers:
            resources.check_room_for_locks(FIXED_LOCKS + LOCKS_PER_WORKER * loader.num_workers)
        # Blocked until the processes ignore them, so that none of them is killed in between.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        try:
            self._prefetcher = Prefetcher(splits, ahead_bytes)
            self._messages = iter(loader)
            # The workers take the lock of torch's event at each request. One that is killed may hold it for ever, and
            # torch asks the event whenever a worker has died. Here nobody sets it: workers are ended by `close`.
            if loader.num_workers:
                self._messages._workers_done_event = threading.Event()  # type: ignore[attr-defined]
        except OSError as error:
            self._prefetcher.close()
            raise RunError(
                f"data.workers: {loader.num_workers} loader processes could not be started: {error.strerror}; lower it,"
                " or raise the limit on processes or memory"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def pin(self) -> None:
        """Register the ring with CUDA until `close`; call it once, after CUDA is initialized in this process.

        Raises RunError if CUDA reports an error.
        """
        if self._pinned:
            raise RuntimeError("Loader.pin may be called only once: the ring is already registered")
        pinning.register(self.ring)
        self._pinned = True

    def run(self, requests: Iterable[BatchRequest]) -> Iterator[LoadedBatch]:
        """Return the batches of the requests, in the same order; call it once.

        Requests are read a few ahead of the batches. Raises UserError if too many samples are bad, RunError if a
        worker was killed, and any exception raised in a worker.
        """
        if self._running is not None:
            raise RuntimeError("Loader.run may be called only once: its workers read a single stream of requests")
        self._sampler.requests = self._prefetcher.watch(iter(requests))
        self._running = self._batches()
        return self._running

    def _batches(self) -> Generator[LoadedBatch, None, None]:
        with worker_death_as_error():
            for message in self._messages:
                if message is None:
                    continue
                request = self._sampler.in_flight.popleft()
                if isinstance(message, Exception):
                    raise message
                slot, bad = message
                self._count(request, bad)
                yield LoadedBatch(request, self.ring[slot, : len(request.ids)], bad)

    def _count(self, request: BatchRequest, bad: tuple[BadSample, ...]) -> None:
        self._samples += int((request.ids >= 0).sum())
        self._bad += len(bad)
        self._last_bad.extend(bad)
        if self._bad >= MIN_BAD and self._bad > self._max_bad_fraction * self._samples:
            raise UserError(
                f"{self._bad} of {self._samples} samples could not be read, more than data.max_bad_fraction ="
                f" {self._max_bad_fraction} allows; the last: {'; '.join(map(str, self._last_bad))}."
                " Pack the images again, or raise data.max_bad_fraction"
            )

    def close(self) -> None:
        """Kill the processes, discarding requests in flight; may be called again."""
        atexit.unregister(self.close)
        messages, self._messages = self._messages, iter(())
        # Torch may raise a worker's death in here too; workers that are left would keep this process from ending.
        with ExitStack() as stack:
            if self._pinned:
                self._pinned = False
                stack.callback(pinning.unregister, self.ring)
            stack.callback(_kill_workers, messages)
            stack.callback(self._prefetcher.close)
            if self._running is not None:
                stack.callback(self._running.close)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def worker_death_as_error() -> Iterator[None]:
    """Turn torch's error for a dead worker into a RunError that names the likely cause.

    Put it around all code that runs while a Loader is open. Torch raises in a handler of SIGCHLD, so at any point of
    the main thread, such as in backward, and code there may have turned the error into another one.
    """
    try:
        yield
    except Exception as error:
        deaths: list[re.Match[str]] = []
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, RuntimeError):
                deaths += [death for death in (WORKER_DEATH.search(str(cause)),) if death]
            cause = cause.__cause__ or cause.__context__
        if not deaths:
            raise
        # While waiting for a batch, torch chains an error without the signal to the one that names the signal.
        death = max(deaths, key=lambda match: match["signal"] is not None)
        raise RunError(_death_message(death["pids"], death["signal"])) from None


def _death_message(pids: str, signal_text: str | None) -> str:
    """Return the message for dead workers; signal_text: the C library's name of the signal, if torch knows it."""
    memory = "memory ran out: lower data.workers, or give the run more memory"
    shard = (
        "a shard was changed or can no longer be read: check the disk, and check the packed set with"
        " python -m alexnet_dist.pack FOLDER --verify"
    )
    causes = {signal.SIGKILL: memory, signal.SIGBUS: shard}
    numbers = (number for number in signal.valid_signals() if signal_text and signal.strsignal(number) == signal_text)
    number = next(numbers, None)
    cause = causes.get(signal.Signals(number)) if number else None
    event = "died" if signal_text is None else f"was killed by a signal ({signal_text})"
    return f"loader process {pids} {event}; most likely {cause or f'{memory}; or {shard}'}. Then start the run again"


class _RequestSampler(Sampler[SlotRequest]):
    """DataLoader's sampler: first None to warm the workers up, then the requests, which are set after the fork.

    in_flight: requests that were sent to the workers and whose messages have not been read.
    """

    def __init__(self, warm_ups: int, slots: int, rows: int) -> None:
        self.requests: Iterator[BatchRequest] = iter(())
        self.in_flight: deque[BatchRequest] = deque()
        self._warm_ups, self._slots, self._rows = warm_ups, slots, rows

    def __iter__(self) -> Iterator[SlotRequest]:
        for _ in range(self._warm_ups):
            yield None
        for position, request in enumerate(self.requests):
            if len(request.ids) > self._rows:
                raise ValueError(f"a request of {len(request.ids)} rows; the loader accepts at most {self._rows}")
            self.in_flight.append(request)
            yield position % self._slots, request


def _init_worker(rank: int, _worker: int) -> None:
    process.init_worker(rank)
    # Torch's handler reports too little shared memory; here the cause is a mapped shard that cannot be read.
    signal.signal(signal.SIGBUS, signal.SIG_DFL)


def _kill_workers(iterator: Any) -> None:
    """Kill the workers of DataLoader's iterator, then let it release its queues and threads.

    Its own shutdown waits for a worker that is downloading, then sends SIGTERM, which workers ignore. It runs when the
    iterator is collected, which a traceback may delay.
    """
    workers = getattr(iterator, "_workers", [])
    if not workers:
        return
    if iterator._worker_pids_set:
        iterator._worker_pids_set = False
        torch._C._remove_worker_pids(id(iterator))  # otherwise torch raises their deaths as errors in this thread
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    iterator._shutdown_workers()


def _keep_message(message: Any) -> Any:
    """Return the message unchanged: DataLoader's default would convert its arrays to tensors."""
    return message
