"""Which rank is which: replica, tower, device; the groups it speaks in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.monitoring.timeline import AVERAGING, CONTROL, GROUPS, LostRankError, naming
from alexnet_dist.process import Launched

Layout = Literal["auto", "paired", "fused"]
Backend = Literal["gloo", "nccl"]

NCCL_MULTI_RANK = (2, 30)  # the first that can take two ranks on one GPU, as an experiment


@dataclass(frozen=True)
class Topology:
    """One rank's place in the mesh with the axes `replica` and `tower`; rank = 2 * replica + tower when paired.

    backend: of the pair's and the replicas' groups.
    """

    rank: int
    world_size: int
    local_rank: int
    layout: Literal["paired", "fused"]
    device: torch.device
    backend: Backend = "gloo"

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
    def row(self) -> list[int]:
        """The ranks with my towers, over all replicas."""
        return list(range(self.towers[0], self.world_size, 2 if self.layout == "paired" else 1))

    @property
    def is_chief(self) -> bool:
        """Whether this rank writes what the run writes once."""
        return self.rank == 0

    @property
    def is_staged(self) -> bool:
        """Whether the pair's exchanges go through host memory, since gloo sends nothing else."""
        return self.device.type == "cuda" and self.backend == "gloo"


def place(layout: Layout, device: str, launched: Launched, share_device: bool = False) -> Topology:
    """Return the place of a rank in the mesh, from what torchrun has told it.

    layout: "auto" is paired under torchrun and fused without. device: "auto", "cpu" or "cuda".
    share_device: whether ranks of a node may share devices. Raises UserError for a layout that cannot work.
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
    found = _device(device, local_rank, local_world_size, share_device)
    backend: Backend = "gloo"
    if found.type == "cuda":
        shared = torch.cuda.device_count() < local_world_size
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        backend = backend_of(found.type, shared, version, launched.nccl_multi_rank)
    return Topology(rank, world_size, local_rank, layout, found, backend)


def backend_of(device: str, shared: bool, nccl: tuple[int, ...], nccl_multi_rank: bool) -> Backend:
    """Return what the pair's and the replicas' groups speak.

    device: "cpu" or "cuda". shared: whether this node has more ranks than devices. nccl: NCCL's version.
    nccl_multi_rank: whether NCCL was told to take such ranks.
    """
    if device != "cuda":
        return "gloo"
    return "nccl" if not shared or (nccl_multi_rank and nccl >= NCCL_MULTI_RANK) else "gloo"


def _device(device: str, local_rank: int, local_world_size: int, share_device: bool) -> torch.device:
    count = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and count == 0:
        raise UserError("train.device: cuda, but torch finds no CUDA device; use train.device=cpu")
    if count == 0:
        return torch.device("cpu")
    if count < local_world_size and not share_device:
        raise UserError(
            f"{local_world_size} ranks on this node but {count} CUDA devices: a rank needs one of its own; use"
            f" --nproc-per-node={count - count % 2 or 1}, topology.layout=fused, train.device=cpu,"
            " or, to test only, topology.share_device=true"
        )
    return torch.device("cuda", local_rank % count)


@dataclass(frozen=True)
class Groups:
    """The process groups of one rank, each with an explicit timeout: groups do not inherit one.

    pair: the two towers of my replica. row: the ranks with my tower, over all replicas. everyone: all ranks, over
    gloo, for words between hosts. None where the group would be me alone.
    """

    pair: dist.ProcessGroup | None = None
    row: dist.ProcessGroup | None = None
    everyone: dist.ProcessGroup | None = None


def open_groups(topology: Topology, timeout_s: float, store: Store | None = None) -> Groups:
    """Make this rank's device the current one, join the other ranks and build the groups; a single process needs none.

    store: where the ranks have met; None: they meet now, where the environment says. Raises LostRankError.
    """
    if topology.device.type == "cuda":
        # Also for a single rank: events, and memory that is pinned, belong to the current device.
        torch.cuda.set_device(topology.device)
    if topology.world_size == 1:
        return Groups()
    timeout = timedelta(seconds=timeout_s)
    bound = topology.device if topology.backend == "nccl" else None
    with naming(GROUPS):
        dist.init_process_group(
            topology.backend, timeout=timeout, store=store, rank=topology.rank, world_size=topology.world_size,
            device_id=bound,
        )  # fmt: skip
        return _groups(topology, timeout)


def _groups(topology: Topology, timeout: timedelta) -> Groups:
    pairs = topology.layout == "paired"
    pair_ranks = [2 * topology.replica, 2 * topology.replica + 1]

    def group(ranks: list[int], backend: str | None = None) -> dist.ProcessGroup | None:
        if len(ranks) == 1:
            return None
        made = dist.new_group(ranks, timeout=timeout, backend=backend, use_local_synchronization=True)
        return cast("dist.ProcessGroup", made)

    return Groups(
        pair=group(pair_ranks) if pairs else None,
        row=group(topology.row),
        everyone=group(list(range(topology.world_size)), "gloo"),
    )


def lost(place: Topology, problem: LostRankError) -> str:
    """Return a sentence on who lost whom, at what, and what to do."""
    return (
        f"{_named(place, place.rank)} lost {_whom(place, problem.what)} at: {problem.what} ({problem.reason});"
        " see what was said there; the same command goes on from the last checkpoint"
    )


def _named(place: Topology, rank: int) -> str:
    replica, towers = (rank // 2, rank % 2) if place.layout == "paired" else (rank, "0+1")
    return f"rank {rank} (replica {replica}, tower {towers})"


def _whom(place: Topology, what: str) -> str:
    if place.layout == "paired" and what not in (AVERAGING, CONTROL, GROUPS):
        return _named(place, place.rank ^ 1)
    group = place.row if what == AVERAGING else range(place.world_size)
    others = [rank for rank in group if rank != place.rank]
    return _named(place, others[0]) if len(others) == 1 else f"one of ranks {', '.join(map(str, others))}"


@contextmanager
def telling(place: Topology) -> Iterator[None]:
    """Turn a lost rank into the RunError that ends the run with a sentence."""
    try:
        yield
    except LostRankError as problem:
        raise RunError(lost(place, problem)) from None


def close_groups() -> None:
    """Leave the process groups, if any were joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
