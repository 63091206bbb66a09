"""Fetch remote shards ahead of use: one process a rank, told by a table in shared memory what is needed next.

The rank looks some way down the stream of orders that it hands its loader, and writes into the table, for each shard,
the first order that needs it. The process fetches in that order and keeps touching what is in the table, so that no
process of the node takes it out of the cache. It is a help and nothing more: a worker that misses a shard fetches it,
and errors are the worker's to report. A table and not a pipe: the rank never waits for a download.
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

from alexnet_dist import process
from alexnet_dist.data.decoder import BatchRequest
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import CachedShards

# Orders looked at ahead of use, also when the cache would hold the shards of more.
MOST_ORDERS = 2000
# Orders looked at for each one handed out, so that the first one is not held up.
STRIDE = 64
POLL_S = 0.05
# Between two touches of what is needed, well within cache.IN_USE_S.
BEAT_S = 1.0
# Shards that are held by others or for which there is no room, after which the process waits for a better time.
REFUSALS = 4
# After a failed download, before this process tries the same shard again; workers that need it do so at once.
RETRY_S = 60.0

Table = npt.NDArray[np.int64]


class Prefetcher:
    """The process and its table; nothing where no split is remote."""

    def __init__(self, splits: Mapping[str, Split], budget_bytes: int) -> None:
        """Fork the process. budget_bytes: of the distinct shards to look ahead for, this rank's part of the cache."""
        self._budget_bytes = budget_bytes
        self._splits = {name: split for name, split in splits.items() if isinstance(split.shards, CachedShards)}
        self._firsts: dict[str, int] = {}
        shards: list[tuple[CachedShards, int]] = []
        for name, split in self._splits.items():
            assert isinstance(split.shards, CachedShards)
            self._firsts[name] = len(shards)
            shards += [(split.shards, number) for number in range(len(split.counts))]
        self._sizes = [cached.blobs[number].most_bytes for cached, number in shards]
        self._table: Table = np.frombuffer(mmap.mmap(-1, max(1, 8 * len(shards))), np.int64, len(shards))
        self._process = None
        if shards and budget_bytes:
            fork = multiprocessing.get_context("fork")
            self._process = fork.Process(target=_fetch, args=(os.getpid(), self._table, shards), daemon=True)
            self._process.start()

    def watch(self, orders: Iterator[BatchRequest]) -> Iterator[BatchRequest]:
        """Return the same orders, having looked ahead of each for the shards to fetch."""
        return orders if self._process is None else self._watched(orders)

    def _watched(self, orders: Iterator[BatchRequest]) -> Iterator[BatchRequest]:
        ahead: deque[tuple[BatchRequest, list[int]]] = deque()
        uses: Counter[int] = Counter()
        looked_at = held_bytes = 0
        while True:
            for _ in range(STRIDE):
                order = next(orders, None) if self._may_look_on(len(ahead), held_bytes) else None
                if order is None:
                    break
                looked_at += 1
                needed = self._needed(order)
                ahead.append((order, needed))
                for shard in needed:
                    uses[shard] += 1
                    if uses[shard] == 1:
                        held_bytes += self._sizes[shard]
                        self._table[shard] = looked_at
            if not ahead:
                return
            order, needed = ahead.popleft()
            yield order
            for shard in needed:
                uses[shard] -= 1
                if not uses[shard]:
                    held_bytes -= self._sizes[shard]
                    self._table[shard] = 0

    def _may_look_on(self, orders: int, held_bytes: int) -> bool:
        return orders == 0 or (orders < MOST_ORDERS and held_bytes < self._budget_bytes)

    def _needed(self, order: BatchRequest) -> list[int]:
        """Return the places in the table of an order's shards."""
        if order.split not in self._splits:
            return []
        first = self._firsts[order.split]
        return [first + number for number in self._splits[order.split].shards_of(order.ids)]

    def close(self) -> None:
        """End the process, in the middle of a download if need be; may be called again."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _fetch(rank: int, table: Table, shards: list[tuple[CachedShards, int]]) -> None:
    """Fetch what the table wants, in its order, for as long as the rank lives."""
    process.serve(rank)
    threading.Thread(target=_keep, args=(table, shards), daemon=True).start()
    failed_s: dict[int, float] = {}
    while True:
        wanted = np.flatnonzero(table)
        refused = 0
        for place in wanted[np.argsort(table[wanted], kind="stable")].tolist():
            cached, number = shards[place]
            blob = cached.blobs[number]
            if time.monotonic() < failed_s.get(place, -math.inf) + RETRY_S or cached.remote.cache.touch(blob):
                continue
            try:
                if cached.remote.fetch(blob, spare=True):
                    break  # the table may want something else first by now
                refused += 1
            except Exception:  # a worker that needs it will try again, and say what is wrong
                failed_s[place] = time.monotonic()
            if refused == REFUSALS:
                break
        else:
            time.sleep(POLL_S)
        if refused:
            time.sleep(POLL_S)


def _keep(table: Table, shards: list[tuple[CachedShards, int]]) -> None:
    """Touch what is in the table, also while a download takes its time."""
    while True:
        for place in np.flatnonzero(table).tolist():
            cached, number = shards[place]
            cached.remote.cache.touch(cached.blobs[number])
        time.sleep(BEAT_S)


def needed_bytes(train: Split | None, lanes: int, window: int, held_out: Split | None, ranks: int) -> int:
    """Return the bytes of remote shards that a node reads at once: what its cache must hold.

    A lane's window lies in shards that hold it and, at either end, samples of its neighbours: its own bytes and those
    of two shards. A rank that validates reads a shard and fetches the next. A set is never more than all of it.
    """
    needed = 0
    if train is not None:
        sizes = [shard.size_bytes for shard in train.manifest.shards]
        needed += min(sum(sizes), lanes * (math.ceil(window * sum(sizes) / train.images) + 2 * max(sizes)))
    if held_out is not None:
        sizes = [shard.size_bytes for shard in held_out.manifest.shards]
        needed += min(sum(sizes), 2 * ranks * max(sizes))
    return needed
