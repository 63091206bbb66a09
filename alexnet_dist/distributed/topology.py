"""Where a rank stands in the mesh: its replica, its towers, its device and its backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from alexnet_dist.errors import UserError
from alexnet_dist.system.environment import LaunchInfo

Layout = Literal["auto", "paired", "fused"]
Backend = Literal["gloo", "nccl"]

NCCL_MULTI_RANK = (2, 30)  # the first version that supports two ranks on one GPU, experimentally


@dataclass(frozen=True)
class Topology:
    """One rank's coordinates in the mesh with the axes `replica` and `tower`; rank = 2 * replica + tower when paired.

    backend: of the pair's group and the data-parallel group.
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
    def pair_ranks(self) -> list[int]:
        """The ranks of the two towers of this replica, when paired."""
        return [2 * self.replica, 2 * self.replica + 1]

    @property
    def dp_ranks(self) -> list[int]:
        """The ranks with this rank's towers, one a replica."""
        return list(range(self.towers[0], self.world_size, 2 if self.layout == "paired" else 1))

    @property
    def is_rank0(self) -> bool:
        """Whether this rank writes the files of the run."""
        return self.rank == 0

    @property
    def is_staged(self) -> bool:
        """Whether the pair's exchanges go through host memory, since gloo sends nothing else."""
        return self.device.type == "cuda" and self.backend == "gloo"


def resolve_topology(
    layout: Layout, device: str, launched: LaunchInfo, share_device: bool = False, towers: int = 2
) -> Topology:
    """Return the topology of a rank, from the environment that torchrun has set.

    layout: "auto" is paired under torchrun for a net of two towers, else fused. device: "auto", "cpu" or "cuda".
    share_device: whether ranks of a node may share devices. Raises UserError for a layout that is impossible here.
    """
    rank, world_size = launched.rank, launched.world_size
    local_rank, local_world_size = launched.local_rank, launched.local_world_size
    if layout == "auto":
        layout = "paired" if launched.under_torchrun and towers == 2 else "fused"
    if layout == "paired" and towers == 1:
        raise UserError(
            "topology.layout: paired, but model.towers = 1: there is no second tower for the other rank of a pair;"
            " use topology.layout=fused"
        )
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
    resolved = _resolve_device(device, local_rank, local_world_size, share_device)
    backend: Backend = "gloo"
    if resolved.type == "cuda":
        shared = torch.cuda.device_count() < local_world_size
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        backend = choose_backend(resolved.type, shared, version, launched.nccl_multi_rank)
    return Topology(rank, world_size, local_rank, layout, resolved, backend)


def choose_backend(device: str, shared: bool, nccl: tuple[int, ...], nccl_multi_rank: bool) -> Backend:
    """Return the backend of the pair's group and the data-parallel group.

    device: "cpu" or "cuda". shared: whether this node has more ranks than devices. nccl: NCCL's version.
    nccl_multi_rank: whether NCCL_MULTI_RANK_GPU_ENABLE is set.
    """
    if device != "cuda":
        return "gloo"
    return "nccl" if not shared or (nccl_multi_rank and nccl >= NCCL_MULTI_RANK) else "gloo"


def _resolve_device(device: str, local_rank: int, local_world_size: int, share_device: bool) -> torch.device:
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
