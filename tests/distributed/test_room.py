"""The room of an attempt: no key of an earlier attempt in the same store is seen, and traffic grows with the ranks."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from alexnet_dist.distributed import room
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.preflight import check_ranks, rank_info
from alexnet_dist.distributed.room import ROOM, admit_ranks, enter_room
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.environment import launch_info
from support.counting_store import CountingStore
from support.ranks import Ranks, free_port


def join_through_agent(port: int, late_s: float, settings: str) -> float:
    """Join the other ranks through the store of an agent, rank 0 late; return a sum over all ranks."""
    os.environ.update(MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    launched = launch_info()
    if launched.rank == 0:
        time.sleep(late_s)
    topology = resolve_topology("paired", "cpu", launched)
    own = rank_info(launched, "paired", "cpu", "gloo", {"optim.momentum": settings if launched.rank == 3 else "0.9"})
    groups = open_groups(topology, 30, check_ranks(own, topology.world_size, 10))
    total = torch.ones(1)
    dist.all_reduce(total, group=groups.world)
    close_groups()
    return float(total)


def rejected_through_agent(port: int) -> str:
    try:
        join_through_agent(port, 0.0, "0.5")
    except UserError as error:
        return str(error)
    return ""


def test_every_attempt_meets_in_one_store(run_ranks: Ranks) -> None:
    """torchrun's agent keeps its store over restarts, with all keys of the attempts before."""
    port = free_port()
    agent = TCPStore("127.0.0.1", port, None, True, timedelta(seconds=30), wait_for_workers=False)
    for late_s in (0.0, 1.0):  # the second time, three ranks look into the room of a dead attempt first
        assert run_ranks(4, join_through_agent, port, late_s, "0.9") == [4.0] * 4
    (sentence,) = set(run_ranks(4, rejected_through_agent, port))
    assert sentence.startswith("the ranks differ in optim.momentum: 0.9 on ranks [0, 1, 2], 0.5 on ranks [3]")
    assert run_ranks(4, join_through_agent, port, 0.0, "0.9") == [4.0] * 4
    del agent


def admit_all(ranks: int, record: str = "x" * 300, dead: str = "", late_s: float = 0.0) -> CountingStore:
    """Let threads enter a room as ranks; return the store.

    dead: the name of a room of a dead attempt that the store holds. late_s: after which rank 0 comes.
    """
    store = CountingStore()
    if dead:
        store.set(ROOM, dead)

    def rank(number: int) -> None:
        if number == 0:
            time.sleep(late_s)
            admit_ranks(store, ranks, 30, lambda _, records: "" if len(records) == ranks - 1 else "too few")
        else:
            enter_room(store, number, record, 30, lambda own: own.set(f"settings/{number}", "y" * 4500))

    with ThreadPoolExecutor(ranks) as threads:
        list(threads.map(rank, range(ranks)))
    return store


def test_traffic_grows_with_the_ranks_and_not_with_their_square() -> None:
    few, many = admit_all(8).bytes / 8, admit_all(64).bytes / 64
    assert many < 1.5 * few


def test_a_wait_for_rank_0_moves_nothing() -> None:
    assert admit_all(8, late_s=0.5).bytes == admit_all(8).bytes


def test_a_rank_leaves_the_room_of_an_attempt_that_died_before_its_verdict() -> None:
    names = {key.split("/")[1] for key in admit_all(3, dead="dead", late_s=0.3).values if key.endswith("record/2")}
    assert "dead" in names  # the ranks did wait there
    assert len(names) == 2


def test_missing_ranks_are_named_to_all_that_came() -> None:
    store = CountingStore()
    with ThreadPoolExecutor(2) as threads:
        ranks = [
            threads.submit(admit_ranks, store, 4, 0.5, lambda *_: ""),
            threads.submit(enter_room, store, 2, "record", 0.5, lambda _: None),
        ]
        for rank in ranks:
            with pytest.raises(RunError, match=r"ranks \[1, 3\] of 4 did not arrive within 0\.5 s"):
                rank.result()


def test_a_rank_without_rank_0_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "VERDICT_WAIT_S", 0.1)
    store = CountingStore()
    store.set(ROOM, "dead")
    with pytest.raises(RunError, match=r"rank 1: rank 0 did not arrive within 0\.2 s"):
        enter_room(store, 1, "record", 0.2, lambda _: None)
