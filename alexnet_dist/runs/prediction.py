"""The most probable classes of single images, for a trained run."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_dist.data.transform import UnusableImageError, upright_image
from alexnet_dist.errors import UserError
from alexnet_dist.runs.inference import view_probabilities
from alexnet_dist.runs.load import LoadedRun

GUESSES = 5
LARGEST_FILE_BYTES = 1 << 29  # as for a file that is packed


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
    """Classify one image of any size and of any format that Pillow reads.

    It is prepared as pack prepares training images, but turned by its EXIF orientation, as viewers show it.
    Raises UserError, with a one-line text that starts with the path, if the file cannot be used.
    """
    try:
        pixels = upright_image(_read_file(path), run.manifest.options)
    except UnusableImageError as error:
        raise UserError(f"{path}: {error}; expected an image file such as a JPEG, PNG or WebP") from None
    probabilities = view_probabilities(run, torch.from_numpy(pixels)[None], views, torch.device("cpu"))[0]
    best = probabilities.topk(min(GUESSES, len(probabilities)))
    names = [described.words or described.name for described in run.manifest.classes]
    guesses = [
        Guess(index, names[index], probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return Prediction(str(path), guesses)


def _read_file(path: Path) -> bytes:
    """Return the contents of a regular file; a FIFO, which would block, and any other kind are refused."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: a folder; expected image files: pass {path}/*.jpg")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file; save the image to a file first")
        if status.st_size > LARGEST_FILE_BYTES:
            raise UserError(f"{path}: {status.st_size} bytes, more than {LARGEST_FILE_BYTES}; expected one image")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected an image file such as a JPEG, PNG or WebP") from None
