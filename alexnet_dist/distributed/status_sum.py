"""A few numbers summed over all ranks along a tree, up to rank 0 and the total back: 2 log2 N messages in sequence.

gloo's all-reduce is a ring of 2 (N - 1) messages in sequence: with hundreds of ranks it takes longer than a step of a
GPU. The sum is made once, in a fixed order, so all ranks have the same bits, whenever the messages arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed.lost_rank import CONTROL, lost_rank_at, posting


@dataclass(frozen=True)
class Branch:
    """The neighbours of a rank in the tree: rank 0 alone has no parent; children stand in the order of their sum."""

    parent: int | None
    children: tuple[int, ...]


def branch(rank: int, world_size: int) -> Branch:
    """Return a rank's neighbours in a binomial tree: its parent's number lacks the lowest set bit of its own."""
    lowest = rank & -rank if rank else 1 << (world_size - 1).bit_length()
    steps = [1 << bit for bit in range(lowest.bit_length() - 1)]
    children = tuple(rank + step for step in steps if rank + step < world_size)
    return Branch(rank & (rank - 1) if rank else None, children)


def most_hops(world_size: int) -> int:
    """Return the length of the longest sequence of messages, each of which waits for the one before it."""
    return 2 * (world_size - 1).bit_length()


class PendingSum:
    """Numbers that are being summed over all ranks: receives are posted, and the ranks without children have sent."""

    def __init__(self, numbers: Sequence[float], group: dist.ProcessGroup | None) -> None:
        """Post the messages that need no other one first; group: of all ranks, or None for a run of one process.

        The sums of a group must be finished in the order in which they were begun. Raises LostRankError.
        """
        self._own, self._group = torch.tensor(numbers, dtype=torch.float64), group
        self._branch = Branch(None, ()) if group is None else branch(group.rank(), group.size())
        self._sent: list[tuple[Tensor, dist.Work]] = []  # a message must not change before it has left
        with posting(CONTROL):
            self._parts = [self._receive(child) for child in self._branch.children]
            self._total = None if self._branch.parent is None else self._receive(self._branch.parent)
            if self._branch.parent is not None and not self._branch.children:
                self._send(self._own, self._branch.parent)

    def _receive(self, rank: int) -> tuple[Tensor, dist.Work]:
        received = torch.empty_like(self._own)
        return received, cast("dist.Work", dist.irecv(received, group=self._group, group_src=rank))

    def _send(self, numbers: Tensor, rank: int) -> None:
        self._sent.append((numbers, cast("dist.Work", dist.isend(numbers, group=self._group, group_dst=rank))))

    def finish(self) -> list[float]:
        """Wait for the other ranks' numbers and pass them on; return the sums, the same on every rank.

        Raises LostRankError.
        """
        total = self._own
        with lost_rank_at(CONTROL):
            for part, work in self._parts:
                work.wait()
                total = total + part
            if self._branch.parent is not None and self._total is not None:
                if self._branch.children:
                    with posting(CONTROL):
                        self._send(total, self._branch.parent)
                total, work = self._total
                work.wait()
            with posting(CONTROL):
                for child in reversed(self._branch.children):  # the largest part of the tree first
                    self._send(total, child)
            for _, work in self._sent:
                work.wait()
        sums: list[float] = total.tolist()
        return sums
