"""The most probable classes of images, for a trained run."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from alexnet_dist.data.manifest import Manifest
from alexnet_dist.data.transform import UnusableImageError, upright_image
from alexnet_dist.data.urls import is_url
from alexnet_dist.errors import UserError
from alexnet_dist.runs.inference import view_probabilities
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.pictures import EXPECTED, Picture

GUESSES = 5
ROWS = 32  # images a batch
IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes of PIL images
IN_TIFF = ("CMYK", "YCbCr", "LAB", "I", "F")

# What a program may pass as an image: a file or URL, the contents of a file, a picture, its pixels uint8 (H, W, 3).
ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]


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


@dataclass(frozen=True)
class Failure:
    """An image that could not be classified, and why, with its name."""

    image: str
    error: str


def predictions(
    run: LoadedRun, pictures: Sequence[Picture], views: int, device: torch.device, names: Sequence[str]
) -> Iterator[Prediction | Failure]:
    """Yield a prediction or a failure for each picture, in order; a batch is computed at a time.

    names: of the classes. The run's model is on the device.
    """
    for first in range(0, len(pictures), ROWS):
        batch = pictures[first : first + ROWS]
        prepared = [_prepared(run, picture) for picture in batch]
        usable = [pixels for pixels in prepared if isinstance(pixels, Tensor)]
        rows = iter(view_probabilities(run, torch.stack(usable), views, device).cpu() if usable else ())
        for picture, pixels in zip(batch, prepared, strict=True):
            if isinstance(pixels, Tensor):
                yield Prediction(picture.name, best_guesses(next(rows), names))
            else:
                yield Failure(picture.name, pixels)


def best_guesses(probabilities: Tensor, names: Sequence[str]) -> list[Guess]:
    """Return the most probable classes of one image, best first; probabilities: (classes,)."""
    best = probabilities.topk(min(GUESSES, len(probabilities)))
    return [
        Guess(index, names[index], probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def class_names(manifest: Manifest) -> list[str]:
    """Return what is shown for each class: its words if the source of the images had any, otherwise its name."""
    return [described.words or described.name for described in manifest.classes]


def square_pixels(run: LoadedRun, image: ImageLike | Picture) -> Tensor:
    """Return an image as the run's packed images are, uint8 (size, size, 3), but turned by its EXIF orientation.

    A text is the name of a file or a URL, a Path always that of a file. Raises UserError, with a one-line text that
    contains the image's name, if it cannot be used.
    """
    if isinstance(image, str):
        image = Picture(image, "url" if is_url(image) else "file")
    elif isinstance(image, Path):
        image = Picture(str(image))
    if isinstance(image, Picture):
        name, content = image.name, image.read()
    else:
        name, content = "image", image if isinstance(image, bytes) else _encoded(image)
    try:
        return torch.from_numpy(upright_image(content, run.manifest.options))
    except UnusableImageError as error:
        raise UserError(f"{name}: {error}; expected {EXPECTED}") from None


def _encoded(image: Image.Image | npt.NDArray[np.uint8]) -> bytes:
    """Return a picture or its pixels as the contents of a file, with its EXIF orientation; UserError for others."""
    file = io.BytesIO()
    if not isinstance(image, Image.Image):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            raise UserError(f"image: found {found}; expected one PIL image, or one array of uint8 (H, W, 3)")
    try:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        exif, kind = picture.getexif(), "TIFF" if picture.mode in IN_TIFF else "PNG"
        if picture.mode not in (*IN_TIFF, *IN_PNG):
            picture = picture.convert("RGB")
        picture.save(file, kind, exif=exif)
    except (OSError, ValueError) as error:
        raise UserError(f"image: {error}; expected a whole image") from None
    return file.getvalue()


def _prepared(run: LoadedRun, picture: Picture) -> Tensor | str:
    """Return a picture's pixels, or why it cannot be used."""
    try:
        return square_pixels(run, picture)
    except UserError as error:
        return str(error)
