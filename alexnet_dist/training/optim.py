"""The paper's update rule (§5); for larger batches, LARS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from alexnet_dist.nn.compiler import compiled


@dataclass(frozen=True)
class Rule:
    """Constants of the update: v <- momentum * v - decay * e * w - e * dL/dw; w <- w + v, e the learning rate (§5).

    Biases have no decay, as in the source (weights.cu; the text does not distinguish them).
    trust_coefficient: of LARS, which scales each layer's learning rate; None: the same for all layers (§5).
    """

    momentum: float = 0.9
    weight_decay: float = 0.0005
    trust_coefficient: float | None = None


@dataclass(frozen=True)
class Rates:
    """The learning rates of one step: of the weights, of the biases, and of the weights of layers with their own.

    In the paper all are equal (§5); in the source, biases and at the end conv1 have others (layer-params-145.cfg).
    """

    weights: float
    biases: float
    layers: Mapping[str, float] = field(default_factory=dict)

    def on(self, device: torch.device, dtype: torch.dtype) -> DeviceRates:
        """Return these rates as tensors on a device."""

        def tensor(learning_rate: float) -> Tensor:
            return torch.full((), learning_rate, dtype=dtype, device=device)

        layers = {name: tensor(learning_rate) for name, learning_rate in self.layers.items()}
        return DeviceRates(tensor(self.weights), tensor(self.biases), layers)


@dataclass(frozen=True)
class DeviceRates:
    """The learning rates of a step in memory that stays, tensors () of the weights' dtype on their device."""

    weights: Tensor
    biases: Tensor
    layers: Mapping[str, Tensor]

    def fill(self, rates: Rates) -> None:
        """Take over the rates of a step, which has the same layers."""
        self.weights.fill_(rates.weights)
        self.biases.fill_(rates.biases)
        for name, own in self.layers.items():
            own.fill_(rates.layers[name])


Rate = float | Tensor


@torch.no_grad()
def update(
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    velocities: Mapping[str, Tensor],
    rates: Rates | DeviceRates,
    rule: Rule,
    is_compiled: bool = False,
) -> None:
    """Apply one step of the rule to a tower in place; all three mappings are keyed by the tower's parameter names.

    The learning rate is inside the velocity, so a drop does not shrink the accumulated velocity, as it does in
    torch.optim.SGD. Gradients are left as they are. Without momentum, velocities are not read.
    is_compiled: whether rates that are tensors are applied by one function of torch.compile.
    """
    biases: list[Parameter] = []
    # conv3.own.weight and conv3.other.weight are one layer: this tower's half of conv3.
    layers: dict[str, list[Parameter]] = {}
    for name, weight in weights.items():
        parameter = Parameter(weight, gradients[name], velocities[name])
        if name.endswith(".bias"):
            biases.append(parameter)
        else:
            layers.setdefault(name.partition(".")[0], []).append(parameter)
    _descend(biases, rates.biases, rule.momentum, 0.0, is_compiled)
    by_rate: dict[Rate, list[Parameter]] = {}  # a tensor's hash is its identity
    for name, layer in layers.items():
        learning_rate: Rate = rates.layers.get(name, rates.weights)
        if rule.trust_coefficient is None:
            by_rate.setdefault(learning_rate, []).extend(layer)
        else:
            _descend_lars(layer, learning_rate, rule, rule.trust_coefficient)
    for learning_rate, parameters in by_rate.items():
        _descend(parameters, learning_rate, rule.momentum, rule.weight_decay, is_compiled)


class Parameter(NamedTuple):
    """One parameter for the rule: three tensors of one shape."""

    weight: Tensor
    gradient: Tensor
    velocity: Tensor


def _descend(
    parameters: list[Parameter], learning_rate: Rate, momentum: float, decay: float, is_compiled: bool
) -> None:
    """Apply the paper's rule.

    With a learning rate that is a number, torch's rule, in fewer passes over memory than single operations, is
    v <- momentum * v + (1 - dampening) * d and then w <- w - lr * v, with d = -dL/dw + weight_decay * w when it
    maximizes: the paper's with these signs and with the learning rate as 1 - dampening (which rounds it by at most
    1.1e-16). torch.optim.SGD rejects such signs, its function accepts them. Without momentum there is no v and no
    dampening, and lr is the learning rate. On CUDA not by torch's fused kernel, one pass instead of two or three: it
    computes 1 - dampening in float32, which makes a learning rate a multiple of 2^-24, 1e-5 for example 1.00136e-5.
    """
    if not parameters:
        return
    if isinstance(learning_rate, Tensor):
        descend = compiled(_descend_by_tensor) if is_compiled else _descend_by_tensor
        descend(parameters, learning_rate, momentum, decay)
        return
    on_cuda = _is_on_cuda(parameters[0])
    sgd(
        [parameter.weight for parameter in parameters],
        [parameter.gradient for parameter in parameters],
        [parameter.velocity for parameter in parameters],
        fused=not on_cuda,
        foreach=on_cuda,
        weight_decay=-decay,
        momentum=momentum,
        lr=-1.0 if momentum else -learning_rate,
        dampening=1 - learning_rate,
        nesterov=False,
        maximize=True,
    )


def _is_on_cuda(parameter: Parameter) -> bool:
    return parameter.weight.is_cuda


def _descend_by_tensor(parameters: list[Parameter], learning_rate: Tensor, momentum: float, decay: float) -> None:
    """Apply the paper's rule with a learning rate on the device, which a CUDA graph reads anew at each replay."""
    for weight, gradient, velocity in parameters:
        change = learning_rate * (gradient + decay * weight if decay else gradient)
        if momentum:
            velocity.mul_(momentum).sub_(change)
            weight.add_(velocity)
        else:
            weight.sub_(change)


def _descend_lars(layer: list[Parameter], learning_rate: Rate, rule: Rule, trust_coefficient: float) -> None:
    """Apply the rule to one layer's weights, at least 2-D, scaling by trust * ||w|| / (||g|| + decay * ||w||).

    LARS: You, Gitman & Ginsburg, arXiv 1708.03888, algorithm 1. If a norm is zero, the global learning rate is used.
    The factor stays a tensor on the device, so the host does not wait for it; the fused kernel takes no tensor here.
    """
    weight_norm = _norm([parameter.weight for parameter in layer])
    gradient_norm = _norm([parameter.gradient for parameter in layer])
    trust = trust_coefficient * weight_norm / (gradient_norm + rule.weight_decay * weight_norm)
    trust = torch.where((weight_norm > 0) & (gradient_norm > 0), trust, 1.0)
    for weight, gradient, velocity in layer:
        scaled = (learning_rate * trust).to(weight.dtype)
        velocity.mul_(rule.momentum).addcmul_(gradient, scaled, value=-1)
        velocity.addcmul_(weight, scaled, value=-rule.weight_decay)
        weight.add_(velocity)


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the Euclidean norm over tensors as a float64 scalar on their device.

    Row by row in the tensors' dtype, then in float64: a single float32 sum over the 9.4 million weights of a part of
    fc6 loses 0.03 % of their norm.
    """
    squares = [torch.linalg.vector_norm(tensor.flatten(1), dim=1).double().square().sum() for tensor in tensors]
    return torch.stack(squares).sum().sqrt()
