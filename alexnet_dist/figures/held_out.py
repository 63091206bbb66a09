"""Held-out images of a run with the net's outputs for them, and the choice of images to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import UserError
from alexnet_dist.nn import geometry
from alexnet_dist.runs.inference import centre_input
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.progress import Progress
from alexnet_dist.system import rng

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

CPU = torch.device("cpu")
MAX_IMAGES = 2000  # held-out images among which neighbours are searched
BATCH = 50  # images per forward pass


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out images in a fixed random order, and what the net computes for them.

    pictures: uint8 (H, W, 3) each. truth: class indices. features: float64 (n, units), the last hidden layer's
    activations.
    """

    pictures: Sequence[Picture]
    truth: Sequence[int]
    features: Floats


def held_out_images(run: LoadedRun, split: Split, most: int = MAX_IMAGES) -> HeldOut:
    """Run the net on at most so many held-out images, centre-cropped.

    Raises UserError if the shards do not match the run, or for a sample that cannot be read.
    """
    ids = held_out_ids(split, most)
    pictures = read_pictures(run, split, ids)
    features = []
    with torch.no_grad(), Progress("held-out images", len(ids)) as progress:
        for first in range(0, len(ids), BATCH):
            features.append(run.model.features(_network_inputs(run, pictures[first : first + BATCH])))
            progress.add(len(features[-1]))
    return HeldOut(pictures, [split.label(sample) for sample in ids], torch.cat(features).double().numpy())


def held_out_ids(split: Split, most: int = MAX_IMAGES) -> list[int]:
    """Return the ids of at most so many images of a split, in a fixed random order."""
    ids: list[int] = rng.permutation(split.images, 0, "figures")[:most].tolist()
    return ids


def read_pictures(run: LoadedRun, split: Split, ids: Sequence[int]) -> list[Picture]:
    """Return images of a split, uint8 (H, W, 3) each.

    Raises UserError if the shards do not match the run, or for a sample that cannot be read.
    """
    classes = [[class_.name for class_ in manifest.classes] for manifest in (run.manifest, split.manifest)]
    if classes[0] != classes[1] or run.manifest.size != split.manifest.size:
        raise UserError(
            f"{split.root}: {len(classes[1])} classes, {split.manifest.size} pixels a side; {run.directory} was"
            f" trained on {len(classes[0])}, {run.manifest.size} pixels; pass the shards packed with its training set"
            " as --data"
        )
    try:
        return [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB", strict=True) for sample in ids]
    except (BadSample, ValueError) as error:
        raise UserError(f"{split.root}: {error}; pack it again") from None


def class_probabilities(run: LoadedRun, pictures: Sequence[Picture]) -> Floats:
    """Return float64 (n, classes), the probability of each class for the centres of a few images (H, W, 3)."""
    with torch.no_grad():
        probabilities: Floats = run.model(_network_inputs(run, pictures)).double().softmax(1).numpy()
    return probabilities


def activations_at_joins(
    run: LoadedRun, picture: Picture, device: torch.device = CPU
) -> list[tuple[str, list[Floats]]]:
    """Return what each tower sends at each join for one image (H, W, 3): the layer that reads it, and the activations.

    Activations are float64 (maps, side, side) or (units,), one array a tower. device: of the run's model.
    """
    stages = geometry.stages(run.model.net)
    with torch.no_grad():
        maps = run.model.join_maps(_network_inputs(run, [picture], device))
    return [
        (names[0], [tower[0].double().cpu().numpy() for tower in sent])
        for names, sent in zip(stages[1:], maps, strict=True)
    ]


def _network_inputs(run: LoadedRun, pictures: Sequence[Picture], device: torch.device = CPU) -> torch.Tensor:
    """Return the net's input for the centres of images (H, W, 3)."""
    return centre_input(run, torch.from_numpy(np.stack(pictures)), device)


def nearest(features: Floats, query: int, count: int) -> list[int]:
    """Return the indices of the `count` rows of (n, units) nearest to row `query`, without itself, nearest first.

    The distance is Euclidean; if there are fewer other rows, all are returned.
    """
    distances = np.square(features - features[query]).sum(1)
    distances[query] = np.inf
    return [int(row) for row in np.argsort(distances, kind="stable")[: min(count, len(features) - 1)]]


def varied(truth: Sequence[int], count: int) -> list[int]:
    """Return the indices of `count` images: the first of each class, then the second of each class, and so on."""
    seen: Counter[int] = Counter()
    turns = []
    for index, label in enumerate(truth):
        turns.append((seen[label], index))
        seen[label] += 1
    return [index for _, index in sorted(turns)[:count]]
