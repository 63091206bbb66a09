"""Our loader as a contender, and two of its parts: reading alone, and the wait between two epochs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch

from alexnet_dist.benchmark.contenders.loader_timing import START_UP_S, Epochs, LabelledImages, LoaderSettings
from alexnet_dist.data.augment import Floats, train_draws
from alexnet_dist.data.loader import PREFETCH, BatchRequest, LoadedBatch, Loader, labels, pixels
from alexnet_dist.data.reader import Split
from alexnet_dist.training.run_plan import RunPlan

LANES, WINDOW = 32, 2048  # the configuration's defaults
IMAGENET_COUNTS = (1000,) * 1281 + (167,)
MANY_EPOCHS = 100_000
MIN_READS = 100_000  # samples
BORDER_STEPS = 40  # timed before the border between two epochs, and after it


def epochs(settings: LoaderSettings) -> Epochs:
    """Return our loader's epochs: uint8 (n, crop, crop, 3), flipped here; in training the device flips them."""
    split = Split.open(Path(settings.shards), "train")
    loader = _loader(split, settings)
    components = split.components  # computed before the first batch, as in training
    # More epochs than are read, so that the loader prefetches past the last one as past any other.
    batches = loader.run(_requests(_plan(split.counts, settings, MANY_EPOCHS)))

    def epoch(_number: int) -> Iterator[LabelledImages]:
        for loaded in islice(batches, settings.images // settings.batch):
            yield _flipped(loaded, split, components, settings), labels(loaded.rows)

    return epoch


def _loader(split: Split, settings: LoaderSettings) -> Loader:
    return Loader(
        {"train": split}, seed=0, crop=settings.crop, rows=settings.batch, workers=settings.workers,
        max_bad_fraction=0.0,
    )  # fmt: skip


def _plan(counts: tuple[int, ...], settings: LoaderSettings, epochs: int) -> RunPlan:
    return RunPlan(
        counts=counts, seed=0, global_batch=settings.batch, lanes=LANES, window=WINDOW, accumulate=1,
        steps=epochs * (sum(counts) // settings.batch), validation_images=0, validation_rows=0, evaluate_every=0,
    )  # fmt: skip


def _requests(plan: RunPlan, step: int = 0, images: int = 1 << 62) -> Iterator[BatchRequest]:
    """Yield the plan's requests from a step on; images: of the set, at which the plan's sample numbers wrap around."""
    for spec in plan.batches(0, 1, step, 0):
        yield BatchRequest("train", spec.epoch, spec.ids % images, random_crop=True)


def _flipped(loaded: LoadedBatch, split: Split, components: Floats, settings: LoaderSettings) -> torch.Tensor:
    """Return the crops, flipped in place by torch.flip as drawn at random."""
    crops, request = pixels(loaded.rows, settings.crop), loaded.request
    draws = train_draws(0, request.epoch, request.ids, split.manifest.size, settings.crop, components, 0.0)
    for index in np.flatnonzero(draws.flip).tolist():
        crops[index] = torch.flip(crops[index], [1])
    return crops


def measure_reading(**settings: object) -> dict[str, float]:
    """Return the samples a second that one core reads at random, comparing every checksum and decoding nothing."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    split = Split.open(Path(LoaderSettings(**settings).shards), "train")  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    ids = [int(i) for _ in range(-(-MIN_READS // split.images)) for i in random.permutation(split.images)]
    for sample in ids[: split.images]:
        split.jpeg(sample)
    began_s = time.perf_counter()
    for sample in ids:
        split.jpeg(sample)
    return {"images_per_second": len(ids) / (time.perf_counter() - began_s)}


def measure_boundary(**settings: object) -> dict[str, float]:
    """Return the longest wait for a batch at the border of two epochs, less the median wait around it.

    The plan is as large as ImageNet's, so that computing the next epoch's order takes as long; the samples are those of
    the set. Two workers deliver in turn, so some waits are longer than the median anywhere: elsewhere_stall_ms is the
    same figure for as many batches away from the border.
    """
    torch.set_num_threads(1)
    loader_settings = LoaderSettings(**settings)  # type: ignore[arg-type]
    split = Split.open(Path(loader_settings.shards), "train")
    plan = _plan(IMAGENET_COUNTS, loader_settings, 2)
    loader, components = _loader(split, loader_settings), split.components
    time.sleep(START_UP_S)
    batches = loader.run(_requests(plan, plan.steps_per_epoch - BORDER_STEPS, split.images))
    next(batches)
    waits_s = []
    for _ in range(2 * BORDER_STEPS):
        began_s = time.perf_counter()
        _flipped(next(batches), split, components, loader_settings)
        waits_s.append(time.perf_counter() - began_s)
    # The next epoch's order is computed when its first batch is requested, some batches before the border.
    prefetched = PREFETCH * max(1, loader_settings.workers) + 2
    width, median_s = prefetched + 2, median(waits_s)
    longest_s = [max(waits_s[first : first + width]) - median_s for first in range(0, len(waits_s) - width, width)]
    border_s = max(waits_s[BORDER_STEPS - prefetched : BORDER_STEPS + 2]) - median_s
    return {"boundary_stall_ms": 1000 * border_s, "elsewhere_stall_ms": 1000 * median(longest_s)}
