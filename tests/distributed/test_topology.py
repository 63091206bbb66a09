"""Ranks, replicas, towers and devices; and every refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.distributed import topology
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.lost_rank import AVERAGING, CONTROL, LostRankError, lost, lost_rank_as_error
from alexnet_dist.distributed.topology import Layout, Topology, backend_of, place
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.process import LaunchInfo, launch_info
from support.ranks import Ranks

ALONE = LaunchInfo(0, 1, 0, 1, under_torchrun=False)


def ranks(world_size: int, nodes: int = 1) -> list[LaunchInfo]:
    local = world_size // nodes
    return [LaunchInfo(rank, world_size, rank % local, local, under_torchrun=True) for rank in range(world_size)]


@given(replicas=st.integers(1, 9))
def test_a_rank_is_twice_its_replica_plus_its_tower(replicas: int) -> None:
    places = [place("paired", "cpu", one) for one in ranks(2 * replicas)]
    assert [(p.replica, p.towers) for p in places] == [(r, (t,)) for r in range(replicas) for t in (0, 1)]
    assert {p.replicas for p in places} == {replicas}
    assert [p.is_rank0 for p in places] == [True] + [False] * (2 * replicas - 1)


@given(replicas=st.integers(1, 9))
def test_a_fused_rank_is_a_replica(replicas: int) -> None:
    places = [place("fused", "cpu", one) for one in ranks(replicas)]
    assert [(p.replica, p.towers) for p in places] == [(r, (0, 1)) for r in range(replicas)]
    assert {p.replicas for p in places} == {replicas}


def test_auto_is_paired_under_torchrun_and_fused_without() -> None:
    assert place("auto", "cpu", ALONE) == Topology(0, 1, 0, "fused", torch.device("cpu"))
    assert place("auto", "cpu", ranks(2)[1]) == Topology(1, 2, 1, "paired", torch.device("cpu"))


def test_pairs_do_not_span_nodes() -> None:
    places = [place("paired", "cpu", one) for one in ranks(8, nodes=2)]
    assert [p.local_rank for p in places] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [p.replica for p in places] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("layout", "one", "message"),
    [
        ("auto", ranks(5)[0], r"world size 5 is odd: a replica is a pair of ranks .*--nproc-per-node=2"),
        ("paired", ALONE, r"world size 1 is odd: .* use topology\.layout=fused"),
        (
            "paired",
            ranks(6, nodes=2)[4],
            r"3 ranks on this node: the two towers of a replica share a node; use an even",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(layout: Layout, one: LaunchInfo, message: str) -> None:
    with pytest.raises(UserError, match=message):
        place(layout, "cpu", one)


def devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.cuda.nccl.version", lambda: (2, 30, 7))


def test_a_rank_takes_the_device_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, 4)
    for device in ("auto", "cuda"):
        found = [place("paired", device, one).device for one in ranks(8, nodes=2)]
        assert found == [torch.device("cuda", index) for index in (0, 1, 2, 3)] * 2
    assert place("paired", "cpu", ranks(2)[1]).device == torch.device("cpu")


@pytest.mark.parametrize(("count", "indices"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (4, [0, 1, 2, 3])])
def test_ranks_may_share_devices(count: int, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, count)
    places = [place("paired", "cuda", one, share_device=True) for one in ranks(4)]
    assert [p.device for p in places] == [torch.device("cuda", index) for index in indices]
    assert {(p.backend, p.is_staged) for p in places} == ({("nccl", False)} if count == 4 else {("gloo", True)})
    told = replace(ranks(4)[3], nccl_multi_rank=True)
    assert place("paired", "cuda", told, share_device=True).backend == "nccl"


@pytest.mark.parametrize(
    ("device", "shared", "nccl", "told", "backend"),
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
def test_nccl_takes_a_shared_device_only_when_new_and_told_to(
    device: str, shared: bool, nccl: tuple[int, ...], told: bool, backend: str
) -> None:
    assert backend_of(device, shared, nccl, told) == backend


def test_on_a_cpu_nothing_is_staged() -> None:
    assert not place("paired", "cpu", ranks(2)[0], share_device=True).is_staged


@pytest.mark.parametrize(
    ("layout", "rank", "what", "sentence"),
    [
        (
            "paired",
            3,
            "conv3 forward",
            "rank 3 (replica 1, tower 1) lost rank 2 (replica 1, tower 0) at: conv3 forward (",
        ),
        ("paired", 0, AVERAGING, "rank 0 (replica 0, tower 0) lost one of ranks 2, 4 at: averaging ("),
        ("paired", 4, CONTROL, "rank 4 (replica 2, tower 0) lost one of ranks 0, 1, 2, 3, 5 at: control word ("),
        ("fused", 1, AVERAGING, "rank 1 (replica 1, tower 0+1) lost one of ranks 0, 2, 3, 4, 5 at: averaging ("),
    ],
)
def test_a_lost_rank_is_told_by_its_place(layout: Layout, rank: int, what: str, sentence: str) -> None:
    with pytest.raises(RunError) as told, lost_rank_as_error(place(layout, "cpu", ranks(6)[rank])):
        raise LostRankError(what, "Timed out")
    assert str(told.value).startswith(f"{sentence}Timed out); see what was said there; the same command goes on")


def test_with_two_replicas_the_one_averaged_with_is_named() -> None:
    told = lost(place("paired", "cpu", ranks(4)[1]), LostRankError(AVERAGING, "Timed out"))
    assert "rank 1 (replica 0, tower 1) lost rank 3 (replica 1, tower 1) at: averaging" in told


def test_auto_without_devices_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, 0)
    assert place("auto", "auto", ALONE).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "one", "message"),
    [
        (0, ALONE, r"train\.device: cuda, but torch finds no CUDA device; use train\.device=cpu"),
        (0, ranks(2)[0], r"train\.device: cuda, but torch finds no"),
        (3, ranks(4)[0], r"4 ranks on this node but 3 CUDA devices: .* --nproc-per-node=2, topology\.layout=fused"),
        (
            1,
            ranks(2)[0],
            r"2 ranks on this node but 1 CUDA devices: .* --nproc-per-node=1, .*topology\.share_device=true",
        ),
    ],
)
def test_missing_devices_are_refused(count: int, one: LaunchInfo, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, count)
    with pytest.raises(UserError, match=message):
        place("auto", "cuda", one)


def test_one_process_needs_no_groups() -> None:
    assert topology.open_groups(place("auto", "cpu", ALONE), 60.0) == Groups()
    topology.close_groups()
    assert not dist.is_initialized()


def members(layout: Layout) -> list[list[int] | None]:
    """Return the ranks of my pair, row and everyone; runs in a process of its own."""
    groups = topology.open_groups(place(layout, "cpu", launch_info()), 60.0)
    each = (groups.pair, groups.dp, groups.world)
    found = [None if group is None else dist.get_process_group_ranks(group) for group in each]
    topology.close_groups()
    assert not dist.is_initialized()
    return found


def test_groups_hold_the_pair_the_row_and_everyone(run_ranks: Ranks) -> None:
    everyone = [0, 1, 2, 3]
    assert run_ranks(4, members, "paired") == [
        [[0, 1], [0, 2], everyone],
        [[0, 1], [1, 3], everyone],
        [[2, 3], [0, 2], everyone],
        [[2, 3], [1, 3], everyone],
    ]
    assert run_ranks(2, members, "fused") == [[None, [0, 1], [0, 1]]] * 2


def test_a_single_rank_makes_its_device_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.set_device", made.append)
    device = torch.device("cuda", 1)
    assert topology.open_groups(Topology(0, 1, 0, "fused", device, "nccl"), 60) == Groups()
    assert made == [device]
    topology.open_groups(Topology(0, 1, 0, "fused", torch.device("cpu")), 60)
    assert made == [device]
