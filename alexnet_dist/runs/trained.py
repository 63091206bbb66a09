"""A trained net for programs: what `alexnet_dist.load_run` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from alexnet_dist.nn.model import AlexNet
from alexnet_dist.runs import load
from alexnet_dist.runs.inference import centre_input, find_device, view_probabilities
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.prediction import Guess, ImageLike, best_guesses, class_names, square_pixels


@dataclass(frozen=True, repr=False)
class TrainedNet:
    """A run's net with what is needed to use it on images.

    An image is a path, a URL, the bytes of a file, a PIL image, or its pixels, uint8 (H, W, 3).

    model: in evaluation mode, on `device`; it maps what `input` returns, (B, 3, crop, crop), to logits (B, classes).
    classes: a name for each logit. step: of the checkpoint.
    """

    loaded: LoadedRun
    device: torch.device
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        """Return what tells it from others: run, step, classes, crop and device."""
        where = f"{str(self.loaded.directory)!r}, step {self.step:,}"
        return f"TrainedNet({where}, {len(self.classes):,} classes, crop {self.crop}, {self.device})"

    @property
    def model(self) -> AlexNet:
        """The net."""
        return self.loaded.model

    @property
    def step(self) -> int:
        """The step of its checkpoint."""
        return self.loaded.step

    @property
    def crop(self) -> int:
        """The side of the images that the model reads, in pixels."""
        return self.loaded.config.data.crop

    def input(self, image: ImageLike) -> Tensor:
        """Return the centre of an image as the model reads it, mean-subtracted, float32 (1, 3, crop, crop) on `device`.

        Raises UserError for an image that cannot be used.
        """
        return centre_input(self.loaded, square_pixels(self.loaded, image)[None], self.device)

    def predict(self, image: ImageLike, views: int = 1) -> list[Guess]:
        """Return up to five classes of an image, best first, as `predict` prints them: index, name, probability.

        views: 1, the centre; 10, corners and centre, and their mirror images (§4.1). Raises UserError for an image that
        cannot be used.
        """
        pixels = square_pixels(self.loaded, image)[None]
        return best_guesses(view_probabilities(self.loaded, pixels, views, self.device)[0].cpu(), self.classes)

    def features(self, image: ImageLike, layer: str | None = None) -> Tensor:
        """Return the output of a layer for an image's centre, (units,) float32 on the CPU; see AlexNet.features.

        Raises UserError for an image that cannot be used, ValueError if the net has no such layer.
        """
        with torch.no_grad():
            return self.model.features(self.input(image), layer)[0].cpu()


def load_run(path: str | Path, step: int | Literal["best"] | None = None, device: str | None = None) -> TrainedNet:
    """Read a run directory, live or finished, for use: by default its newest checkpoint that verifies.

    step: of another one; "best": of that with the lowest top-1 error on the validation set. device: such as cpu or
    cuda:1; by default cuda if there is one. Raises UserError if the directory is not a run, has no such checkpoint, or
    the device cannot be used.
    """
    where = find_device(device)
    loaded = load.load_run(Path(path), step)
    loaded.model.to(where)
    return TrainedNet(loaded, where, tuple(class_names(loaded.manifest)))
