"""How far the clocks of the nodes are apart, asked through the room of a job's ranks."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from alexnet_dist.errors import RunError
from alexnet_dist.system.environment import LaunchInfo

QUESTIONS = 3  # of which the one that was answered soonest counts


def clock_offsets_s(room: Store, launched: LaunchInfo, firsts: list[int], timeout_s: float) -> dict[int, float]:
    """Return, on rank 0, how far the clock of each other node is ahead of its own, by the node's first rank.

    firsts: the first ranks of the other nodes. Every rank calls it; those of no interest return at once. Raises
    RunError if a rank does not answer.
    """
    wait = timedelta(seconds=timeout_s)
    try:
        if launched.rank in firsts:
            for number in range(QUESTIONS):
                room.wait([f"clock/{number}/{launched.rank}"], wait)
                room.set(f"clock-answer/{number}/{launched.rank}", json.dumps(time.time()))
        return {rank: _offset_s(room, rank, wait) for rank in firsts} if launched.rank == 0 else {}
    except dist.DistError as error:
        raise RunError(f"rank {launched.rank}: the clocks are not compared: {str(error).splitlines()[0]}") from None


def _offset_s(room: Store, rank: int, wait: timedelta) -> float:
    measured = []
    for number in range(QUESTIONS):
        asked_s = time.time()
        room.set(f"clock/{number}/{rank}", "")
        room.wait([f"clock-answer/{number}/{rank}"], wait)
        answered_s = time.time()
        there_s = float(json.loads(room.get(f"clock-answer/{number}/{rank}")))
        measured.append((answered_s - asked_s, there_s - (asked_s + answered_s) / 2))
    return min(measured)[1]
