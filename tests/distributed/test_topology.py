"""Ranks, replicas, towers and devices; and every layout that is rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.distributed.topology import Layout, Topology, choose_backend, resolve_topology
from alexnet_dist.errors import UserError
from alexnet_dist.system.environment import LaunchInfo

ALONE = LaunchInfo(0, 1, 0, 1, under_torchrun=False)


def launches(world_size: int, nodes: int = 1) -> list[LaunchInfo]:
    """Return what torchrun passes to each rank, by rank."""
    local = world_size // nodes
    return [LaunchInfo(rank, world_size, rank % local, local, under_torchrun=True) for rank in range(world_size)]


@given(replicas=st.integers(1, 9))
def test_a_rank_is_twice_its_replica_plus_its_tower(replicas: int) -> None:
    ranks = [resolve_topology("paired", "cpu", launched) for launched in launches(2 * replicas)]
    assert [(t.replica, t.towers) for t in ranks] == [(r, (tower,)) for r in range(replicas) for tower in (0, 1)]
    assert {t.replicas for t in ranks} == {replicas}
    assert [t.is_rank0 for t in ranks] == [True] + [False] * (2 * replicas - 1)


@given(replicas=st.integers(1, 9))
def test_a_fused_rank_is_a_replica(replicas: int) -> None:
    ranks = [resolve_topology("fused", "cpu", launched) for launched in launches(replicas)]
    assert [(t.replica, t.towers) for t in ranks] == [(r, (0, 1)) for r in range(replicas)]
    assert {t.replicas for t in ranks} == {replicas}


@given(replicas=st.integers(1, 9))
def test_pairs_and_data_parallel_ranks_divide_the_world(replicas: int) -> None:
    ranks = [resolve_topology("paired", "cpu", launched) for launched in launches(2 * replicas)]
    for topology in ranks:
        assert topology.pair_ranks == [t.rank for t in ranks if t.replica == topology.replica]
        assert topology.dp_ranks == [t.rank for t in ranks if t.towers == topology.towers]
        assert set(topology.pair_ranks) & set(topology.dp_ranks) == {topology.rank}
    fused = [resolve_topology("fused", "cpu", launched) for launched in launches(replicas)]
    assert [t.dp_ranks for t in fused] == [list(range(replicas))] * replicas


def test_auto_is_paired_under_torchrun_and_fused_without() -> None:
    assert resolve_topology("auto", "cpu", ALONE) == Topology(0, 1, 0, "fused", torch.device("cpu"))
    assert resolve_topology("auto", "cpu", launches(2)[1]) == Topology(1, 2, 1, "paired", torch.device("cpu"))


def test_pairs_do_not_span_nodes() -> None:
    ranks = [resolve_topology("paired", "cpu", launched) for launched in launches(8, nodes=2)]
    assert [t.local_rank for t in ranks] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [t.replica for t in ranks] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("layout", "launched", "message"),
    [
        ("auto", launches(5)[0], r"world size 5 is odd: a replica is a pair of ranks .*--nproc-per-node=2"),
        ("paired", ALONE, r"world size 1 is odd: .* use topology\.layout=fused"),
        (
            "paired",
            launches(6, nodes=2)[4],
            r"3 ranks on this node: the two towers of a replica share a node; use an even",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(layout: Layout, launched: LaunchInfo, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_topology(layout, "cpu", launched)


def set_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.cuda.nccl.version", lambda: (2, 30, 7))


def test_a_rank_takes_the_device_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    set_devices(monkeypatch, 4)
    for device in ("auto", "cuda"):
        devices = [resolve_topology("paired", device, launched).device for launched in launches(8, nodes=2)]
        assert devices == [torch.device("cuda", index) for index in (0, 1, 2, 3)] * 2
    assert resolve_topology("paired", "cpu", launches(2)[1]).device == torch.device("cpu")


@pytest.mark.parametrize(("count", "indices"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (4, [0, 1, 2, 3])])
def test_ranks_may_share_devices(count: int, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    set_devices(monkeypatch, count)
    ranks = [resolve_topology("paired", "cuda", launched, share_device=True) for launched in launches(4)]
    assert [t.device for t in ranks] == [torch.device("cuda", index) for index in indices]
    assert {(t.backend, t.is_staged) for t in ranks} == ({("nccl", False)} if count == 4 else {("gloo", True)})
    multi_rank = replace(launches(4)[3], nccl_multi_rank=True)
    assert resolve_topology("paired", "cuda", multi_rank, share_device=True).backend == "nccl"


@pytest.mark.parametrize(
    ("device", "shared", "nccl", "multi_rank", "backend"),
    [
        ("cpu", False, (), False, "gloo"),
        ("cpu", True, (2, 30, 7), True, "gloo"),
        ("cuda", False, (2, 29, 7), False, "nccl"),
        ("cuda", True, (2, 30, 7), False, "gloo"),
        ("cuda", True, (2, 29, 7), True, "gloo"),
        ("cuda", True, (2, 30), True, "nccl"),
        ("cuda", True, (3, 0, 1), True, "nccl"),
    ],
)
def test_nccl_takes_a_shared_device_only_when_new_and_enabled(
    device: str, shared: bool, nccl: tuple[int, ...], multi_rank: bool, backend: str
) -> None:
    assert choose_backend(device, shared, nccl, multi_rank) == backend


def test_on_a_cpu_nothing_is_staged() -> None:
    assert not resolve_topology("paired", "cpu", launches(2)[0], share_device=True).is_staged


def test_auto_without_devices_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    set_devices(monkeypatch, 0)
    assert resolve_topology("auto", "auto", ALONE).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "launched", "message"),
    [
        (0, ALONE, r"train\.device: cuda, but torch finds no CUDA device; use train\.device=cpu"),
        (0, launches(2)[0], r"train\.device: cuda, but torch finds no"),
        (3, launches(4)[0], r"4 ranks on this node but 3 CUDA devices: .* --nproc-per-node=2, topology\.layout=fused"),
        (
            1,
            launches(2)[0],
            r"2 ranks on this node but 1 CUDA devices: .* --nproc-per-node=1, .*topology\.share_device=true",
        ),
    ],
)
def test_missing_devices_are_refused(
    count: int, launched: LaunchInfo, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_devices(monkeypatch, count)
    with pytest.raises(UserError, match=message):
        resolve_topology("auto", "cuda", launched)
