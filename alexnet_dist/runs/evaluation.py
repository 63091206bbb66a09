"""Errors and loss of trained runs over a whole split; several runs are averaged as an ensemble."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_dist.data.loader import BatchRequest, Loader, labels, pixels
from alexnet_dist.data.pairing import pixel_differences
from alexnet_dist.data.plan import validation_ids, validation_steps
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import Remote
from alexnet_dist.errors import UserError
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.nn.scoring import score
from alexnet_dist.runs.inference import SMALLEST, view_probabilities
from alexnet_dist.runs.load import LoadedRun

ROWS = 100  # images a batch


@dataclass(frozen=True)
class Result:
    """The result of an evaluation; errors are fractions, top-5 null below six classes, loss is the mean over images."""

    top1_error: float
    top5_error: float | None
    loss: float
    images: int
    views: int
    split: str
    steps: list[int]


def evaluate(runs: list[LoadedRun], split: Split, views: int, device: torch.device, workers: int = 2) -> Result:
    """Evaluate the mean of several runs' probabilities over a whole split, each image once."""
    classes = [described.name for described in split.manifest.classes]
    for run in runs:
        if [described.name for described in run.manifest.classes] != classes:
            raise UserError(
                f"{run.directory} was trained on other classes than {split.root} has; give --data the shards packed"
                " with its training set"
            )
        if run.manifest.size != split.manifest.size:
            raise UserError(
                f"{run.directory} was trained on {run.manifest.size}-pixel images, {split.root} has"
                f" {split.manifest.size}; pack with --size {run.manifest.size}"
            )
        if differences := pixel_differences(run.manifest, split.manifest):
            print(
                f"warning: the images that {run.directory} was trained on and those of {split.root} were packed"
                f" differently: {differences}; the difference adds to the error",
                file=sys.stderr,
                flush=True,
            )
        run.model.to(device)
    train = runs[0].config.train
    set_precision(train.deterministic, train.tf32)
    sums = torch.zeros(4, dtype=torch.float64)
    for images, truth in _batches(split, workers):
        probabilities = torch.stack([view_probabilities(run, images, views, device) for run in runs]).mean(0)
        sums += score(probabilities.clamp_min(SMALLEST).log(), truth.to(device))
    loss, top1, top5, count = sums.tolist()
    if count != split.images:
        raise RuntimeError(f"evaluated {count:.0f} images of {split.images}")
    return Result(
        top1_error=top1 / count,
        top5_error=top5 / count if len(classes) > 5 else None,
        loss=loss / count,
        images=split.images,
        views=views,
        split=split.manifest.split,
        steps=[run.step for run in runs],
    )


def _batches(split: Split, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images at packed size, uint8 (n, size, size, 3), and labels (n,); empty rows at the end are labelled -1."""
    name, size = split.manifest.split, split.manifest.size
    ahead_bytes = split.root.cache.max_bytes if isinstance(split.root, Remote) else 0
    batches = (validation_ids(k, 0, 1, split.images, ROWS) for k in range(validation_steps(split.images, 1, ROWS)))
    with Loader(
        {name: split}, seed=0, crop=size, rows=ROWS, workers=workers, max_bad_fraction=0.0, ahead_bytes=ahead_bytes
    ) as loader:
        for batch in loader.run(BatchRequest(name, 0, ids, False) for ids in batches):
            if batch.bad:
                raise UserError(f"{split.root}: {batch.bad[0]}; an evaluation must see every image: pack it again")
            yield pixels(batch.rows, size), labels(batch.rows)
