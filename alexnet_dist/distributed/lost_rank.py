"""A rank that is gone or silent: recognised in what torch.distributed raises, and reported in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import RunError
from alexnet_dist.monitoring.timeline import region

# What a rank does with the others when it is not at a join of its pair: sum gradients over replicas, share the status
# of all ranks (also before the first step, in validation and at checkpoints), build the process groups.
AVERAGING, CONTROL, GROUPS = "averaging", "status sum", "creation of the process groups"
# How torch.distributed words that a rank is gone or silent.
SIGNS = (
    "closed by peer", "reset by peer", "connection was likely closed", "connectfullmesh", "timed out", "timeout",
    "broken pipe", "ncclremoteerror", "remote process exited", "communicator was aborted",
)  # fmt: skip
LAST_ERROR = "Last error:"  # NCCL's own explanation follows it, on a line of its own
SOURCE_LINE = re.compile(r"^\[\S+:\d+\] ")  # gloo's prefix


class LostRankError(Exception):
    """Another rank is gone, or has been silent for longer than the timeout.

    operation: what this rank was waiting for, such as a join's name. reason: torch.distributed's message.
    """

    def __init__(self, operation: str, reason: str) -> None:
        """Keep both; `lost_rank_as_error` adds which rank is meant, which only the topology knows."""
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


@contextmanager
def lost_rank_as_error(topology: Topology) -> Iterator[None]:
    """Turn a lost rank into the RunError that ends the run with one sentence."""
    try:
        yield
    except LostRankError as error:
        raise RunError(lost_rank_sentence(topology, error)) from None


def lost_rank_sentence(topology: Topology, error: LostRankError) -> str:
    """Return a sentence on which rank lost which, during which operation, and what to do."""
    return (
        f"{_rank_name(topology, topology.rank)} lost {_lost_rank_name(topology, error.operation)} at:"
        f" {error.operation} ({error.reason}); see the output of that rank; the same command resumes from the last"
        " checkpoint"
    )


def _rank_name(topology: Topology, rank: int) -> str:
    replica, towers = (rank // 2, rank % 2) if topology.layout == "paired" else (rank, "0+1")
    return f"rank {rank} (replica {replica}, tower {towers})"


def _lost_rank_name(topology: Topology, operation: str) -> str:
    if topology.layout == "paired" and operation not in (AVERAGING, CONTROL, GROUPS):
        return _rank_name(topology, topology.rank ^ 1)
    group = topology.dp_ranks if operation == AVERAGING else range(topology.world_size)
    others = [rank for rank in group if rank != topology.rank]
    return _rank_name(topology, others[0]) if len(others) == 1 else f"one of ranks {', '.join(map(str, others))}"
