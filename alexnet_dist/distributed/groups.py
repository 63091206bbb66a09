"""The process groups of a rank: its pair, the data-parallel ranks of its tower, and the world."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from alexnet_dist.distributed.lost_rank import GROUPS, lost_rank_at
from alexnet_dist.distributed.topology import Topology


@dataclass(frozen=True)
class Groups:
    """The process groups of one rank, each with an explicit timeout: groups do not inherit one.

    pair: the two towers of this replica. dp: the ranks with this rank's towers, one a replica. world: all ranks, over
    gloo, for host tensors. None where the group would hold this rank alone.
    """

    pair: dist.ProcessGroup | None = None
    dp: dist.ProcessGroup | None = None
    world: dist.ProcessGroup | None = None


def open_groups(topology: Topology, timeout_s: float, store: Store | None = None) -> Groups:
    """Make this rank's device the current one, join the other ranks and build the groups; a single process needs none.

    store: the room in which the ranks were compared; None: the rendezvous that the environment names. Raises
    LostRankError.
    """
    if topology.device.type == "cuda":
        # Also for a single rank: events and pinned memory belong to the current device.
        torch.cuda.set_device(topology.device)
    if topology.world_size == 1:
        return Groups()
    timeout = timedelta(seconds=timeout_s)
    bound = topology.device if topology.backend == "nccl" else None
    with lost_rank_at(GROUPS):
        dist.init_process_group(
            topology.backend, timeout=timeout, store=None if store is None else PrefixStore("groups", store),
            rank=topology.rank, world_size=topology.world_size, device_id=bound,
        )  # fmt: skip
        return Groups(
            pair=new_group(topology.pair_ranks, timeout, urgent=True) if topology.layout == "paired" else None,
            dp=None if len(topology.dp_ranks) == 1 else new_group(topology.dp_ranks, timeout),
            # Each group over gloo connects all of its ranks: a second one of all ranks would double their connections.
            world=dist.group.WORLD
            if topology.backend == "gloo"
            else new_group(list(range(topology.world_size)), timeout, "gloo"),
        )


def new_group(
    ranks: list[int], timeout: timedelta, backend: str | None = None, urgent: bool = False
) -> dist.ProcessGroup:
    """Make a group of some ranks, by default over the backend of the first one.

    urgent: whether, over NCCL, its messages go before other work that waits for the device: the towers stand still
    until they are there.
    """
    options = None
    if urgent and dist.get_backend() == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options.is_high_priority_stream = True
    group = dist.new_group(ranks, timeout=timeout, backend=backend, pg_options=options, use_local_synchronization=True)
    return cast("dist.ProcessGroup", group)


def close_groups() -> None:
    """Leave the process groups, if any exist."""
    if dist.is_initialized():
        dist.destroy_process_group()
