"""Torch's own calls on the same bytes, without any of our code: an exchange between two ranks, an all-reduce."""

from __future__ import annotations

import time
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.benchmark.contenders.rank_groups import gather, paired_ranks
from alexnet_dist.system import resources

WARM_UP = 2  # repetitions


def exchange(sent: Tensor, received: Tensor, group: dist.ProcessGroup, peer: int) -> None:
    """Send one tensor to a rank, receive another from it, and wait for both."""
    operations = [dist.P2POp(dist.isend, sent, peer, group), dist.P2POp(dist.irecv, received, peer, group)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def measure_allreduce(size_bytes: int, repeats: int, threads: int) -> dict[str, float]:
    """Return how fast the ranks with the same tower sum `size_bytes`, both towers' groups at once, as in a step.

    gigabytes_per_second: the bytes that a ring moves for each rank, 2 (R - 1) / R of size_bytes, over the time.
    """
    resources.keep_freed_memory()
    torch.set_num_threads(threads)
    with paired_ranks("cpu") as (topology, groups):
        gradients, times_s = torch.zeros(size_bytes // 4), []
        for _ in range(WARM_UP + repeats):
            dist.barrier(groups.world)
            began_s = time.perf_counter()
            dist.all_reduce(gradients, group=groups.dp)
            times_s.append(time.perf_counter() - began_s)
        seconds = max(gather(groups, median(times_s[WARM_UP:])))
    replicas = topology.replicas
    moved_bytes = 2 * (replicas - 1) / replicas * size_bytes
    return {"gigabytes_per_second": moved_bytes / seconds / 1e9, "allreduce_ms": 1000 * seconds}
