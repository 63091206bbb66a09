"""The layers that torch lacks: local response normalisation, counter-based dropout, cross layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from alexnet_dist.nn.compiler import compiled
from alexnet_dist.nn.geometry import Norm
from alexnet_dist.system import rng

# Bytes of maps that a CPU normalises at a time: they stay in its cache together with their intermediate results, which
# makes the passes over them a third cheaper. A GPU takes all rows at once.
CHUNK_BYTES = 2 << 20

Window = Callable[[Tensor, int], Tensor]


def window_sum(maps: Tensor, size: int) -> Tensor:
    """Return, for each map, the sum over the `size` maps centred on it, clipped at the ends; (B, C, H, W)."""
    total = maps.clone()
    for offset in range(1, size // 2 + 1):
        total[:, offset:] += maps[:, :-offset]
        total[:, :-offset] += maps[:, offset:]
    return total


def _fusible_window_sum(maps: Tensor, size: int) -> Tensor:
    """Return the same sum in a form that a compiler fuses into one loop; without a compiler it is slower."""
    padded = F.pad(maps, (0, 0, 0, 0, size // 2, size // 2))
    total = padded[:, : maps.shape[1]]
    for first in range(1, size):
        total = total + padded[:, first : first + maps.shape[1]]
    return total


def _spatial_sum(maps: Tensor, size: int) -> Tensor:
    """Return, for each pixel, the sum over the size x size pixels of its map centred on it, clipped at the edges."""
    return F.avg_pool2d(maps, size, 1, size // 2, divisor_override=1)


def _wide(maps: Tensor) -> Tensor:
    return maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps


def _power(denominator: Tensor, beta: float) -> Tensor:
    """Return denominator ** -beta; the paper's 0.75 needs no pow, which costs more than the rest of the layer."""
    if beta == 0.75:
        root = denominator.rsqrt()
        return root * root.sqrt()
    return denominator.pow(-beta)


def _values(maps: Tensor, norm: Norm, window: Window) -> tuple[Tensor, Tensor]:
    """Return the normalised maps, in the dtype of `maps`, and the denominators, in at least float32."""
    wide = _wide(maps)
    denominator = window(wide.square(), norm.size) * norm.alpha + norm.k
    return (wide * _power(denominator, norm.beta)).to(maps.dtype), denominator


def _gradient(maps: Tensor, denominator: Tensor, gradient: Tensor, norm: Norm, window: Window) -> Tensor:
    """Return the gradient of the maps, in their dtype.

    y_i = x_i d_i^-b and d_j = k + a sum of x_i^2 over j's window, so
    dL/dx_i = g_i d_i^-b - 2 a b x_i sum over the window of g_j x_j d_j^-b / d_j.
    """
    wide = _wide(maps)
    direct = _wide(gradient) * _power(denominator, norm.beta)
    shared = window(direct * wide / denominator, norm.size)
    return torch.addcmul(direct, wide, shared, value=-2 * norm.alpha * norm.beta).to(maps.dtype)


def _chunks(maps: Tensor) -> list[slice]:
    """Return the slices of samples to normalise at a time."""
    samples = len(maps)
    if maps.device.type == "cpu" and samples:
        samples = max(1, CHUNK_BYTES // (maps[0].numel() * maps.element_size()))
    return [slice(first, first + samples) for first in range(0, len(maps), max(1, samples))]


class _Normalise(torch.autograd.Function):
    """A normalisation with saved denominators, computed in at least float32; window: how the squares are summed."""

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, norm: Norm, window: Window, is_compiled: bool) -> Tensor:
        chunks = _chunks(maps)
        if is_compiled:
            result, denominator = compiled(_values)(maps, norm, _fusible_window_sum)
        elif len(chunks) == 1:
            result, denominator = _values(maps, norm, window)
        else:
            result, denominator = torch.empty_like(maps), torch.empty_like(maps, dtype=_wide(maps[:0]).dtype)
            for chunk in chunks:
                result[chunk], denominator[chunk] = _values(maps[chunk], norm, window)
        ctx.save_for_backward(maps, denominator)
        # autograd's context accepts any attribute
        ctx.norm, ctx.window, ctx.is_compiled = norm, window, is_compiled  # type: ignore[attr-defined]
        return cast("Tensor", result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        maps, denominator = ctx.saved_tensors
        if ctx.is_compiled:
            slope = compiled(_gradient)(maps, denominator, gradient, ctx.norm, _fusible_window_sum)
            return slope, None, None, None
        chunks = _chunks(maps)
        if len(chunks) == 1:
            return _gradient(maps, denominator, gradient, ctx.norm, ctx.window), None, None, None
        result = torch.empty_like(maps)
        for chunk in chunks:
            result[chunk] = _gradient(maps[chunk], denominator[chunk], gradient[chunk], ctx.norm, ctx.window)
        return result, None, None, None


def local_response_norm(maps: Tensor, norm: Norm, is_compiled: bool = False) -> Tensor:
    """Normalise each map by the activity of its neighbours within the tower, (B, C, H, W) (§3.3).

    b_i = a_i / (k + alpha * sum of a_j^2, j from i - n/2 to i + n/2) ^ beta: a sum as printed, not the mean that
    torch.nn.LocalResponseNorm and the 2012 source use (there alpha is divided by the window size).
    is_compiled: use torch.compile, once for each shape; raises RuntimeError if that fails (no C++ compiler).
    """
    return cast("Tensor", _Normalise.apply(maps, norm, window_sum, is_compiled))  # type: ignore[no-untyped-call]


def spatial_norm(maps: Tensor, norm: Norm) -> Tensor:
    """Normalise each pixel by the activity of its neighbours in the same map, (B, C, H, W) (cnorm2, layers-145.cfg).

    As local_response_norm, with the sum over the norm.size x norm.size pixels around each one, clipped at the edges.
    """
    return cast("Tensor", _Normalise.apply(maps, norm, _spatial_sum, False))  # type: ignore[no-untyped-call]


class _Pool(torch.autograd.Function):
    """Max pooling of contiguous (channels-first) maps on a CPU, in half the time of torch's kernel for them.

    torch vectorises only its channels-last kernel. Converting the maps to that format and the smaller result back
    costs less than the difference. The gradient uses torch's own kernel with the same indices.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: int, stride: int) -> Tensor:
        channels_last = maps.contiguous(memory_format=torch.channels_last)
        largest, indices = F.max_pool2d_with_indices(channels_last, [kernel], [stride], ceil_mode=True)
        ctx.save_for_backward(maps, indices.contiguous())
        ctx.window = (kernel, stride)
        return largest.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        maps, indices = ctx.saved_tensors
        kernel, stride = ([side, side] for side in ctx.window)
        result = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient.contiguous(), maps, kernel, stride, [0, 0], [1, 1], True, indices
        )
        return result, None, None


def max_pool(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the maximum of each window, (B, C, H, W); windows overlap and may extend past the edges (§3.4)."""
    if maps.device.type == "cpu" and maps.is_contiguous():
        return cast("Tensor", _Pool.apply(maps, kernel, stride))  # type: ignore[no-untyped-call]
    return F.max_pool2d(maps, kernel, stride, ceil_mode=True)


def average_pool(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the mean of each window, (B, C, H, W), over those of its pixels that are inside the map."""
    return F.avg_pool2d(maps, kernel, stride, ceil_mode=True)


class DropoutKeys(Protocol):
    """The keys of a batch's dropout masks, one for each layer."""

    @property
    def slots(self) -> Tensor:
        """The positions of the samples in the global batch, (B,) int64."""

    def of(self, layer: str) -> rng.AnyKey:
        """Return a layer's key."""


@dataclass(frozen=True)
class DropoutKey:
    """The keys of a batch's dropout masks, from the seed and the completed steps.

    slots: (B,) int64, the positions of the samples in the global batch.
    """

    seed: int
    step: int
    slots: Tensor

    def of(self, layer: str) -> rng.Key:
        """Return a layer's key."""
        return rng.key(self.seed, "dropout", self.step, layer)


def dropout(
    units: Tensor, probability: float, layer: str, first_unit: int, keys: DropoutKeys, is_compiled: bool = False
) -> Tensor:
    """Zero each unit with the given probability, without rescaling the others (§4.2); (B, U).

    first_unit: index of the first column in the whole layer, over both towers. The mask is a function of (seed, step,
    layer, slot, unit), so it does not depend on towers, replicas or micro-batches.
    is_compiled: compute the mask with torch.compile, once for each shape; RuntimeError as in local_response_norm.
    """
    columns = torch.arange(first_unit, first_unit + units.shape[1], device=units.device)
    if is_compiled:
        # As tensors: for each new number torch.compile would compile again.
        kept: Tensor = compiled(rng.keep)(_on_device(keys.of(layer), units.device), keys.slots, columns, probability)
        return units * kept
    return units * rng.keep(keys.of(layer), keys.slots, columns, probability)


def _on_device(key: rng.AnyKey, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a key as int64 tensors on a device, for which the host does not wait."""
    low, high = (
        part if isinstance(part, Tensor) else torch.full((), part, dtype=torch.int64, device=device) for part in key
    )
    return low, high


class Dense(nn.Linear):
    """A fully connected layer that reads maps or units, in (channel, y, x) order."""

    def reset_parameters(self) -> None:
        """Draw nothing: model.Tower draws the initial weights, each from its own stream."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, U) to (B, units)."""
        return super().forward(maps.flatten(1))


class Cross(nn.Module):
    """A layer that reads both towers: one tower's kernels, in two parts, one for the maps of each tower."""

    def __init__(self, own: nn.Module, other: nn.Module) -> None:
        """Take the part for this tower's maps, which has the bias, and the part for the other tower's maps."""
        super().__init__()
        self.own, self.other = own, other

    def forward(self, maps: Tensor, other_maps: Callable[[], Tensor]) -> Tensor:
        """Compute the part of this tower's maps while the other tower's are in flight, then call `other_maps`."""
        own_sum: Tensor = self.own(maps)
        total: Tensor = own_sum + self.other(other_maps())
        return total
