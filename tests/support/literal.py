"""The paper's arithmetic in NumPy float64, index by index, written from the text (§3, §4.2), not from our code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sides(side: int, kernel: int, stride: int, padding: int = 0) -> int:
    """Return the outputs a side, as layer.py of the 2012 source: 1 + ceil((2 * padding + side - kernel) / stride)."""
    return 1 + math.ceil((2 * padding + side - kernel) / stride)


def normalise(a: Array, k: float, n: int, alpha: float, beta: float) -> Array:
    """§3.3: b^i = a^i / (k + alpha * sum over j from max(0, i - n/2) to min(N - 1, i + n/2) of (a^j)^2)^beta."""
    b = np.empty_like(a)
    images, maps, height, width = a.shape
    for m, i, y, x in itertools.product(range(images), range(maps), range(height), range(width)):
        total = 0.0
        for j in range(max(0, i - n // 2), min(maps - 1, i + n // 2) + 1):
            total += a[m, j, y, x] ** 2
        b[m, i, y, x] = a[m, i, y, x] / (k + alpha * total) ** beta
    return b


def normalise_spatially(a: Array, k: float, n: int, alpha: float, beta: float) -> Array:
    """cnorm2 of the 2012 source: as `normalise`, over the n x n pixels around each one in its own map."""
    b = np.empty_like(a)
    images, maps, height, width = a.shape
    for m, i, y, x in np.ndindex(images, maps, height, width):
        total = 0.0
        for v in range(max(0, y - n // 2), min(height - 1, y + n // 2) + 1):
            for u in range(max(0, x - n // 2), min(width - 1, x + n // 2) + 1):
                total += a[m, i, v, u] ** 2
        b[m, i, y, x] = a[m, i, y, x] / (k + alpha * total) ** beta
    return b


def pool(a: Array, z: int, s: int) -> Array:
    """§3.4: units s pixels apart, each the maximum of the part of a z x z neighbourhood inside the map."""
    images, maps, height, width = a.shape
    pooled = np.empty((images, maps, sides(height, z, s), sides(width, z, s)))
    for m, i, y, x in np.ndindex(*pooled.shape):
        largest = -math.inf
        for v, u in itertools.product(range(y * s, min(y * s + z, height)), range(x * s, min(x * s + z, width))):
            largest = max(largest, float(a[m, i, v, u]))
        pooled[m, i, y, x] = largest
    return pooled


def convolve(a: Array, weights: Array, biases: Array | None, stride: int, padding: int) -> Array:
    """Slide kernels over maps until each map is covered; pixels outside it read as zero."""
    images, maps, height, width = a.shape
    kernels, depth, size, _ = weights.shape
    assert depth == maps
    out = np.empty((images, kernels, sides(height, size, stride, padding), sides(width, size, stride, padding)))
    for m, o, y, x in np.ndindex(*out.shape):
        total = 0.0 if biases is None else float(biases[o])
        for i, v, u in itertools.product(range(maps), range(size), range(size)):
            row, column = y * stride - padding + v, x * stride - padding + u
            if 0 <= row < height and 0 <= column < width:
                total += float(weights[o, i, v, u]) * float(a[m, i, row, column])
        out[m, o, y, x] = total
    return out


def connect(a: Array, weights: Array, biases: Array | None) -> Array:
    """Multiply units by weights; maps are read map by map, row by row."""
    units = a.reshape(len(a), -1)
    out = np.empty((len(units), len(weights)))
    for m, o in np.ndindex(*out.shape):
        total = 0.0 if biases is None else float(biases[o])
        for i in range(units.shape[1]):
            total += float(weights[o, i]) * float(units[m, i])
        out[m, o] = total
    return out


@dataclass(frozen=True)
class LiteralLayer:
    """The operations of one layer, in the order of §3.5: sum, non-linearity, norm, pool; dropped: halved (§4.2).

    activated_last: the non-linearity follows norm and pool, as in the 2012 source's conv1; spatially: cnorm2 follows
    the norm.
    """

    name: str
    both: bool = False
    stride: int = 1
    padding: int = 0
    activated_last: bool = False
    normalised: bool = False
    spatially: bool = False
    pooled: tuple[int, int] | None = None
    dropped: bool = False


def forward(
    layers: list[LiteralLayer],
    parameters: Mapping[str, Array],
    images: Array,
    constants: tuple[float, int, float, float],
    activate: Callable[[Array], Array],
    spatial: tuple[float, int, float, float] = (1.0, 1, 0.0, 1.0),
) -> Array:
    """Compute both towers at test time (figure 2, §3.5, §4.2); parameters are named as 0.conv3.own.weight.

    A weight has two dims in a fully connected layer, four in a convolution; constants and spatial are k, n, alpha,
    beta.
    """

    def weighted_sum(layer: LiteralLayer, name: str, a: Array) -> Array:
        weights, biases = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        if weights.ndim == 2:
            return connect(a, weights, biases)
        return convolve(a, weights, biases, layer.stride, layer.padding)

    maps = [images, images]
    for layer in layers:
        before, maps = maps, []
        for tower in (0, 1):
            name = f"{tower}.{layer.name}"
            if layer.both:
                own = weighted_sum(layer, f"{name}.own", before[tower])
                sums = own + weighted_sum(layer, f"{name}.other", before[1 - tower])
            else:
                sums = weighted_sum(layer, name, before[tower])
            if layer is not layers[-1] and not layer.activated_last:
                sums = activate(sums)
            if layer.normalised:
                sums = normalise(sums, *constants)
            if layer.spatially:
                sums = normalise_spatially(sums, *spatial)
            if layer.pooled:
                sums = pool(sums, *layer.pooled)
            if layer.activated_last:
                sums = activate(sums)
            if layer.dropped:
                sums = sums * 0.5
            maps.append(sums)
    return np.concatenate(maps, 1)
