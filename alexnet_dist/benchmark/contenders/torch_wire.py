"""Torch's own calls for the same bytes, with nothing of ours around them: an exchange of two ranks, an all-reduce."""

from __future__ import annotations

import json
import time
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist import process
from alexnet_dist.benchmark.contenders.training_steps import GROUPS_TIMEOUT_S
from alexnet_dist.distributed import topology
from alexnet_dist.distributed.control import Control

WARM_UP = 2  # repetitions


def exchange(sent: Tensor, received: Tensor, group: dist.ProcessGroup, peer: int) -> None:
    """Send a tensor to a rank and receive one from it, and wait for both."""
    operations = [dist.P2POp(dist.isend, sent, peer, group), dist.P2POp(dist.irecv, received, peer, group)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def measure_allreduce(size_bytes: int, repeats: int, threads: int) -> dict[str, float]:
    """Return how the ranks that hold the same tower sum so many bytes, both towers' rows at once, as in a step.

    gigabytes_per_second: what a ring has to move for each rank, 2 (R - 1) / R of the bytes, over the time.
    """
    process.keep_freed_memory()
    torch.set_num_threads(threads)
    place = topology.place("paired", "cpu", process.launch_info())
    groups = topology.open_groups(place, GROUPS_TIMEOUT_S)
    try:
        gradients, found_s = torch.zeros(size_bytes // 4), []
        for _ in range(WARM_UP + repeats):
            dist.barrier(groups.world)
            began_s = time.perf_counter()
            dist.all_reduce(gradients, group=groups.dp)
            found_s.append(time.perf_counter() - began_s)
        told = Control(groups.world).gather(json.dumps(median(found_s[WARM_UP:])))
    finally:
        topology.close_groups()
    seconds, replicas = max(json.loads(one) for one in told), place.replicas
    moved_bytes = 2 * (replicas - 1) / replicas * size_bytes
    return {"gigabytes_per_second": moved_bytes / seconds / 1e9, "allreduce_ms": 1000 * seconds}
