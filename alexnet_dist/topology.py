"""Which rank is which: replica, tower, device; the groups it speaks in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

import torch
import torch.distributed as dist

from alexnet_dist.errors import UserError
from alexnet_dist.process import Launched
from alexnet_dist.timeline import AVERAGING, CONTROL, LostRankError

Layout = Literal["auto", "paired", "fused"]


@dataclass(frozen=True)
class Topology:
    """One rank's place in the mesh with the axes `replica` and `tower`; rank = 2 * replica + tower when paired.

    towers: the tower this rank holds, or both when fused.
    """

    rank: int
    world_size: int
    local_rank: int
    layout: Literal["paired", "fused"]
    device: torch.device

    @property
    def towers(self) -> tuple[int, ...]:
        """The indices of the towers on this rank."""
        return (self.rank % 2,) if self.layout == "paired" else (0, 1)

    @property
    def replica(self) -> int:
        """The index on the replica axis."""
        return self.rank // 2 if self.layout == "paired" else self.rank

    @property
    def replicas(self) -> int:
        """The size of the replica axis."""
        return self.world_size // 2 if self.layout == "paired" else self.world_size

    @property
    def is_chief(self) -> bool:
        """Whether this rank writes what the run writes once."""
        return self.rank == 0


def place(layout: Layout, device: str, launched: Launched) -> Topology:
    """Return the place of a rank in the mesh, from what torchrun has told it.

    layout: "auto" is paired under torchrun and fused without. device: "auto", "cpu" or "cuda".
    Raises UserError for a layout that cannot work.
    """
    rank, world_size = launched.rank, launched.world_size
    local_rank, local_world_size = launched.local_rank, launched.local_world_size
    if layout == "auto":
        layout = "paired" if launched.under_torchrun else "fused"
    if layout == "paired" and world_size % 2:
        raise UserError(
            f"world size {world_size} is odd: a replica is a pair of ranks (two towers); start an even number with"
            " torchrun --nproc-per-node=2, or use topology.layout=fused"
        )
    if layout == "paired" and local_world_size % 2:
        raise UserError(
            f"{local_world_size} ranks on this node: the two towers of a replica share a node;"
            " use an even --nproc-per-node"
        )
    return Topology(rank, world_size, local_rank, layout, _device(device, local_rank, local_world_size))


def _device(device: str, local_rank: int, local_world_size: int) -> torch.device:
    count = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and count == 0:
        raise UserError("train.device: cuda, but torch finds no CUDA device; use train.device=cpu")
    if count == 0:
        return torch.device("cpu")
    if count < local_world_size:
        raise UserError(
            f"{local_world_size} ranks on this node but {count} CUDA devices: a rank needs one of its own; use"
            f" --nproc-per-node={count - count % 2 or 1}, topology.layout=fused, or train.device=cpu"
        )
    return torch.device("cuda", local_rank)


@dataclass(frozen=True)
class Groups:
    """The process groups of one rank, each with an explicit timeout: groups do not inherit one.

    pair: the two towers of my replica. row: the ranks with my tower, over all replicas. everyone: all ranks, over
    gloo, for words between hosts. None where the group would be me alone.
    """

    pair: dist.ProcessGroup | None = None
    row: dist.ProcessGroup | None = None
    everyone: dist.ProcessGroup | None = None


def open_groups(topology: Topology, timeout_s: float) -> Groups:
    """Join the other ranks and build the groups; a single process needs none."""
    if topology.world_size == 1:
        return Groups()
    timeout = timedelta(seconds=timeout_s)
    if topology.device.type == "cuda":
        torch.cuda.set_device(topology.device)
        dist.init_process_group("nccl", timeout=timeout, device_id=topology.device)
    else:
        dist.init_process_group("gloo", timeout=timeout)
    pairs = topology.layout == "paired"
    pair_ranks = [2 * topology.replica, 2 * topology.replica + 1]
    row_ranks = list(range(topology.rank % 2, topology.world_size, 2)) if pairs else list(range(topology.world_size))

    def group(ranks: list[int], backend: str | None = None) -> dist.ProcessGroup | None:
        if len(ranks) == 1:
            return None
        made = dist.new_group(ranks, timeout=timeout, backend=backend, use_local_synchronization=True)
        return cast("dist.ProcessGroup", made)

    return Groups(
        pair=group(pair_ranks) if pairs else None,
        row=group(row_ranks),
        everyone=group(list(range(topology.world_size)), "gloo"),
    )


def lost(place: Topology, problem: LostRankError) -> str:
    """Return a sentence on who lost whom, at what, and what to do."""
    towers = "+".join(map(str, place.towers))
    who = "another rank"
    if place.layout == "paired" and problem.what not in (AVERAGING, CONTROL):
        who = f"rank {place.rank ^ 1} (replica {place.replica}, tower {1 - place.towers[0]})"
    return (
        f"rank {place.rank} (replica {place.replica}, tower {towers}) lost {who} at: {problem.what} ({problem.reason});"
        " start again by the same command to go on from the last checkpoint"
    )


def close_groups() -> None:
    """Leave the process groups, if any were joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
