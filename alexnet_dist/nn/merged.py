"""A layer of both towers as one operation, from the parameters of the two: for towers on one CUDA device.

There one large operation is faster than two or four small ones. On a CPU it is not: the parts of a fully connected
layer would be copied together in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet_dist.nn.convolution import Convolution
from alexnet_dist.nn.layers import Cross, Dense


def convolve(modules: Sequence[Convolution], maps: Tensor) -> list[Tensor]:
    """Return each tower's output of a convolution of the same maps: the paper's conv1, with 96 kernels at once."""
    weights = [_cast(module.weight) for module in modules]
    return _split(modules[0].convolve(maps, torch.cat(weights), _biases(modules)), weights)


def cross(modules: Sequence[Cross], maps: Sequence[Tensor]) -> list[Tensor]:
    """Return each tower's output of a layer that reads the maps of both: one operation on the joined maps."""
    first, second = modules
    weights = [
        torch.cat([_cast(part.weight) for part in parts], 1)
        for parts in ((_part(first.own), _part(first.other)), (_part(second.other), _part(second.own)))
    ]
    owns = [_part(module.own) for module in modules]
    biases, weight = _biases(owns), torch.cat(weights)
    if isinstance(owns[0], Convolution):
        output = owns[0].convolve(torch.cat(list(maps), 1), weight, biases)
    else:
        output = F.linear(torch.cat([each.flatten(1) for each in maps], 1), weight, biases)
    return _split(output, weights)


def _part(module: torch.nn.Module) -> Convolution | Dense:
    assert isinstance(module, Convolution | Dense)
    return module


def _biases(modules: Sequence[Convolution | Dense]) -> Tensor | None:
    biases = [_cast(module.bias) for module in modules if module.bias is not None]
    return torch.cat(biases) if biases else None


def _split(output: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the towers' parts of a joined output, views of it; weights: of each tower."""
    return list(torch.split(output, [len(weight) for weight in weights], 1))


def _cast(parameter: Tensor) -> Tensor:
    """Return a parameter in the dtype of the product: torch's autocast would cast it after the copy, twice its size."""
    kind = parameter.device.type
    return parameter.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else parameter
