"""The process groups of a rank, and the device that it makes the current one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import Groups, close_groups, open_groups
from alexnet_dist.distributed.lost_rank import LostRankError
from alexnet_dist.distributed.topology import Layout, Topology, resolve_topology
from alexnet_dist.system.environment import LaunchInfo, launch_info
from support.ranks import Ranks

ALONE = LaunchInfo(0, 1, 0, 1, under_torchrun=False)


def test_one_process_needs_no_groups() -> None:
    assert open_groups(resolve_topology("auto", "cpu", ALONE), 60.0) == Groups()
    close_groups()
    assert not dist.is_initialized()


def members(layout: Layout) -> list[list[int] | None]:
    """Return the ranks of this rank's pair, data-parallel and world groups; runs in a process of its own."""
    groups = open_groups(resolve_topology(layout, "cpu", launch_info()), 60.0)
    ranks = [
        None if group is None else dist.get_process_group_ranks(group)
        for group in (groups.pair, groups.dp, groups.world)
    ]
    close_groups()
    assert not dist.is_initialized()
    return ranks


def test_groups_hold_the_pair_the_replicas_and_the_world(run_ranks: Ranks) -> None:
    world = [0, 1, 2, 3]
    assert run_ranks(4, members, "paired") == [
        [[0, 1], [0, 2], world],
        [[0, 1], [1, 3], world],
        [[2, 3], [0, 2], world],
        [[2, 3], [1, 3], world],
    ]
    assert run_ranks(2, members, "fused") == [[None, [0, 1], [0, 1]]] * 2


def test_a_single_rank_makes_its_device_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.set_device", devices.append)
    device = torch.device("cuda", 1)
    assert open_groups(Topology(0, 1, 0, "fused", device, "nccl"), 60) == Groups()
    assert devices == [device]
    open_groups(Topology(0, 1, 0, "fused", torch.device("cpu")), 60)
    assert devices == [device]


@pytest.mark.parametrize(
    ("error", "met", "left"),
    [(None, True, ["left"]), (None, False, []), (RuntimeError, True, []), (LostRankError, True, [])],
)
def test_groups_are_left_only_by_all_ranks_without_an_error(
    error: type[BaseException] | None, met: bool, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fake: over NCCL, leaving waits for all kernels, and theirs for the rank that is gone, before a word."""
    seen: list[str] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: seen.append("left"))

    def meet(_group: object, _timeout: timedelta) -> None:
        if not met:
            raise RuntimeError("rank 2 failed to pass monitoredBarrier in 1000 ms")

    monkeypatch.setattr(dist, "monitored_barrier", meet)
    group: Any = object()
    control = Control(group)
    control.meet(1.0)
    control.close_groups(error)
    assert seen == left
