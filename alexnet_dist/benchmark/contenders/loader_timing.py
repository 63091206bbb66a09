"""How fast a loader delivers: what is measured is the same for all of them, and said here once.

A loader is a function of a Job that returns its epochs. The first epoch is not counted: it starts workers, fills the
page cache, compiles. Then come whole epochs, one at least and as many as fill COUNTED_S, with all that happens at
their borders.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # images and labels, as this loader gives them
Epochs = Callable[[int], Iterator[Batch]]  # the batches of an epoch, by its number

# After opening a loader, before its first batch is asked for: workers that it starts by then are up.
SETTLE_S = 1.0
# A fast loader is through a small set before a clock says much.
COUNTED_S = 2.0


@dataclass(frozen=True)
class Job:
    """What a loader is to do.

    shards: a packed set. folder: the same JPEG files as class folders, and beside them what other formats need.
    images: of an epoch, all of the set. batch: images. crop: pixels a side, at random places, flipped by chance.
    """

    shards: str
    folder: str
    images: int
    workers: int
    batch: int
    crop: int


def measure(loader: str, warm_first: bool, **job: object) -> dict[str, float]:
    """Return a loader's figures; loader: "module:function" inside this package.

    warm_first: whether its workers are up once it is open, so that its very first batch is the one to time; the
    others start theirs in the first epoch, and the first batch of the second is timed.
    """
    torch.set_num_threads(1)
    module, function = loader.split(":")
    work = Job(**job)  # type: ignore[arg-type]
    epochs: Epochs = getattr(importlib.import_module(f"alexnet_dist.benchmark.contenders.{module}"), function)(work)
    time.sleep(SETTLE_S)
    first_batch_s = [_through(epochs(0))[1]]
    began_s, cpu_began_s, images = time.perf_counter(), cpu_s(), 0
    while time.perf_counter() - began_s < COUNTED_S:
        delivered, first_s = _through(epochs(len(first_batch_s)))
        images += delivered
        first_batch_s.append(first_s)
    seconds, used_s = time.perf_counter() - began_s, cpu_s() - cpu_began_s
    return {
        "images_per_second": images / seconds,
        "cpu_ms_per_image": 1000 * used_s / images,
        "first_batch_ms": 1000 * first_batch_s[0 if warm_first else 1],
    }


def _through(batches: Iterator[Batch]) -> tuple[int, float]:
    """Take an epoch's batches and look at each; return the number of images and the seconds to the first batch."""
    began_s, first_s, images = time.perf_counter(), 0.0, 0
    for pixels, labels in batches:
        # The images are there, and not only promised.
        pixels[-1, -1, -1, -1].item()
        first_s = first_s or time.perf_counter() - began_s
        images += len(labels)
    return images, first_s


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its living workers, whom getrusage would count at their end."""
    ticks = os.sysconf("SC_CLK_TCK")
    used_s = time.process_time()
    for worker in multiprocessing.active_children():
        # After the name in brackets, which may hold anything, user and system time are fields 12 and 13.
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        used_s += (int(fields[11]) + int(fields[12])) / ticks
    return used_s
