"""Held-out images of a run with the net's outputs for them, and the choice of images to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from alexnet_dist import rng
from alexnet_dist.data import augment
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import UserError
from alexnet_dist.runs.load import LoadedRun

Floats = npt.NDArray[np.float64]

MAX_IMAGES = 2000  # held-out images among which neighbours are searched
BATCH = 50  # images per forward pass


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out images in a fixed random order, and what the net computes for them.

    pictures: uint8 (H, W, 3) each. truth: class indices. probabilities: float64 (n, classes).
    features: float64 (n, units), the last hidden layer's activations.
    """

    pictures: Sequence[npt.NDArray[np.uint8]]
    truth: Sequence[int]
    probabilities: Floats
    features: Floats


def held_out_images(run: LoadedRun, split: Split) -> HeldOut:
    """Run the net on up to MAX_IMAGES held-out images, centre-cropped.

    Raises UserError if the shards do not match the run, or for a sample that cannot be read.
    """
    classes = [[class_.name for class_ in manifest.classes] for manifest in (run.manifest, split.manifest)]
    if classes[0] != classes[1] or run.manifest.size != split.manifest.size:
        raise UserError(
            f"{split.root}: {len(classes[1])} classes, {split.manifest.size} pixels a side; {run.directory} was"
            f" trained on {len(classes[0])}, {run.manifest.size} pixels; pass the shards packed with its training set"
            " as --data"
        )
    ids = rng.permutation(split.images, 0, "figures")[:MAX_IMAGES].tolist()
    try:
        pictures = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB", strict=True) for sample in ids]
    except (BadSample, ValueError) as error:
        raise UserError(f"{split.root}: {error}; pack it again") from None
    crop = run.config.data.crop
    mean = augment.centre_crop(run.mean, crop)
    logits, features = [], []
    with torch.no_grad():
        for first in range(0, len(ids), BATCH):
            pixels = torch.from_numpy(np.stack(pictures[first : first + BATCH]))
            inputs = augment.network_input(augment.centre_crop(pixels, crop, channels_last=True), mean, torch.float32)
            logits.append(run.model(inputs))
            features.append(run.model.features(inputs))
    return HeldOut(
        pictures,
        [split.label(sample) for sample in ids],
        torch.cat(logits).double().softmax(1).numpy(),
        torch.cat(features).double().numpy(),
    )


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
