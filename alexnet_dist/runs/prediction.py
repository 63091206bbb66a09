"""The most probable classes of single images, for a trained run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_dist.data.transform import UnusableImageError, training_image
from alexnet_dist.errors import UserError
from alexnet_dist.runs.inference import view_probabilities
from alexnet_dist.runs.load import LoadedRun

GUESSES = 5


@dataclass(frozen=True)
class Guess:
    """One class and its probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    image: str
    classes: list[Guess]


def predict(run: LoadedRun, path: Path, views: int = 1) -> Prediction:
    """Classify one JPEG or PNG of any size, prepared as pack prepares training images.

    Raises UserError if the file is missing or is no image.
    """
    try:
        _, pixels = training_image(path.read_bytes(), run.manifest.options)
    except (OSError, UnusableImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected a JPEG or PNG") from None
    probabilities = view_probabilities(run, torch.from_numpy(pixels)[None], views, torch.device("cpu"))[0]
    best = probabilities.topk(min(GUESSES, len(probabilities)))
    names = [described.words or described.name for described in run.manifest.classes]
    guesses = [
        Guess(index, names[index], probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return Prediction(str(path), guesses)
