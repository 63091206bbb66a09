"""The paper's update rule and the learning rate's schedules (§5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.optim.sgd import sgd


@dataclass(frozen=True)
class Rule:
    """Constants of the update: v <- momentum * v - decay * rate * w - rate * dL/dw; w <- w + v (§5).

    Biases have no decay, as in the source (weights.cu; the text does not tell them apart), and their rate is
    multiplied by `bias_rate_factor` (§5: "an equal learning rate for all layers", 1; the source: 2).
    """

    momentum: float = 0.9
    weight_decay: float = 0.0005
    bias_rate_factor: float = 1.0


@torch.no_grad()
def update(
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    velocities: Mapping[str, Tensor],
    rate: float,
    rule: Rule,
) -> None:
    """Apply one step of the rule to a tower in place; all three are keyed by the parameters' names.

    The rate is inside the velocity, so a drop of the rate does not shrink the step that is under way, as it does in
    torch.optim.SGD. Gradients are left as they are. Without momentum, velocities are neither read nor written.
    """
    for is_bias in (False, True):
        names = [name for name in weights if name.endswith(".bias") == is_bias]
        decay = 0.0 if is_bias else rule.weight_decay
        own_rate = rate * (rule.bias_rate_factor if is_bias else 1.0)
        # Torch's fused rule, one pass over memory instead of four, is v <- momentum * v + (1 - dampening) * d;
        # w <- w - lr * v with d = -dL/dw + weight_decay * w when it maximizes: the paper's, by these signs and with
        # the rate as 1 - dampening. (Rounding that moves the rate by at most 1.1e-16.) Its constructor would refuse
        # the signs, its function takes them. Without momentum it has no v and no dampening: the rate is lr again.
        sgd(
            [weights[name] for name in names],
            [gradients[name] for name in names],
            [velocities[name] for name in names],
            fused=True,
            weight_decay=-decay,
            momentum=rule.momentum,
            lr=-1.0 if rule.momentum else -own_rate,
            dampening=1 - own_rate,
            nesterov=False,
            maximize=True,
        )


@dataclass(frozen=True)
class Schedule:
    """When the learning rate is divided by `factor`.

    plateau: after `patience` evaluations in a row whose error is not lower than the best so far by at least
        `least_improvement` (a fraction), at most `max_drops` times (§5: "divide by 10 when the validation error rate
        stopped improving", "reduced three times").
    epochs: when the epochs in `drop_epochs`, which may be fractions, are complete.
    """

    initial_rate: float
    kind: Literal["plateau", "epochs"]
    factor: float
    patience: int = 1
    least_improvement: float = 0.0
    max_drops: int = 3
    drop_epochs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a plateau schedule remembers, saved in every checkpoint."""

    drops: int = 0
    best_error: float | None = None
    evaluations_since_best: int = 0


def learning_rate(schedule: Schedule, progress: Progress, step: int, steps_per_epoch: int) -> float:
    """Return the rate for the update that makes `step` completed steps into `step` + 1."""
    if schedule.kind == "plateau":
        drops = progress.drops
    else:
        drops = sum(step >= round(epoch * steps_per_epoch) for epoch in schedule.drop_epochs)
    return schedule.initial_rate / schedule.factor**drops


def after_evaluation(schedule: Schedule, progress: Progress, error: float) -> Progress:
    """Return the progress after an evaluation of the whole validation set with this top-1 error, a fraction."""
    if progress.best_error is None or error < progress.best_error - schedule.least_improvement:
        return replace(progress, best_error=error, evaluations_since_best=0)
    waited = progress.evaluations_since_best + 1
    if waited < schedule.patience or progress.drops >= schedule.max_drops:
        return replace(progress, evaluations_since_best=waited)
    return replace(progress, drops=progress.drops + 1, evaluations_since_best=0)
