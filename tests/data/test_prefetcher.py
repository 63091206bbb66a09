"""Remote shards are in the cache before the workers need them, in the order of use; prefetching is optional."""

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

from alexnet_dist.data import prefetcher as prefetcher_module
from alexnet_dist.data.decoder import BatchRequest
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.plan import EpochPlan, lanes_of
from alexnet_dist.data.prefetcher import Prefetcher, needed_bytes
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import CachedShards
from alexnet_dist.errors import UserError
from support.remote_server import HttpServer
from support.remote_sets import remote_set

Pack = Callable[..., Path]
COUNTS = [4] * 10


def batch_requests(split: Split, epochs: int = 2) -> list[BatchRequest]:
    plans = [EpochPlan(split.counts, seed=5, epoch=epoch, global_batch=5, lanes=1, window=4) for epoch in range(epochs)]
    return [
        BatchRequest("train", p.epoch, p.sample_ids(batch, 0, 5), random_crop=True)
        for p in plans
        for batch in range(p.batches)
    ]


@pytest.fixture
def root(pack_tiny: Pack) -> Path:
    return pack_tiny(counts=COUNTS)


@pytest.fixture
def split(root: Path, http_server: HttpServer, tmp_path: Path) -> Split:
    return Split.open(remote_set(http_server.url(root), tmp_path), "train")


def size_of_a_shard(split: Split) -> int:
    sizes = {shard.size_bytes for shard in split.manifest.shards}
    assert len(sizes) == 1
    return sizes.pop()


def cached(split: Split) -> list[int]:
    assert isinstance(split.shards, CachedShards)
    cache = split.shards.remote.cache
    return [number for number, file in enumerate(split.shards.files) if cache.path(file).exists()]


def eventually(holds: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return holds()


def test_the_requests_are_the_same_and_asked_for_within_the_budget(split: Split) -> None:
    requests, scanned = batch_requests(split), 0

    def source() -> Iterator[BatchRequest]:
        nonlocal scanned
        for request in requests:
            scanned += 1
            yield request

    prefetcher = Prefetcher({"train": split}, 3 * size_of_a_shard(split))
    try:
        watched, yielded, lead = prefetcher.watch(source()), [], []
        for request in watched:
            yielded.append(request)
            lead.append(scanned - len(yielded))
    finally:
        prefetcher.close()
    assert all(actual is expected for actual, expected in zip(yielded, requests, strict=True))
    # A request reads one or two shards of four images, so three shards serve one to three requests.
    assert 1 <= max(lead) <= 4
    assert 0 not in lead[:-1]


def test_shards_are_fetched_in_the_order_of_use_and_no_further_than_the_budget(
    split: Split, http_server: HttpServer, root: Path
) -> None:
    requests = batch_requests(split)
    by_use = list(dict.fromkeys(number for request in requests for number in split.shards_of(request.ids)))
    # The first shard is slow; the others are still fetched after it.
    http_server.fail({root / split.manifest.shards[by_use[0]].name: ["trickle"]})
    prefetcher = Prefetcher({"train": split}, 4 * size_of_a_shard(split))
    try:
        next(prefetcher.watch(iter(requests)))
        assert eventually(lambda: len(cached(split)) >= 4)
        time.sleep(3 * prefetcher_module.POLL_S)
        held = cached(split)
    finally:
        prefetcher.close()
    assert 4 <= len(held) <= 5
    assert sorted(by_use[: len(held)]) == held
    fetched = [name for name in http_server.gets() if name.endswith(".tar")]
    assert fetched == [split.manifest.shards[number].name for number in by_use[: len(held)]]


def test_what_is_needed_stays_touched_and_what_was_used_does_not(split: Split) -> None:
    assert isinstance(split.shards, CachedShards)
    cache, files = split.shards.remote.cache, split.shards.files
    requests = batch_requests(split, epochs=1)
    first, last = (split.shards_of(requests[index].ids)[-1] for index in (0, -1))
    prefetcher = Prefetcher({"train": split}, 10**9)
    try:
        watched = prefetcher.watch(iter(requests))
        for _ in requests:
            next(watched)
        assert eventually(lambda: last in cached(split))
        cache_times = {}
        for number in (first, last):
            if cache.touch(files[number]):
                os.utime(cache.path(files[number]), (1, 1))
        assert eventually(lambda: cache.path(files[last]).stat().st_mtime > 1)
        cache_times = {number: cache.path(files[number]).stat().st_mtime for number in cached(split)}
    finally:
        prefetcher.close()
    assert cache_times.get(first, 1) == 1


def test_a_loader_reads_what_was_fetched_ahead(split: Split, root: Path, http_server: HttpServer) -> None:
    local = Split.open(root, "train")
    streams = []
    for train, workers, ahead_bytes in ((local, 0, 0), (split, 1, 3 * size_of_a_shard(split)), (split, 1, 0)):
        with Loader(
            {"train": train}, seed=5, crop=14, rows=5, workers=workers, max_bad_fraction=0.0, ahead_bytes=ahead_bytes
        ) as loader:
            streams.append(
                [
                    hashlib.sha256(batch.rows.numpy().tobytes()).hexdigest()
                    for batch in loader.run(batch_requests(train))
                ]
            )
    assert streams[0] == streams[1] == streams[2]
    assert max(http_server.gets().values()) == 1


def test_a_shard_that_cannot_be_had_is_the_workers_to_report(split: Split, root: Path, http_server: HttpServer) -> None:
    requests = batch_requests(split)
    missing = split.manifest.shards[split.shards_of(requests[3].ids)[0]].name
    http_server.fail({root / missing: ["404*"]})
    with Loader(
        {"train": split}, seed=5, crop=14, rows=5, workers=1, max_bad_fraction=0.0, ahead_bytes=10**9
    ) as loader:
        batches = loader.run(requests)
        with pytest.raises(UserError, match=rf"{http_server.url(root)}/{missing}: no such file there"):
            list(batches)


def test_what_cannot_be_had_is_not_asked_for_again_at_once(split: Split, root: Path, http_server: HttpServer) -> None:
    missing = split.manifest.shards[0].name
    http_server.fail({root / missing: ["404*"]})
    prefetcher = Prefetcher({"train": split}, 10**9)
    try:
        next(prefetcher.watch(iter(batch_requests(split))))
        assert eventually(lambda: cached(split) == list(range(1, 10)))
        time.sleep(5 * prefetcher_module.POLL_S)
    finally:
        prefetcher.close()
    assert http_server.gets()[missing] == 1


def test_local_shards_have_no_process(root: Path) -> None:
    prefetcher = Prefetcher({"train": Split.open(root, "train")}, 10**9)
    source = iter([BatchRequest("train", 0, np.arange(5), True)])
    assert prefetcher.watch(source) is source
    prefetcher.close()


# A rank that prints the pid of its prefetching process and waits to be killed.
RANK = """
import multiprocessing, sys, time
from alexnet_dist.data.prefetcher import Prefetcher
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import locate

prefetcher = Prefetcher({"train": Split.open(locate(sys.argv[1], sys.argv[2], 10**7), "train")}, 10**7)
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
        (helper,) = [int(pid) for pid in rank.stdout.readline().split()]
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
    assert needed_bytes(split, lanes=32, window=2048, held_out=None, ranks=2) == 10 * size  # the whole set
    assert needed_bytes(split, lanes=1, window=4, held_out=split, ranks=2) == 7 * size
    assert needed_bytes(None, lanes=1, window=4, held_out=split, ranks=1) == 2 * size
