"""The paper's update rule and learning-rate schedules (§5); for larger batches, LARS and a warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd


@dataclass(frozen=True)
class Rule:
    """Constants of the update: v <- momentum * v - decay * e * w - e * dL/dw; w <- w + v, e the learning rate (§5).

    Biases have no decay, as in the source (weights.cu; the text does not distinguish them), and their learning rate is
    multiplied by `bias_rate_factor` (§5: "an equal learning rate for all layers", 1; the source: 2).
    trust_coefficient: of LARS, which scales each layer's learning rate; None: the same for all layers (§5).
    """

    momentum: float = 0.9
    weight_decay: float = 0.0005
    bias_rate_factor: float = 1.0
    trust_coefficient: float | None = None


@torch.no_grad()
def update(
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    velocities: Mapping[str, Tensor],
    learning_rate: float,
    rule: Rule,
) -> None:
    """Apply one step of the rule to a tower in place; all three mappings are keyed by the tower's parameter names.

    The learning rate is inside the velocity, so a drop does not shrink the accumulated velocity, as it does in
    torch.optim.SGD. Gradients are left as they are. Without momentum, velocities are not read.
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
    _descend(biases, learning_rate * rule.bias_rate_factor, rule.momentum, decay=0.0)
    if rule.trust_coefficient is None:
        weights_of_all = [parameter for layer in layers.values() for parameter in layer]
        _descend(weights_of_all, learning_rate, rule.momentum, rule.weight_decay)
    else:
        for layer in layers.values():
            _descend_lars(layer, learning_rate, rule, rule.trust_coefficient)


class Parameter(NamedTuple):
    """One parameter for the rule: three tensors of one shape."""

    weight: Tensor
    gradient: Tensor
    velocity: Tensor


def _descend(parameters: list[Parameter], learning_rate: float, momentum: float, decay: float) -> None:
    """Apply the paper's rule.

    Torch's fused rule, one pass over memory instead of four, is v <- momentum * v + (1 - dampening) * d and then
    w <- w - lr * v, with d = -dL/dw + weight_decay * w when it maximizes: the paper's with these signs and with the
    learning rate as 1 - dampening (which rounds it by at most 1.1e-16). torch.optim.SGD rejects such signs, its
    function accepts them. Without momentum there is no v and no dampening, and lr is the learning rate.
    """
    sgd(
        [parameter.weight for parameter in parameters],
        [parameter.gradient for parameter in parameters],
        [parameter.velocity for parameter in parameters],
        fused=True,
        weight_decay=-decay,
        momentum=momentum,
        lr=-1.0 if momentum else -learning_rate,
        dampening=1 - learning_rate,
        nesterov=False,
        maximize=True,
    )


def _descend_lars(layer: list[Parameter], learning_rate: float, rule: Rule, trust_coefficient: float) -> None:
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


@dataclass(frozen=True)
class Schedule:
    """When the learning rate is divided by `factor`.

    plateau: after `patience` evaluations in a row whose error is not lower than the best so far by at least
        `least_improvement` (a fraction), at most `max_drops` times (§5: "divide by 10 when the validation error rate
        stopped improving", "reduced three times").
    epochs: when the epochs in `drop_epochs`, which may be fractions, are complete.
    warmup_epochs: epochs in which the learning rate, of either kind, grows in equal steps from nearly 0; 0: none, as in
        the paper (Goyal et al., arXiv 1706.02677, §2.2, who start from that of the small batch).
    """

    initial_learning_rate: float
    kind: Literal["plateau", "epochs"]
    factor: float
    patience: int = 1
    least_improvement: float = 0.0
    max_drops: int = 3
    drop_epochs: tuple[float, ...] = ()
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
class Progress:
    """The state of a plateau schedule, saved in every checkpoint."""

    drops: int = 0
    best_error: float | None = None
    evaluations_since_best: int = 0


def learning_rate_at(schedule: Schedule, progress: Progress, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of the update that follows `step` completed steps.

    In the first n = round(warmup_epochs * steps_per_epoch) steps it is the schedule's times (step + 1) / n.
    """
    if schedule.kind == "plateau":
        drops = progress.drops
    else:
        drops = sum(step >= round(epoch * steps_per_epoch) for epoch in schedule.drop_epochs)
    warmup_steps = _warmup_steps(schedule, steps_per_epoch)
    warmup_factor = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    return warmup_factor * schedule.initial_learning_rate / schedule.factor**drops


def _warmup_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    return round(schedule.warmup_epochs * steps_per_epoch)


def after_evaluation(schedule: Schedule, progress: Progress, error: float, step: int, steps_per_epoch: int) -> Progress:
    """Return the progress after an evaluation of the whole validation set, at `step` completed steps.

    error: top-1, a fraction. A warm-up does not use up patience: a learning rate that still grows is not yet too large.
    """
    if progress.best_error is None or error < progress.best_error - schedule.least_improvement:
        return replace(progress, best_error=error, evaluations_since_best=0)
    if step < _warmup_steps(schedule, steps_per_epoch):
        return progress
    waited = progress.evaluations_since_best + 1
    if waited < schedule.patience or progress.drops >= schedule.max_drops:
        return replace(progress, evaluations_since_best=waited)
    return replace(progress, drops=progress.drops + 1, evaluations_since_best=0)
