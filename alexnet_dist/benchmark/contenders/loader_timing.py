"""How fast a loader delivers batches: the same measurement for all loaders.

A loader is a function from LoaderSettings to its epochs. The first epoch is not counted: it starts workers, fills the
page cache and compiles. Whole epochs follow, at least one and at least MIN_TIMED_S, including all work between epochs.
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

LabelledImages = tuple[Tensor, Tensor]  # one batch: images and labels, as the loader delivers them
Epochs = Callable[[int], Iterator[LabelledImages]]  # the batches of an epoch, by its number

# From the start of a loader to the request for its first batch: workers that start at once are up by then.
START_UP_S = 1.0
# A fast loader finishes a small set too soon to be timed.
MIN_TIMED_S = 2.0


@dataclass(frozen=True)
class LoaderSettings:
    """The work of a loader.

    shards: a packed set. folder: the same JPEG files in class folders, beside the files of other formats.
    images: of an epoch, the whole set. batch: images. crop: pixels a side, at random offsets, flipped at random.
    """

    shards: str
    folder: str
    images: int
    workers: int
    batch: int
    crop: int


def measure(loader: str, warm_first: bool, **settings: object) -> dict[str, float]:
    """Return a loader's figures; loader: "module:function" in this package.

    warm_first: whether the loader's workers are up once it is open, so that its very first batch is timed; the other
    loaders start workers in the first epoch, and the first batch of the second epoch is timed.
    """
    torch.set_num_threads(1)
    module, function = loader.split(":")
    open_epochs = getattr(importlib.import_module(f"alexnet_dist.benchmark.contenders.{module}"), function)
    epochs: Epochs = open_epochs(LoaderSettings(**settings))  # type: ignore[arg-type]
    time.sleep(START_UP_S)
    first_batch_s = [_consume(epochs(0))[1]]
    began_s, cpu_began_s, images = time.perf_counter(), cpu_s(), 0
    while time.perf_counter() - began_s < MIN_TIMED_S:
        delivered, first_s = _consume(epochs(len(first_batch_s)))
        images += delivered
        first_batch_s.append(first_s)
    seconds, used_s = time.perf_counter() - began_s, cpu_s() - cpu_began_s
    return {
        "images_per_second": images / seconds,
        "cpu_ms_per_image": 1000 * used_s / images,
        "first_batch_ms": 1000 * first_batch_s[0 if warm_first else 1],
    }


def _consume(batches: Iterator[LabelledImages]) -> tuple[int, float]:
    """Read one value of every batch of an epoch; return the number of images and the seconds to the first batch."""
    began_s, first_s, images = time.perf_counter(), 0.0, 0
    for pixels, labels in batches:
        # Reading a value ensures that the images are really in memory.
        pixels[-1, -1, -1, -1].item()
        first_s = first_s or time.perf_counter() - began_s
        images += len(labels)
    return images, first_s


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its live workers, which getrusage counts only after they exit."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    used_s = time.process_time()
    for worker in multiprocessing.active_children():
        # After the name in brackets, which may contain anything, user and system time are fields 12 and 13.
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        used_s += (int(fields[11]) + int(fields[12])) / ticks_per_s
    return used_s
