"""Remote shards are there before the workers want them, in the order of use; without that process all goes as well."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.data import prefetcher as ahead_module
from alexnet_dist.data.decoder import BatchRequest
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.plan import EpochPlan, lanes_of
from alexnet_dist.data.prefetcher import Prefetcher, needed_bytes
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import CachedShards
from alexnet_dist.errors import UserError
from support.remote_server import HttpServer
from support.remote_sets import place

Pack = Callable[..., Path]
COUNTS = [4] * 10


def orders(split: Split, epochs: int = 2) -> list[BatchRequest]:
    plans = [EpochPlan(split.counts, seed=5, epoch=epoch, global_batch=5, lanes=1, window=4) for epoch in range(epochs)]
    return [BatchRequest("train", p.epoch, p.sample_ids(batch, 0, 5), train=True) for p in plans for batch in range(p.batches)]


@pytest.fixture
def root(pack_tiny: Pack) -> Path:
    return pack_tiny(counts=COUNTS)


@pytest.fixture
def split(root: Path, http_server: HttpServer, tmp_path: Path) -> Split:
    return Split.open(place(http_server.url(root), tmp_path), "train")


def size_of_a_shard(split: Split) -> int:
    sizes = {shard.size_bytes for shard in split.manifest.shards}
    assert len(sizes) == 1
    return sizes.pop()


def cached(split: Split) -> list[int]:
    assert isinstance(split.shards, CachedShards)
    cache = split.shards.remote.cache
    return [number for number, blob in enumerate(split.shards.blobs) if cache.path(blob).exists()]


def eventually(holds: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return holds()


def test_the_orders_are_the_same_and_asked_for_within_the_budget(split: Split) -> None:
    wanted, asked = orders(split), 0

    def source() -> Iterator[BatchRequest]:
        nonlocal asked
        for order in wanted:
            asked += 1
            yield order

    ahead = Prefetcher({"train": split}, 3 * size_of_a_shard(split))
    try:
        watched, given_out, lead = ahead.watch(source()), [], []
        for order in watched:
            given_out.append(order)
            lead.append(asked - len(given_out))
    finally:
        ahead.close()
    assert all(found is one for found, one in zip(given_out, wanted, strict=True))
    # An order reads one or two shards of four images: three shards are one to three orders.
    assert 1 <= max(lead) <= 4
    assert 0 not in lead[:-1]


def test_shards_are_fetched_in_the_order_of_use_and_no_further_than_the_budget(
    split: Split, http_server: HttpServer, root: Path
) -> None:
    wanted = orders(split)
    by_use = list(dict.fromkeys(number for order in wanted for number in split.shards_of(order.ids)))
    # The first is slow: the others come after it all the same.
    http_server.fail({root / split.manifest.shards[by_use[0]].name: ["trickle"]})
    ahead = Prefetcher({"train": split}, 4 * size_of_a_shard(split))
    try:
        next(ahead.watch(iter(wanted)))
        assert eventually(lambda: len(cached(split)) >= 4)
        time.sleep(3 * ahead_module.POLL_S)
        held = cached(split)
    finally:
        ahead.close()
    assert 4 <= len(held) <= 5
    assert sorted(by_use[: len(held)]) == held
    asked = [name for name in http_server.gets() if name.endswith(".tar")]
    assert asked == [split.manifest.shards[number].name for number in by_use[: len(held)]]


def test_what_is_needed_stays_touched_and_what_was_used_does_not(split: Split) -> None:
    assert isinstance(split.shards, CachedShards)
    cache, blobs = split.shards.remote.cache, split.shards.blobs
    wanted = orders(split, epochs=1)
    first, last = (split.shards_of(wanted[place].ids)[-1] for place in (0, -1))
    ahead = Prefetcher({"train": split}, 10**9)
    try:
        watched = ahead.watch(iter(wanted))
        for _ in wanted:
            next(watched)
        assert eventually(lambda: last in cached(split))
        cache_times = {}
        for number in (first, last):
            if cache.touch(blobs[number]):
                os.utime(cache.path(blobs[number]), (1, 1))
        assert eventually(lambda: cache.path(blobs[last]).stat().st_mtime > 1)
        cache_times = {number: cache.path(blobs[number]).stat().st_mtime for number in cached(split)}
    finally:
        ahead.close()
    assert cache_times.get(first, 1) == 1


def test_a_loader_reads_what_was_fetched_ahead(split: Split, root: Path, http_server: HttpServer) -> None:
    local = Split.open(root, "train")
    streams = []
    for train, workers, ahead_bytes in ((local, 0, 0), (split, 1, 3 * size_of_a_shard(split)), (split, 1, 0)):
        with Loader(
            {"train": train}, seed=5, crop=14, rows=5, workers=workers, max_bad_fraction=0.0, ahead_bytes=ahead_bytes
        ) as loader:
            streams.append(
                [hashlib.sha256(batch.rows.numpy().tobytes()).hexdigest() for batch in loader.run(orders(train))]
            )
    assert streams[0] == streams[1] == streams[2]
    assert max(http_server.gets().values()) == 1


def test_a_shard_that_cannot_be_had_is_the_workers_to_tell(split: Split, root: Path, http_server: HttpServer) -> None:
    wanted = orders(split)
    missing = split.manifest.shards[split.shards_of(wanted[3].ids)[0]].name
    http_server.fail({root / missing: ["404*"]})
    with Loader(
        {"train": split}, seed=5, crop=14, rows=5, workers=1, max_bad_fraction=0.0, ahead_bytes=10**9
    ) as loader:
        batches = loader.run(wanted)
        with pytest.raises(UserError, match=rf"{http_server.url(root)}/{missing}: no such file there"):
            list(batches)


def test_what_cannot_be_had_is_not_asked_for_again_at_once(split: Split, root: Path, http_server: HttpServer) -> None:
    missing = split.manifest.shards[0].name
    http_server.fail({root / missing: ["404*"]})
    ahead = Prefetcher({"train": split}, 10**9)
    try:
        next(ahead.watch(iter(orders(split))))
        assert eventually(lambda: cached(split) == list(range(1, 10)))
        time.sleep(5 * ahead_module.POLL_S)
    finally:
        ahead.close()
    assert http_server.gets()[missing] == 1


def test_local_shards_have_no_process(root: Path) -> None:
    ahead = Prefetcher({"train": Split.open(root, "train")}, 10**9)
    source = iter([BatchRequest("train", 0, np.arange(5), True)])
    assert ahead.watch(source) is source
    ahead.close()


# A rank that waits to be killed, having told its process that fetches ahead.
RANK = """
import multiprocessing, sys, time
from alexnet_dist.data.prefetcher import Prefetcher
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import locate

ahead = Prefetcher({"train": Split.open(locate(sys.argv[1], sys.argv[2], 10**7), "train")}, 10**7)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_process_is_deaf_to_its_groups_signals_and_dies_with_its_rank(
    root: Path, http_server: HttpServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RANK, http_server.url(root), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        (helper,) = [int(word) for word in rank.stdout.readline().split()]
        time.sleep(0.2)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(helper, number)
        time.sleep(0.1)
        assert is_alive(helper)
        rank.kill()
    assert eventually(lambda: not is_alive(helper))


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 9))
def test_lanes_of_slots_are_those_that_the_plan_has(global_batch: int, lanes: int, replicas: int) -> None:
    plan = EpochPlan((global_batch,), seed=0, epoch=0, global_batch=global_batch, lanes=lanes, window=2)
    lane_of = [lane for lane in range(plan.used_lanes) for _ in range(*plan.lane_slots(lane))]
    for first, end in itertools.combinations(range(0, global_batch + 1, max(1, global_batch // replicas)), 2):
        assert lanes_of(first, end, global_batch, lanes) == len(set(lane_of[first:end]))
    assert lanes_of(0, 0, global_batch, lanes) == 0


def test_a_node_needs_lanes_times_window_and_two_shards(split: Split) -> None:
    size = size_of_a_shard(split)
    assert needed_bytes(split, lanes=1, window=4, held_out=None, ranks=2) == 3 * size
    assert needed_bytes(split, lanes=2, window=8, held_out=None, ranks=2) == 8 * size
    assert needed_bytes(split, lanes=32, window=2048, held_out=None, ranks=2) == 10 * size  # all there is
    assert needed_bytes(split, lanes=1, window=4, held_out=split, ranks=2) == 7 * size
    assert needed_bytes(None, lanes=1, window=4, held_out=split, ranks=1) == 2 * size
