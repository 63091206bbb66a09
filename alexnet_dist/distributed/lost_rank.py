"""A rank that is gone or silent: recognised in what torch.distributed raises, and reported in one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from alexnet_dist.distributed.topology import Topology
from alexnet_dist.monitoring.timeline import region

# What a rank does with the others when it is not at a join of its pair: sum gradients over replicas, share the status
# of all ranks (also before the first step, in validation and at checkpoints), build the process groups.
AVERAGING, CONTROL, GROUPS = "averaging", "status sum", "creation of the process groups"
# How torch.distributed words that a rank is gone or silent.
CLOSED = ("closed by peer", "reset by peer", "connection was likely closed", "broken pipe")
SIGNS = (
    *CLOSED, "connectfullmesh", "timed out", "timeout", "ncclremoteerror", "remote process exited",
    "communicator was aborted",
)  # fmt: skip
LAST_ERROR = "Last error:"  # NCCL's own explanation follows it, on a line of its own
SOURCE_LINE = re.compile(r"^\[\S+:\d+\] ")  # gloo's prefix


class LostRankError(Exception):
    """Another rank is gone, or has been silent for longer than the timeout.

    operation: what this rank was waiting for, such as a join's name. reason: torch.distributed's message.
    """

    def __init__(self, operation: str, reason: str) -> None:
        """Keep both; `lost_rank_sentence` adds which rank is meant, which only the topology knows."""
        super().__init__(f"{operation}: {reason}")
        self.operation, self.reason = operation, reason


@contextmanager
def lost_rank_at(operation: str) -> Iterator[None]:
    """Turn what torch.distributed raises for a lost rank into LostRankError, which names the operation."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(sign in text.lower() for sign in SIGNS):
            raise
        first_line, *_ = text.splitlines()
        # gloo follows its message by a guess at causes.
        message = SOURCE_LINE.sub("", first_line).partition(". This is")[0]
        last_error = " ".join(text.partition(LAST_ERROR)[2].split())
        raise LostRankError(operation, f"{message}; {last_error}" if last_error else message) from None


def closed(reason: str) -> bool:
    """Return whether torch.distributed's message says that a connection was closed, as a process does at its end."""
    return any(sign in reason.lower() for sign in CLOSED)


@contextmanager
def posting(operation: str) -> Iterator[None]:
    """Name the message that is posted inside, for a profiler and for LostRankError.

    torch.distributed's own profiler record of a message ends with the message, possibly after the profiler: it then
    writes into freed memory. So these records are switched off, and this region stands in for them.
    """
    with region(f"post: {operation}"), lost_rank_at(operation):
        torch._C._autograd._enable_record_function(False)
        try:
            yield
        finally:
            torch._C._autograd._enable_record_function(True)


def rank_name(topology: Topology, rank: int) -> str:
    """Return a rank's number with its replica and tower."""
    replica, towers = (rank // 2, rank % 2) if topology.layout == "paired" else (rank, "0+1")
    return f"rank {rank} (replica {replica}, tower {towers})"


def awaited(topology: Topology, rank: int, operation: str) -> list[int]:
    """Return the ranks for which a rank waits in an operation."""
    if topology.layout == "paired" and operation not in (AVERAGING, CONTROL, GROUPS):
        return [rank ^ 1]
    towers = 2 if topology.layout == "paired" and operation == AVERAGING else 1
    return [other for other in range(rank % towers, topology.world_size, towers) if other != rank]


def lost_rank_sentence(
    topology: Topology, operation: str, reason: str, lost: Collection[int] = (), explanation: str = ""
) -> str:
    """Return a sentence on which rank lost which, during which operation, and what to do.

    lost: the ranks that are missing; empty if only those are known for which this rank waits. explanation: what is
    known of them.
    """
    known = explanation or "see the output of that rank"
    return (
        f"{rank_name(topology, topology.rank)} lost {_names(topology, operation, lost)} at: {operation} ({reason});"
        f" {known}; the same command resumes from the last checkpoint"
    )


def _names(topology: Topology, operation: str, lost: Collection[int]) -> str:
    ranks = sorted(lost) or awaited(topology, topology.rank, operation)
    if len(ranks) == 1:
        return rank_name(topology, ranks[0])
    numbers = ", ".join(map(str, ranks))
    return f"ranks {numbers}" if lost else f"one of ranks {numbers}"
