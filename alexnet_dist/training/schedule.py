"""What each step is trained with: learning rates by plateau, by epoch or by event (§5), a warm-up, the colour noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from alexnet_dist.config import Event
from alexnet_dist.training.optim import Rates


@dataclass(frozen=True)
class Schedule:
    """When the learning rate is divided by `factor`.

    plateau: after `patience` evaluations in a row whose error is not lower than the best so far by at least
        `least_improvement` (a fraction), at most `max_drops` times (§5: "divide by 10 when the validation error rate
        stopped improving", "reduced three times").
    epochs: when the epochs in `drop_epochs`, which may be fractions, are complete.
    warmup_epochs: epochs in which every learning rate, of either kind, grows in equal steps from nearly 0; 0: none, as
        in the paper (Goyal et al., arXiv 1706.02677, §2.2, who start from that of the small batch).
    bias_learning_rate: of the biases, which no drop changes; None: bias_factor times that of the weights.
    layer_learning_rates: of the weights of single layers, which no drop changes.
    events: what changes at given epochs; a learning rate that an event sets replaces the initial one and its drops.
    """

    initial_learning_rate: float
    kind: Literal["plateau", "epochs"]
    factor: float
    patience: int = 1
    least_improvement: float = 0.0
    max_drops: int = 3
    drop_epochs: tuple[float, ...] = ()
    warmup_epochs: float = 0.0
    bias_factor: float = 1.0
    bias_learning_rate: float | None = None
    layer_learning_rates: Mapping[str, float] = field(default_factory=dict)
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Progress:
    """The state of a plateau schedule, saved in every checkpoint."""

    drops: int = 0
    best_error: float | None = None
    evaluations_since_best: int = 0


def rates_at(schedule: Schedule, progress: Progress, step: int, steps_per_epoch: int) -> Rates:
    """Return the learning rates of the update that follows `step` completed steps.

    In the first n = round(warmup_epochs * steps_per_epoch) steps they are the schedule's times (step + 1) / n.
    """
    past = reached(schedule.events, step, steps_per_epoch)
    if schedule.kind == "plateau":
        drops = progress.drops
    else:
        drops = sum(step >= step_of(epoch, steps_per_epoch) for epoch in schedule.drop_epochs)
    warmup_steps = step_of(schedule.warmup_epochs, steps_per_epoch)
    warmup_factor = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    initial = warmup_factor * schedule.initial_learning_rate
    set_by_event = _latest(past, "learning_rate")
    weights = initial / schedule.factor**drops if set_by_event is None else warmup_factor * set_by_event
    own = _latest(past, "bias_learning_rate", schedule.bias_learning_rate)
    biases = schedule.bias_factor * weights if own is None else warmup_factor * own
    layers = dict(schedule.layer_learning_rates)
    for event in past:
        layers |= event.layer_learning_rates
    return Rates(weights, biases, {name: warmup_factor * learning_rate for name, learning_rate in layers.items()})


def colour_noise_at(initial: float, events: Sequence[Event], step: int, steps_per_epoch: int) -> float:
    """Return the standard deviation of the colour noise in the step that follows `step` completed ones."""
    noise = _latest(reached(events, step, steps_per_epoch), "colour_noise", initial)
    assert noise is not None
    return noise


def reached(events: Sequence[Event], step: int, steps_per_epoch: int) -> tuple[Event, ...]:
    """Return the events that act on the step that follows `step` completed ones, in their order."""
    return tuple(event for event in events if step >= step_of(event.epoch, steps_per_epoch))


def step_of(epoch: float, steps_per_epoch: int) -> int:
    """Return the completed steps at which an epoch, a fraction allowed, is complete."""
    return round(epoch * steps_per_epoch)


def _latest(events: Sequence[Event], name: str, default: float | None = None) -> float | None:
    """Return what the last of the events that sets a value sets it to."""
    values = [value for event in events if (value := getattr(event, name)) is not None]
    return values[-1] if values else default


def after_evaluation(schedule: Schedule, progress: Progress, error: float, step: int, steps_per_epoch: int) -> Progress:
    """Return the progress after an evaluation of the whole validation set, at `step` completed steps.

    error: top-1, a fraction. A warm-up does not use up patience: a learning rate that still grows is not yet too large.
    """
    if progress.best_error is None or error < progress.best_error - schedule.least_improvement:
        return replace(progress, best_error=error, evaluations_since_best=0)
    if step < step_of(schedule.warmup_epochs, steps_per_epoch):
        return progress
    waited = progress.evaluations_since_best + 1
    if waited < schedule.patience or progress.drops >= schedule.max_drops:
        return replace(progress, evaluations_since_best=waited)
    return replace(progress, drops=progress.drops + 1, evaluations_since_best=0)
