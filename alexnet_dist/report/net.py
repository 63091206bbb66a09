"""Pictures of a run's net for its page: the first layer's kernels by tower, and what it makes of held-out images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet_dist.data.manifest import manifest_path
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import locate
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.figures.held_out import class_probabilities, held_out_ids, held_out_images, nearest, varied
from alexnet_dist.figures.inline import bytes_of, data_url, jpeg_url
from alexnet_dist.figures.kernels import colour_scores, scaled
from alexnet_dist.figures.mosaic import enlarged, mosaic
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.runs.prediction import Guess, best_guesses, class_names

IMAGES = 8  # with predictions
QUERIES, NEIGHBOURS, SEARCHED = 4, 6, 500  # rows of neighbours, images in each, images among which they are found
COLUMNS, FEW, FEW_COLUMNS = 16, 32, 8  # kernels in a row, fewer than FEW kernels are in rows of FEW_COLUMNS
GREY = 0.5  # between kernels: the colour of a weight of zero, good on light and dark pages


@dataclass(frozen=True)
class TowerKernels:
    """The first layer's kernels of a tower, those without colour first, as a data URL. colour: their mean score."""

    picture: str
    count: int
    side: int
    colour: float


@dataclass(frozen=True)
class Example:
    """A held-out image as a data URL, its class, and the most probable classes, best first."""

    picture: str
    truth: Guess
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class Photo:
    """A held-out image as a data URL, and the index and name of its class."""

    picture: str
    label: int
    name: str


@dataclass(frozen=True)
class HeldOutPictures:
    """Predictions, and rows of images: one, then those nearest to it among `searched` images, nearest first."""

    examples: Sequence[Example]
    rows: Sequence[Sequence[Photo]]
    searched: int


@dataclass(frozen=True)
class NetPictures:
    """What is shown of a net. step: of its checkpoint. held_out: or why there is none."""

    step: int
    kernels: Sequence[TowerKernels]
    held_out: HeldOutPictures | str


def net_pictures(directory: Path, data: str | None, with_held_out: bool = True) -> NetPictures | str:
    """Return the pictures of a run's newest checkpoint, or why there are none.

    data: directory or URL of the shards, instead of the run's data.root. with_held_out: whether to read and decode
    held-out images, and run the net on them.
    """
    try:
        run = load_run(directory)
    except UserError as error:
        return str(error)
    command = f"python -m alexnet_dist.report {shlex.quote(str(directory))}"
    held_out = _held_out(run, data) if with_held_out else f"this page was written without images; {command} adds them"
    return NetPictures(run.step, kernels_by_tower(run), held_out)


def kernels_by_tower(run: LoadedRun) -> list[TowerKernels]:
    """Return the first layer's kernels of each tower."""
    first = next(iter(run.model.net.layers))
    found = []
    for tower in run.model.towers:
        weights = tower.get_parameter(f"{first}.weight").detach().double().numpy()
        scores = colour_scores(weights)
        tiles = enlarged(scaled(weights))[np.argsort(scores, kind="stable")]
        picture = mosaic(tiles, COLUMNS if len(tiles) >= FEW else FEW_COLUMNS, GREY)
        found.append(TowerKernels(data_url(bytes_of(picture)), len(tiles), weights.shape[-1], float(scores.mean())))
    return found


def _held_out(run: LoadedRun, data: str | None) -> HeldOutPictures | str:
    """Return what the net makes of held-out images, or why that is not known."""
    settings = run.config.data
    try:
        root = locate(data or settings.root, settings.cache, settings.cache_bytes)
        if isinstance(root, Path) and not manifest_path(root, "val").exists():
            return f"no shards of val in {root.absolute()}; pass --data"
        return held_out_pictures(run, Split.open(root, "val"))
    except (UserError, RunError) as error:
        return str(error)


def held_out_pictures(run: LoadedRun, split: Split) -> HeldOutPictures:
    """Return predictions for a few images of different classes, and nearest neighbours of some.

    Raises UserError for shards that do not fit the run or are damaged.
    """
    ids = held_out_ids(split, SEARCHED)
    if not ids:
        raise UserError(f"{split.root}: the split val is empty; pack some images for it")
    images, names = held_out_images(run, split, SEARCHED), class_names(run.manifest)
    chosen = varied(images.truth, IMAGES)
    probabilities = class_probabilities(run, [images.pictures[index] for index in chosen])

    def photo(index: int) -> Photo:
        label = images.truth[index]
        return Photo(jpeg_url(split.jpeg(ids[index])), label, names[label])

    examples = [
        Example(shown.picture, Guess(shown.label, shown.name, float(row[shown.label])), best_guesses(values, names))
        for shown, row, values in zip(map(photo, chosen), probabilities, torch.from_numpy(probabilities), strict=True)
    ]
    queries = chosen[:QUERIES] if len(ids) > 1 else []
    rows = [[photo(index) for index in (query, *nearest(images.features, query, NEIGHBOURS))] for query in queries]
    return HeldOutPictures(examples, rows, len(ids))
