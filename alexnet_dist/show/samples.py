"""Samples of a packed split as pictures: the inputs of the net, without the mean image subtracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from alexnet_dist.config import Config
from alexnet_dist.data import augment
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import UserError
from alexnet_dist.system import rng

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SamplePictures:
    """Samples as pictures, uint8 (n, crop, crop, 3), with the class and a note (sample id, flipped or not) for each."""

    pictures: Pictures
    captions: Sequence[str]
    notes: Sequence[str]


def sample_pictures(split: Split, count: int, seed: int, epoch: int, crop: int) -> SamplePictures:
    """Return `count` samples, chosen by the seed, as the net sees them in an epoch.

    Samples of train are augmented, by (seed, epoch), samples of other splits are centre-cropped.
    Raises UserError for a sample that cannot be read.
    """
    ids = rng.permutation(split.images, seed, "show")[:count]
    try:
        images = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB", strict=True) for sample in ids.tolist()]
    except (BadSample, ValueError) as error:
        raise UserError(f"{split.root}: {error}; pack it again") from None
    flip = shift = None
    if split.manifest.split == "train":
        noise = Config().data.colour_noise
        draws = augment.train_draws(seed, epoch, ids, split.manifest.size, crop, split.components, noise)
        crops = [image[y : y + crop, x : x + crop] for image, y, x in zip(images, draws.top, draws.left, strict=True)]
        flip, shift = torch.from_numpy(draws.flip), torch.from_numpy(draws.shift)
    else:
        crops = [augment.centre_crop(image, crop, channels_last=True) for image in images]
    # With a zero mean, the network input is the augmented picture itself.
    mean = torch.zeros(3, crop, crop)
    inputs = augment.network_input(torch.from_numpy(np.stack(crops)), mean, torch.float32, flip, shift)
    pictures = inputs.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    classes = [split.manifest.classes[split.label(sample)] for sample in ids.tolist()]
    flipped = np.zeros(len(ids), bool) if flip is None else flip.numpy()
    captions = [class_.words or class_.name for class_ in classes]
    notes = [f"sample {sample:,}{', flipped' if flip else ''}" for sample, flip in zip(ids, flipped, strict=True)]
    return SamplePictures(pictures, captions, notes)
