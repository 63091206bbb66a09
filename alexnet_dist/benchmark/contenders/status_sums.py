"""The status sum of all ranks alone, and gloo's all-reduce of the same numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as dist

from alexnet_dist.benchmark.contenders.rank_groups import gather, paired_ranks
from alexnet_dist.distributed.control import Control

NUMBERS = (0.0, 1.5, 3.0, 0.0, 0.0, 0.0)  # as many as in a step
WARM_UP = 10  # repetitions


def measure(repeats: int, threads: int) -> dict[str, float]:
    """Return the microseconds of both, from the post to the end of the wait, on the slowest rank."""
    torch.set_num_threads(threads)
    with paired_ranks("cpu") as (_topology, groups):
        assert groups.world is not None
        control, numbers = Control(groups.world), torch.tensor(NUMBERS, dtype=torch.float64)
        ours_us = _median_us(lambda: control.sums(NUMBERS), repeats)
        ring_us = _median_us(lambda: dist.all_reduce(numbers.clone(), group=groups.world), repeats)
        slowest_us = [max(by_rank) for by_rank in zip(*gather(groups, [ours_us, ring_us]), strict=True)]
    return {"status_us": slowest_us[0], "status_ring_us": slowest_us[1]}


def _median_us(work: Callable[[], object], repeats: int) -> float:
    times_s = []
    for _ in range(WARM_UP + repeats):
        began_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - began_s)
    return 1e6 * median(times_s[WARM_UP:])
