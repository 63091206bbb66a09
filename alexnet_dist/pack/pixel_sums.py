"""The exact mean image and colour covariance of a set, from integer sums, so that no summation order changes a bit.

They are computed from the resized pixels before these are encoded as JPEG; a file that is copied without re-encoding
has the same pixels before and after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_dist.data.manifest import Colour


@dataclass(frozen=True)
class PixelSums:
    """Sums over `images` images: of the pixels (S, S, 3), and of the channels' products (3, 3), both int64."""

    images: int
    pixels: npt.NDArray[np.int64]
    products: npt.NDArray[np.int64]

    def __add__(self, other: PixelSums) -> PixelSums:
        """Return the sums over both sets."""
        return PixelSums(self.images + other.images, self.pixels + other.pixels, self.products + other.products)

    def mean_image(self) -> npt.NDArray[np.float32]:
        """Return the mean image, (3, S, S) RGB planes on the 0-255 scale."""
        return np.ascontiguousarray((self.pixels / self.images).astype(np.float32).transpose(2, 0, 1))

    def colour(self) -> Colour:
        """Return the mean and population covariance over all pixels; Python's integers keep them correctly rounded."""
        count = int(self.images * self.pixels.shape[0] * self.pixels.shape[1])
        sums = [int(value) for value in self.pixels.sum(axis=(0, 1))]
        products = [[int(value) for value in row] for row in self.products]

        def covariance(i: int, j: int) -> float:
            return (count * products[i][j] - sums[i] * sums[j]) / (count * count)

        rows = [(covariance(i, 0), covariance(i, 1), covariance(i, 2)) for i in range(3)]
        return Colour((sums[0] / count, sums[1] / count, sums[2] / count), (rows[0], rows[1], rows[2]))
