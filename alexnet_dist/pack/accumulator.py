"""Sums images' pixels while they are packed; separate from `pixel_sums` because it needs torch for speed."""

from __future__ import annotations

import numpy as np
import torch

from alexnet_dist.data.transform import Pixels
from alexnet_dist.pack.pixel_sums import PixelSums

# Products are summed of pixels minus 128: each is at most 2**14, and 1,024 of them add up exactly in float32.
CENTRE = 128
EXACT_PIXELS = 1024


class PixelAccumulator:
    """Sums images' pixels and the products of their channels, exactly."""

    def __init__(self, size: int) -> None:
        """Start with no images; size: pixels a side."""
        self._images = 0
        # int32 holds 8.4 million images, more than a shard may have, and is twice as fast as int64.
        self._pixels = torch.zeros(size, size, 3, dtype=torch.int32)
        self._products = torch.zeros(3, 3, dtype=torch.float64)

    def add(self, pixels: Pixels) -> None:
        """Add an image, (size, size, 3) uint8."""
        image = torch.from_numpy(pixels)
        self._images += 1
        self._pixels += image
        planes = image.permute(2, 0, 1).contiguous().view(3, -1)
        whole = planes.shape[1] // EXACT_PIXELS * EXACT_PIXELS
        for part, width in ((planes[:, :whole], EXACT_PIXELS), (planes[:, whole:], planes.shape[1] - whole)):
            if part.numel():
                blocks = part.view(3, -1, width).float().sub_(CENTRE).permute(1, 0, 2)
                # Below 2**53 for the 10**11 pixels of a shard, so float64 is exact too.
                self._products += torch.bmm(blocks, blocks.transpose(1, 2)).double().sum(0)

    def sums(self) -> PixelSums:
        """Return the sums over the images added so far."""
        pixels = self._pixels.numpy().astype(np.int64)
        channels = pixels.sum(axis=(0, 1))
        count = self._images * pixels.shape[0] * pixels.shape[1]
        # sum(ab) = sum((a - c)(b - c)) + c * (sum(a) + sum(b)) - c**2 * count
        shift = CENTRE * (channels[:, None] + channels[None, :]) - CENTRE**2 * count
        return PixelSums(self._images, pixels, self._products.numpy().astype(np.int64) + shift)
