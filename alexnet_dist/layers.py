"""The layers that torch does not have: local response normalisation, dropout by address, cross layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from alexnet_dist import draws
from alexnet_dist.geometry import Norm


def window_sum(maps: Tensor, size: int) -> Tensor:
    """Return, for each map, the sum over the `size` maps centred on it, clipped at the ends; (B, C, H, W)."""
    total = maps.clone()
    for offset in range(1, size // 2 + 1):
        total[:, offset:] += maps[:, :-offset]
        total[:, :-offset] += maps[:, offset:]
    return total


def _power(denominator: Tensor, beta: float) -> Tensor:
    """Return denominator ** -beta; the paper's 0.75 needs no pow, which costs more than the rest of the layer."""
    if beta == 0.75:
        root = denominator.rsqrt()
        return root.mul_(root.sqrt())
    return denominator.pow(-beta)


class _Normalise(torch.autograd.Function):
    """Local response normalisation with saved denominators, computed in at least float32."""

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, norm: Norm) -> Tensor:
        wide = maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps
        denominator = window_sum(wide.square(), norm.size).mul_(norm.alpha).add_(norm.k)
        scale = _power(denominator, norm.beta)
        ctx.save_for_backward(maps, denominator, scale)
        ctx.norm = norm  # type: ignore[attr-defined]  # autograd's context is open to attributes
        return (wide * scale).to(maps.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # y_i = x_i d_i^-b and d_j = k + a sum of x_i^2 over j's window, so
        # dL/dx_i = g_i d_i^-b - 2 a b x_i sum over the window of g_j x_j d_j^-b / d_j.
        maps, denominator, scale = ctx.saved_tensors
        norm: Norm = ctx.norm
        wide, gradient_wide = maps.to(scale.dtype), gradient.to(scale.dtype)
        direct = gradient_wide * scale
        shared = window_sum((direct * wide).div_(denominator), norm.size)
        result = torch.addcmul(direct, wide, shared, value=-2 * norm.alpha * norm.beta)
        return result.to(gradient.dtype), None


def local_response_norm(maps: Tensor, norm: Norm) -> Tensor:
    """Normalise each map by its neighbours' activity within the tower, (B, C, H, W) (§3.3).

    b_i = a_i / (k + alpha * sum of a_j^2, j from i - n/2 to i + n/2) ^ beta: a sum as printed, and not the mean that
    torch.nn.LocalResponseNorm and the 2012 source take (alpha there is divided by the window's size).
    """
    return cast("Tensor", _Normalise.apply(maps, norm))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Address:
    """Where a batch stands in its run: what dropout masks are drawn from.

    slots: (B,) int64, the places of the rows in the global batch.
    """

    seed: int
    step: int
    slots: Tensor


def dropout(units: Tensor, rate: float, layer: str, first_unit: int, address: Address) -> Tensor:
    """Zero each unit with probability `rate`, without rescaling the others (§4.2); (B, U).

    first_unit: index of the first column in the whole layer, counted over both towers. The mask is a function of
    (seed, step, layer, slot, unit), so it does not depend on towers, replicas or micro-batches.
    """
    at = draws.key(address.seed, "dropout", address.step, layer)
    columns = torch.arange(first_unit, first_unit + units.shape[1], device=units.device)
    return units * draws.keep(at, address.slots, columns, rate)


class Convolution(nn.Conv2d):
    """A convolution whose last windows may overhang the input to the right and below, over zeros."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, overhang: int, bias: bool):
        """Take channels, the kernel's side and the overhang in pixels (geometry.covering)."""
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)
        self.overhang = overhang

    def reset_parameters(self) -> None:
        """Leave the values to model.Tower, which draws them by address."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        if self.overhang:
            maps = F.pad(maps, (0, self.overhang, 0, self.overhang))
        return super().forward(maps)


class Dense(nn.Linear):
    """A fully connected layer that reads maps or units, in (channel, y, x) order."""

    def reset_parameters(self) -> None:
        """Leave the values to model.Tower, which draws them by address."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, U) to (B, units)."""
        return super().forward(maps.flatten(1))


class Cross(nn.Module):
    """A layer that reads both towers: its half of the kernels, in two parts by the tower whose maps they read."""

    def __init__(self, own: nn.Module, other: nn.Module) -> None:
        """Take the part for this tower's maps, which has the bias, and the part for the other tower's."""
        super().__init__()
        self.own, self.other = own, other

    def forward(self, maps: Tensor, other_maps: Callable[[], Tensor]) -> Tensor:
        """Compute the own half while the other tower's maps are on their way, then ask for them."""
        half: Tensor = self.own(maps)
        whole: Tensor = half + self.other(other_maps())
        return whole
