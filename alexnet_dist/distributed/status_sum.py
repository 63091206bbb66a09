"""A few numbers summed over all ranks in about log2 N rounds, by recursive doubling.

gloo's all-reduce is a ring of 2 (N - 1) messages, one after the other: with hundreds of ranks it takes longer than a
step of a GPU. Here the ranks are grouped by the bits of their numbers. In each round a rank exchanges its partial sum
with the rank whose number differs in one bit, so each round doubles the number of ranks that a partial sum covers.
Both add the same two numbers, so all ranks have the same bits, and these do not depend on when messages arrive.
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
class Round:
    """What a rank does in a round: send its partial sum to a peer, receive the peer's, or both.

    replaces: what is received is the total, and not to be added.
    """

    peer: int
    sends: bool = True
    receives: bool = True
    replaces: bool = False


def rounds(rank: int, world_size: int) -> list[Round]:
    """Return the rounds of a rank in their order: log2 N for a power of two, else at most 2 more than its floor.

    With another N, the ranks from the largest power of two on first give their numbers to one of the ranks below it,
    which returns the total at the end.
    """
    core = 1 << (world_size.bit_length() - 1)  # the largest power of two that is not above world_size
    if rank >= core:
        return [Round(rank - core, receives=False), Round(rank - core, sends=False, replaces=True)]
    doubling = [Round(rank ^ (1 << bit)) for bit in range(core.bit_length() - 1)]
    if rank + core >= world_size:
        return doubling
    return [Round(rank + core, sends=False), *doubling, Round(rank + core, receives=False)]


class PendingSum:
    """Numbers that are being summed over all ranks: the first message is under way, the others follow in `finish`."""

    def __init__(self, numbers: Sequence[float], group: dist.ProcessGroup | None) -> None:
        """Post the messages that this rank receives, and send the first; None: a run of one process.

        The sums of a group must be finished in the order in which they were begun. Raises LostRankError.
        """
        self._total, self._group = torch.tensor(numbers, dtype=torch.float64), group
        self._rounds: list[Round] = []
        self._incoming: list[tuple[Tensor, dist.Work | None]] = []  # by round
        self._outgoing: list[tuple[Tensor, dist.Work]] = []  # a message must not change before it is sent
        if group is None:
            return
        self._rounds = rounds(group.rank(), group.size())
        with posting(CONTROL):
            for each in self._rounds:
                received = torch.empty_like(self._total)
                work = dist.irecv(received, group=group, group_src=each.peer) if each.receives else None
                self._incoming.append((received, work))
            self._send(self._rounds[0])

    def _send(self, each: Round) -> None:
        if each.sends:
            work = cast("dist.Work", dist.isend(self._total, group=self._group, group_dst=each.peer))
            self._outgoing.append((self._total, work))

    def finish(self) -> list[float]:
        """Run the remaining rounds and return the sums, the same on every rank; raises LostRankError."""
        with lost_rank_at(CONTROL):
            for number, (each, (received, work)) in enumerate(zip(self._rounds, self._incoming, strict=True)):
                if number:
                    with posting(CONTROL):
                        self._send(each)
                if work is not None:
                    work.wait()
                    self._total = received if each.replaces else self._total + received
            for _, work in self._outgoing:
                work.wait()
        sums: list[float] = self._total.tolist()
        return sums
