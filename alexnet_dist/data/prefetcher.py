"""Fetch remote shards before they are used: one process per rank, driven by a table in shared memory.

The rank looks some way down the stream of batch requests that it passes to its loader. For each shard, it writes into
the table the number of the first request that needs it. The process fetches in that order, and keeps touching the
shards in the table so that no process of the node evicts them from the cache. It is an optimisation only: a worker that
misses a shard fetches it itself and reports any error. A table, unlike a pipe, never makes the rank wait.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from alexnet_dist.data.decoder import BatchRequest
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import CachedShards
from alexnet_dist.system import process

# Most requests looked at in advance, even if the cache could hold the shards of more.
MAX_REQUESTS = 2000
# Requests looked at for each one yielded; a limit, so that the first one is not delayed.
STRIDE = 64
POLL_S = 0.05
# Between two touches of the needed shards, well within cache.IN_USE_S.
TOUCH_S = 1.0
# Shards locked by other processes or without room in the cache, after which the process pauses.
MAX_REFUSALS = 4
# After a failed download, before this process tries the same shard again; workers that need it retry at once.
RETRY_S = 60.0

Table = npt.NDArray[np.int64]


class Prefetcher:
    """The process and its table; without remote splits there is no process."""

    def __init__(self, splits: Mapping[str, Split], budget_bytes: int) -> None:
        """Fork the process. budget_bytes: most bytes of shards to prefetch, this rank's part of the cache."""
        self._budget_bytes = budget_bytes
        self._splits = {name: split for name, split in splits.items() if isinstance(split.shards, CachedShards)}
        self._first_index: dict[str, int] = {}  # of each split's shards in the table
        shards: list[tuple[CachedShards, int]] = []
        for name, split in self._splits.items():
            assert isinstance(split.shards, CachedShards)
            self._first_index[name] = len(shards)
            shards += [(split.shards, number) for number in range(len(split.counts))]
        self._sizes_bytes = [cached.files[number].max_bytes for cached, number in shards]
        self._table: Table = np.frombuffer(mmap.mmap(-1, max(1, 8 * len(shards))), np.int64, len(shards))
        self._process = None
        if shards and budget_bytes:
            fork = multiprocessing.get_context("fork")
            self._process = fork.Process(target=_fetch, args=(os.getpid(), self._table, shards), daemon=True)
            self._process.start()

    def watch(self, requests: Iterator[BatchRequest]) -> Iterator[BatchRequest]:
        """Return the same requests; before each one is yielded, later ones are scanned for shards to fetch."""
        return requests if self._process is None else self._watched(requests)

    def _watched(self, requests: Iterator[BatchRequest]) -> Iterator[BatchRequest]:
        pending: deque[tuple[BatchRequest, list[int]]] = deque()
        uses: Counter[int] = Counter()
        scanned = held_bytes = 0
        while True:
            for _ in range(STRIDE):
                request = next(requests, None) if self._may_scan_more(len(pending), held_bytes) else None
                if request is None:
                    break
                scanned += 1
                needed = self._needed(request)
                pending.append((request, needed))
                for index in needed:
                    uses[index] += 1
                    if uses[index] == 1:
                        held_bytes += self._sizes_bytes[index]
                        self._table[index] = scanned
            if not pending:
                return
            request, needed = pending.popleft()
            yield request
            for index in needed:
                uses[index] -= 1
                if not uses[index]:
                    held_bytes -= self._sizes_bytes[index]
                    self._table[index] = 0

    def _may_scan_more(self, pending: int, held_bytes: int) -> bool:
        return pending == 0 or (pending < MAX_REQUESTS and held_bytes < self._budget_bytes)

    def _needed(self, request: BatchRequest) -> list[int]:
        """Return the table indices of the shards that a request needs."""
        if request.split not in self._splits:
            return []
        first = self._first_index[request.split]
        return [first + number for number in self._splits[request.split].shards_of(request.ids)]

    def close(self) -> None:
        """Kill the process, even in the middle of a download; may be called again."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _fetch(rank_pid: int, table: Table, shards: list[tuple[CachedShards, int]]) -> None:
    """Fetch the shards in the table, lowest request number first, until the rank exits."""
    process.init_worker(rank_pid)
    threading.Thread(target=_keep_touching, args=(table, shards), daemon=True).start()
    failed_s: dict[int, float] = {}
    while True:
        wanted = np.flatnonzero(table)
        refusals = 0
        for index in wanted[np.argsort(table[wanted], kind="stable")].tolist():
            cached, number = shards[index]
            file = cached.files[number]
            if time.monotonic() < failed_s.get(index, -math.inf) + RETRY_S or cached.remote.cache.touch(file):
                continue
            try:
                if cached.remote.fetch(file, prefetch=True):
                    break  # the table may have changed during the download
                refusals += 1
            except Exception:  # a worker that needs the shard retries and reports the error
                failed_s[index] = time.monotonic()
            if refusals == MAX_REFUSALS:
                break
        else:
            time.sleep(POLL_S)
        if refusals:
            time.sleep(POLL_S)


def _keep_touching(table: Table, shards: list[tuple[CachedShards, int]]) -> None:
    """Touch the shards in the table regularly, also during a long download."""
    while True:
        for index in np.flatnonzero(table).tolist():
            cached, number = shards[index]
            cached.remote.cache.touch(cached.files[number])
        time.sleep(TOUCH_S)


def needed_bytes(train: Split | None, lanes: int, window: int, held_out: Split | None, ranks: int) -> int:
    """Return the bytes of remote shards that a node reads at once, which its cache must hold.

    A lane's window spans its own bytes and, at either end, shards shared with its neighbours: two more shards. A rank
    that validates reads one shard and fetches the next. The total never exceeds the size of the sets.
    """
    needed = 0
    if train is not None:
        sizes = [shard.size_bytes for shard in train.manifest.shards]
        needed += min(sum(sizes), lanes * (math.ceil(window * sum(sizes) / train.images) + 2 * max(sizes)))
    if held_out is not None:
        sizes = [shard.size_bytes for shard in held_out.manifest.shards]
        needed += min(sum(sizes), 2 * ranks * max(sizes))
    return needed
