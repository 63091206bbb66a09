"""Errors and loss of trained runs over a whole split; several runs are averaged as an ensemble."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

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
from alexnet_dist.runs.class_counts import ClassCounts
from alexnet_dist.runs.ensemble import search_weights, weighted_mean
from alexnet_dist.runs.inference import SMALLEST, view_probabilities
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.progress import Progress
from alexnet_dist.system import resources

ROWS = 100  # images a batch

Predictions = Iterable[tuple[Tensor, Tensor]]  # batches of (runs, n, classes) probabilities and (n,) labels


@dataclass(frozen=True)
class Scores:
    """Errors over a split as fractions, top-5 null below six classes, and the mean loss over its images."""

    top1_error: float
    top5_error: float | None
    loss: float


@dataclass(frozen=True)
class RunScores(Scores):
    """The scores of one run of an ensemble."""

    directory: str


@dataclass(frozen=True)
class Weights:
    """The weights of an ensemble, in the order of its runs, and where they are from; searched_on: a split, or null."""

    kind: Literal["equal", "given", "searched"]
    values: list[float]
    searched_on: str | None = None


@dataclass(frozen=True)
class Result(Scores):
    """The result of an evaluation, with the scores of each run alone and of the plain mean.

    optimistic: whether the weights were searched on the images that are reported.
    """

    images: int
    views: int
    split: str
    steps: list[int]
    weights: Weights
    runs: list[RunScores]
    plain_mean: Scores
    optimistic: bool


def evaluate(
    runs: list[LoadedRun],
    split: Split,
    views: int,
    device: torch.device,
    workers: int = 2,
    weights: Sequence[float] | None = None,
    search_on: Split | None = None,
    counts: ClassCounts | None = None,
) -> Result:
    """Evaluate the weighted mean of several runs' probabilities over a whole split, each image once.

    weights: one for each run; None: equal ones, or those that a search on the split `search_on` finds. If that is the
    same split, no net computes it twice. counts: to which the images are added, by class.

    Raises UserError for a split that does not fit the runs, for a damaged image, or if a search needs more memory than
    there is.
    """
    for other in (split,) if search_on is None else (split, search_on):
        check_split(runs, other)
    for run in runs:
        run.model.to(device)
    train = runs[0].config.train
    set_precision(train.deterministic, train.tf32)
    chosen = _equal(runs) if weights is None else Weights("given", list(weights))
    optimistic, predictions = False, _predictions(runs, split, views, device, workers)
    if search_on is not None:
        optimistic = search_on.manifest.sha256 == split.manifest.sha256
        probabilities, truth = _keep(runs, search_on, _predictions(runs, search_on, views, device, workers))
        print(f"searching the weights of {len(runs)} runs", file=sys.stderr, flush=True)
        chosen = Weights("searched", search_weights(probabilities, truth), search_on.manifest.split)
        if optimistic:
            predictions = zip(torch.split(probabilities, ROWS, 1), torch.split(truth, ROWS), strict=True)
    of_runs, plain, combined = _scores(predictions, split, chosen.values, counts)
    return Result(
        **vars(combined),
        images=split.images,
        views=views,
        split=split.manifest.split,
        steps=[run.step for run in runs],
        weights=chosen,
        runs=[
            RunScores(**vars(scores), directory=str(run.directory)) for run, scores in zip(runs, of_runs, strict=True)
        ],
        plain_mean=plain,
        optimistic=optimistic,
    )


def _equal(runs: Sequence[LoadedRun]) -> Weights:
    return Weights("equal", [1 / len(runs)] * len(runs))


def check_split(runs: Sequence[LoadedRun], split: Split) -> None:
    """Raise UserError if a split has not the classes and the image size of the runs; warn of other differences."""
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


def _scores(
    predictions: Predictions, split: Split, weights: Sequence[float], counts: ClassCounts | None
) -> tuple[list[Scores], Scores, Scores]:
    """Return the scores of each run, of the plain mean and of the weighted mean, whose classes are counted."""
    sums: Tensor | None = None
    for probabilities, truth in predictions:
        equal = [1 / len(probabilities)] * len(probabilities)
        means = [*probabilities.double(), *(weighted_mean(probabilities, values) for values in (equal, weights))]
        batch = torch.stack([score(mean.clamp_min(SMALLEST).log(), truth.to(mean.device)) for mean in means])
        sums = batch if sums is None else sums + batch
        if counts is not None:
            counts.add(means[-1], truth)
    assert sums is not None
    if (sums[:, 3] != split.images).any():
        raise RuntimeError(f"evaluated {sums[0, 3]:.0f} images of {split.images}")
    has_top5 = len(split.manifest.classes) > 5
    *of_runs, plain, weighted = [
        Scores(top1 / count, top5 / count if has_top5 else None, loss / count)
        for loss, top1, top5, count in sums.tolist()
    ]
    return of_runs, plain, weighted


def _keep(runs: Sequence[LoadedRun], split: Split, predictions: Predictions) -> tuple[Tensor, Tensor]:
    """Return the probabilities of a whole split, (runs, images, classes) float32, and its labels (images,).

    In float32 a probability below 1.2e-38 is kept as that: 0 would have no logarithm. Raises UserError if there is no
    room for them.
    """
    shape = (len(runs), split.images, len(split.manifest.classes))
    # The search itself takes as much again at most.
    needed, available = 2 * 4 * shape[0] * shape[1] * shape[2], resources.available_memory_bytes()
    if available is not None and needed > available:
        raise UserError(
            f"--weights search: the probabilities of {shape[0]} runs for {shape[1]:,} images of {split.manifest.split}"
            f" and {shape[2]:,} classes take {needed / 1e9:.3g} GB of memory, {available / 1e9:.3g} GB are available;"
            " search with fewer runs or on a larger machine, and pass the weights found as --weights"
        )
    kept, truth, first = torch.empty(shape), torch.empty(split.images, dtype=torch.int64), 0
    for probabilities, labels_of_batch in predictions:
        rows = slice(first, first + len(labels_of_batch))
        kept[:, rows] = probabilities.clamp_min(torch.finfo(torch.float32).tiny)
        truth[rows] = labels_of_batch
        first = rows.stop
    return kept, truth


def _predictions(
    runs: Sequence[LoadedRun], split: Split, views: int, device: torch.device, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch's probabilities, (runs, n, classes) float64, and labels (n,), and show the progress."""
    with Progress(split.manifest.split, split.images) as progress:
        for images, truth in split_batches(split, workers):
            yield torch.stack([view_probabilities(run, images, views, device) for run in runs]), truth
            progress.add(len(truth))


def split_batches(split: Split, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split's images in order at packed size, uint8 (n, size, size, 3), and their labels (n,).

    Raises UserError for a damaged image.
    """
    name, size = split.manifest.split, split.manifest.size
    ahead_bytes = split.root.cache.max_bytes if isinstance(split.root, Remote) else 0
    batches = (validation_ids(k, 0, 1, split.images, ROWS) for k in range(validation_steps(split.images, 1, ROWS)))
    with Loader(
        {name: split}, seed=0, crop=size, rows=ROWS, workers=workers, max_bad_fraction=0.0, ahead_bytes=ahead_bytes
    ) as loader:
        for batch in loader.run(BatchRequest(name, 0, ids, False) for ids in batches):
            if batch.bad:
                raise UserError(f"{split.root}: {batch.bad[0]}; an evaluation must see every image: pack it again")
            truth = labels(batch.rows)
            filled = truth >= 0  # the last batch may have empty rows
            yield pixels(batch.rows, size)[filled], truth[filled]
