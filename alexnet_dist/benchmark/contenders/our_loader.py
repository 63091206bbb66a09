"""Our loader as a contender, and what it is made of: reading alone, and the wait at an epoch's border."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch

from alexnet_dist.benchmark.contenders.loader_timing import SETTLE_S, Batch, Epochs, Job
from alexnet_dist.data.augment import Floats, train_draws
from alexnet_dist.data.loader import PREFETCH, BatchRequest, LoadedBatch, Loader, labels, pixels
from alexnet_dist.data.reader import Split
from alexnet_dist.training.run_plan import RunPlan

LANES, WINDOW = 32, 2048  # the configuration's defaults
IMAGENET_COUNTS = (1000,) * 1281 + (167,)
MANY_EPOCHS = 100_000
BORDER_STEPS = 40  # watched before the border, and after it


def epochs(job: Job) -> Epochs:
    """Return our loader's epochs: uint8 (n, crop, crop, 3), flipped here; in training the device does it."""
    split = Split.open(Path(job.shards), "train")
    loader = _loader(split, job)
    components = split.components  # as training has them, from before its first batch
    # More epochs than are taken: the loader works ahead over the last border as over any other.
    batches = loader.run(_orders(_programme(split.counts, job, MANY_EPOCHS)))

    def epoch(_number: int) -> Iterator[Batch]:
        for loaded in islice(batches, job.images // job.batch):
            yield _flipped(loaded, split, components, job), labels(loaded.rows)

    return epoch


def _loader(split: Split, job: Job) -> Loader:
    return Loader({"train": split}, seed=0, crop=job.crop, rows=job.batch, workers=job.workers, max_bad_fraction=0.0)


def _programme(counts: tuple[int, ...], job: Job, epochs: int) -> RunPlan:
    steps = epochs * (sum(counts) // job.batch)
    return RunPlan(
        counts=counts, seed=0, global_batch=job.batch, lanes=LANES, window=WINDOW, accumulate=1, steps=steps,
        validation_images=0, validation_rows=0, evaluate_every=0,
    )  # fmt: skip


def _orders(programme: RunPlan, step: int = 0, images: int = 1 << 62) -> Iterator[BatchRequest]:
    for task in programme.tasks(0, 1, step, 0):
        yield BatchRequest("train", task.epoch, task.ids % images, train=True)


def _flipped(loaded: LoadedBatch, split: Split, components: Floats, job: Job) -> torch.Tensor:
    """Return the crops, the drawn half of them flipped in place by torch.flip."""
    crops, request = pixels(loaded.rows, job.crop), loaded.request
    drawn = train_draws(0, request.epoch, request.ids, split.manifest.size, job.crop, components, 0.0)
    for row in np.flatnonzero(drawn.flip).tolist():
        crops[row] = torch.flip(crops[row], [1])
    return crops


def measure_reading(**job: object) -> dict[str, float]:
    """Return the samples a second that one core reads at random, each one's checksum compared, nothing decoded."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    split = Split.open(Path(Job(**job).shards), "train")  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    ids = [int(i) for _ in range(-(-100_000 // split.images)) for i in random.permutation(split.images)]
    for sample in ids[: split.images]:
        split.jpeg(sample)
    began_s = time.perf_counter()
    for sample in ids:
        split.jpeg(sample)
    return {"images_per_second": len(ids) / (time.perf_counter() - began_s)}


def measure_boundary(**settings: object) -> dict[str, float]:
    """Return the longest wait for a batch at an epoch's border, less the median wait of the batches around it.

    The plan is as large as ImageNet's, so that making the next one costs what it costs; the samples are the set's.
    Two workers deliver by turns, so some waits are longer than the median anywhere: elsewhere_stall_ms is the same
    figure of as many batches that are not at the border.
    """
    torch.set_num_threads(1)
    job = Job(**settings)  # type: ignore[arg-type]
    split = Split.open(Path(job.shards), "train")
    programme = _programme(IMAGENET_COUNTS, job, 2)
    loader, components = _loader(split, job), split.components
    time.sleep(SETTLE_S)
    step = programme.steps_per_epoch - BORDER_STEPS
    batches = loader.run(_orders(programme, step, split.images))
    next(batches)
    waits_s = []
    for _ in range(2 * BORDER_STEPS):
        began_s = time.perf_counter()
        _flipped(next(batches), split, components, job)
        waits_s.append(time.perf_counter() - began_s)
    # The next plan is made when the loader asks for its first batch, some batches ahead of the border.
    ahead = PREFETCH * max(1, job.workers) + 2
    width, usual_s = ahead + 2, median(waits_s)
    longest_s = [max(waits_s[first : first + width]) - usual_s for first in range(0, len(waits_s) - width, width)]
    border_s = max(waits_s[BORDER_STEPS - ahead : BORDER_STEPS + 2]) - usual_s
    return {"boundary_stall_ms": 1000 * border_s, "elsewhere_stall_ms": 1000 * median(longest_s)}
