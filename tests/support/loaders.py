"""A loader of a small split, requests for it, and the processes that it has started."""

from __future__ import annotations

import multiprocessing

import numpy as np

from alexnet_dist.data.loader import BatchRequest, Loader
from alexnet_dist.data.reader import Split


def open_loader(split: Split, workers: int) -> Loader:
    """Return a loader of a split's small images, at most six at once."""
    return Loader({"train": split}, seed=5, crop=14, rows=6, workers=workers, max_bad_fraction=0.1)


def training_requests(count: int) -> list[BatchRequest]:
    """Return requests for the first six samples in as many epochs."""
    return [BatchRequest("train", epoch, np.arange(6), random_crop=True) for epoch in range(count)]


def children() -> set[int]:
    """Return the child processes of this one, started by any test."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}
