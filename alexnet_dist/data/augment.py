"""Augmentation and mean subtraction: the operations on an image between the decoder and the net (§4.1, §2).

The draws are functions of (seed, epoch, sample id), computed on the host in NumPy. The loader's workers apply the crop;
the device flips, subtracts the mean image and adds the colour shift. Pixels are uint8 until then, and the net's inputs
stay on the 0-255 scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from alexnet_dist.data.plan import Ids
from alexnet_dist.system import rng

Floats = npt.NDArray[np.float64]
Images = TypeVar("Images", torch.Tensor, npt.NDArray[Any])

# Columns of a sample's random numbers: two for the crop, one for the flip, four for the colour.
CROP_COLUMNS = 2
FLIP_COLUMN = 2
COLOUR_COLUMNS = slice(3, 7)
COLUMNS = 7


@dataclass(frozen=True, eq=False)
class TrainDraws:
    """The random choices for n training samples.

    top, left: int64 (n,), pixels, each in [0, size - crop].
    flip: bool (n,).
    shift: float32 (n, 3), added to every pixel's red, green and blue, on the 0-255 scale.
    """

    top: Ids
    left: Ids
    flip: npt.NDArray[np.bool_]
    shift: npt.NDArray[np.float32]


def crop_offsets(seed: int, epoch: int, ids: Ids, size: int, crop: int) -> tuple[Ids, Ids]:
    """Return (top, left), int64 (n,) each, uniform over the (size - crop + 1)² positions (§4.1)."""
    table = rng.uniform(rng.key(seed, "augment", epoch), ids, CROP_COLUMNS)
    offsets = (table * (size - crop + 1)).astype(np.int64)
    return offsets[:, 0], offsets[:, 1]


def train_draws(seed: int, epoch: int, ids: Ids, size: int, crop: int, components: Floats, noise: float) -> TrainDraws:
    """Return the draws of the samples `ids`, int64 (n,); they do not depend on the batch (§4.1).

    components: float64 (3, 3) from colour_components. noise: standard deviation of the three normal numbers by which
    the components are multiplied, one per component for the whole image.
    """
    top, left = crop_offsets(seed, epoch, ids, size, crop)
    table = rng.uniform(rng.key(seed, "augment", epoch), ids, COLUMNS)
    alphas = noise * _three_normals(table[:, COLOUR_COLUMNS])
    # Not a matrix product: BLAS may round a row differently in batches of another size.
    shift = sum(alphas[i][:, None] * components[:, i] for i in range(3))
    return TrainDraws(top, left, table[:, FLIP_COLUMN] < 0.5, np.asarray(shift, dtype=np.float32))


def _three_normals(uniforms: Floats) -> Floats:
    """Return (3, n) standard normal numbers from (n, 4) uniform ones (Box and Muller, 1958).

    Each row is contiguous: NumPy then runs the same code for any batch size, so results are identical to the last bit.
    """
    radius_1, angle_1, radius_2, angle_2 = np.ascontiguousarray(uniforms.T)
    first, second = np.sqrt(-2.0 * np.log(radius_1)), np.sqrt(-2.0 * np.log(radius_2))
    turn_1, turn_2 = 2.0 * np.pi * angle_1, 2.0 * np.pi * angle_2
    return np.stack([first * np.cos(turn_1), first * np.sin(turn_1), second * np.cos(turn_2)])


def colour_components(covariance: Floats) -> Floats:
    """Return float64 (3, 3): column i is sqrt(eigenvalue_i) * eigenvector_i of the RGB covariance, largest first.

    The paper multiplies by the eigenvalues, the 2012 source by their square roots; only the latter makes sense on the
    0-255 scale (§4.1, PAPER.md). The sign of an eigenvector is arbitrary: its largest entry is made positive.
    """
    eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    components: Floats = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0)))[:, ::-1]
    largest = components[np.abs(components).argmax(axis=0), np.arange(3)]
    return components * np.where(largest < 0, -1.0, 1.0)


def centre_offset(size: int, crop: int) -> int:
    """Return the first row and column of the centre crop: (256, 224) -> 16."""
    return (size - crop) // 2


def centre_crop(images: Images, crop: int, channels_last: bool = False) -> Images:
    """Return a view of the centre crop x crop pixels of square images.

    images: (..., size, size), such as the mean image's planes; with channels_last, (..., size, size, channels).
    """
    first = centre_offset(images.shape[-2], crop)
    pixels = slice(first, first + crop)
    return images[..., pixels, pixels, :] if channels_last else images[..., pixels, pixels]


def network_input(
    pixels: torch.Tensor,
    mean: torch.Tensor,
    dtype: torch.dtype,
    flip: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    divisor: float = 1.0,
) -> torch.Tensor:
    """Return the net's input, (n, 3, S, S) of dtype: flipped pixels, minus the mean, plus the colour shift, divided.

    pixels: uint8 (n, S, S, 3). mean: float32 (3, S, S), the centre crop of the mean image: the 2012 source subtracts
    it unflipped, whatever the crop. flip: bool (n,). shift: float32 (n, 3). All on one device.
    divisor: 1.1 for the training images of the 2012 source (convdata_jpeg.py), which divides no others; the paper: 1.
    memory_format: of the result. Computed in float64 if dtype is float64, otherwise in float32.
    """
    planes = pixels.permute(0, 3, 1, 2)
    if flip is not None:
        planes = torch.where(flip[:, None, None, None], planes.flip(3), planes)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = planes.to(exact, memory_format=memory_format)
    inputs.sub_(mean)
    if shift is not None:
        inputs.add_(shift[:, :, None, None])
    if divisor != 1:
        inputs.div_(divisor)
    return inputs.to(dtype)


def ten_views(pixels: torch.Tensor, crop: int) -> torch.Tensor:
    """Return uint8 (10, n, crop, crop, 3): the four corners and the centre, then their mirror images (§4.1).

    pixels: uint8 (n, size, size, 3). The corners are in reading order.
    """
    last = pixels.shape[1] - crop
    corners = [(0, 0), (0, last), (last, 0), (last, last)]
    views = [pixels[:, top : top + crop, left : left + crop] for top, left in corners]
    stacked = torch.stack([*views, centre_crop(pixels, crop, channels_last=True)])
    return torch.cat([stacked, stacked.flip(3)])
