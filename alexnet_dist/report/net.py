"""Pictures of a run's net for its page: the first layer's kernels by tower, and guesses for held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet_dist.data.manifest import manifest_path
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import locate
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.figures.held_out import class_probabilities, held_out_ids, read_pictures, varied
from alexnet_dist.figures.inline import bytes_of, data_url
from alexnet_dist.figures.kernels import colour_scores, scaled
from alexnet_dist.figures.mosaic import enlarged, mosaic
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.runs.prediction import Guess, best_guesses, class_names

IMAGES = 8  # with predictions
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
class NetPictures:
    """What is shown of a net. step: of its checkpoint. examples: or why there are none."""

    step: int
    kernels: Sequence[TowerKernels]
    examples: Sequence[Example] | str


def net_pictures(directory: Path, data: str | None, with_examples: bool = True) -> NetPictures | str:
    """Return the pictures of a run's newest checkpoint, or why there are none.

    data: directory or URL of the shards, instead of the run's data.root.
    """
    try:
        run = load_run(directory)
    except UserError as error:
        return str(error)
    return NetPictures(run.step, kernels_by_tower(run), _examples(run, data) if with_examples else [])


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


def _examples(run: LoadedRun, data: str | None) -> list[Example] | str:
    """Return held-out images with the net's guesses, or why there are none."""
    settings = run.config.data
    try:
        root = locate(data or settings.root, settings.cache, settings.cache_bytes)
        if isinstance(root, Path) and not manifest_path(root, "val").exists():
            return f"no shards of val in {root.absolute()}; pass --data"
        return held_out_examples(run, Split.open(root, "val"))
    except (UserError, RunError) as error:
        return str(error)


def held_out_examples(run: LoadedRun, split: Split) -> list[Example]:
    """Return a few images of different classes. Raises UserError for shards that do not fit the run or are damaged."""
    ids = held_out_ids(split)
    chosen = [ids[index] for index in varied([split.label(sample) for sample in ids], IMAGES)]
    pictures = read_pictures(run, split, chosen)
    if not pictures:
        raise UserError(f"{split.root}: the split val is empty; pack some images for it")
    names, probabilities = class_names(run.manifest), class_probabilities(run, pictures)
    return [
        Example(
            data_url(picture),
            Guess(label, names[label], float(row[label])),
            best_guesses(torch.from_numpy(row), names),
        )
        for picture, label, row in zip(pictures, map(split.label, chosen), probabilities, strict=True)
    ]
