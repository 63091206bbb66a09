"""Shared by the tests of local response normalisation: noise, the literal formula, a value with its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_dist.nn.geometry import Norm
from alexnet_dist.nn.layers import local_response_norm
from support import literal


def noise(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def literally(maps: Tensor, norm: Norm) -> literal.Array:
    return literal.normalise(maps.detach().numpy(), norm.k, norm.size, norm.alpha, norm.beta)


def value_and_gradient(maps: Tensor, gradient: Tensor, norm: Norm, compiled: bool) -> tuple[Tensor, Tensor]:
    leaf = maps.clone().requires_grad_()
    normalised = local_response_norm(leaf, norm, compiled)
    normalised.backward(gradient)  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return normalised.detach(), leaf.grad
