"""Claims about learning rates, their schedules and the batches of an epoch (§5; layer-params-145.cfg and others)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alexnet_dist.config import Config
from alexnet_dist.data.plan import EpochPlan
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.training.build import schedule_of
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.run_plan import RunPlan
from alexnet_dist.training.schedule import Progress, after_evaluation, colour_noise_at, rates_at

EPOCHS = Topic("§5 Batches and epochs", "paper; convnet.py")
PLATEAU = Topic("§5 The learning rate", "paper")
HANDS_OFF = Topic("Run 170, by the clock (source2013_hands_off)", "logs of January 2013")
OTHERS = Topic("Other runs of the source", "logs of #170-256-double and of epochs 91 to 135")


class Log(NamedTuple):
    """A logged run: epochs at which rates fall, at which conv1 slows with the noise off, and at which it is frozen.

    killed: the epoch of its end. biases: their rate in the file, which holds the state at the end.
    """

    name: str
    file: str
    first: int
    second: int
    slow: int | None
    frozen: int
    third: int | None
    killed: int
    biases: float | None


LOGS = (
    Log("145 on 2012", "layer-params-145.cfg", 25, 51, 67, 72, 79, 91, 0.02),
    Log("145-2010", "layer-params-145-2010.cfg", 23, 51, 68, 72, 78, 93, 0.002),
    Log("145-half", "layer-params-145-half.cfg", 20, 48, 66, 72, None, 96, None),
    Log("147, no overlap", "layer-params-147.cfg", 23, 51, None, 79, 79, 90, 0.002),
    Log("148, no norm", "layer-params-148.cfg", 22, 44, 69, 73, 86, 97, 0.02),
)


def claims() -> Iterator[Claim]:
    """Yield the claims about batches, learning rates and schedules."""
    yield from _epoch_claims()
    yield from _plateau_claims()
    for log in LOGS:
        named = log is LOGS[0]
        suffix = "source2012" if named else "given as run.events"
        config = recipes.recipe(recipes.SOURCE, *(() if named else _overrides(log)))
        yield from _log_claims(Topic(f"Logged schedule of {log.name} ({suffix})", log.file), config, log)
    yield from _hands_off_claims()
    yield from _other_claims()


def _plan(config: Config, images: int = recipes.TRAINING_IMAGES) -> RunPlan:
    data = config.data
    counts = (1000,) * (images // 1000) + (images % 1000,)
    steps = config.run.epochs * (images // data.global_batch)
    return RunPlan(counts, config.run.seed, data.global_batch, data.lanes, data.window, 1, steps, 0, 1, 0)


def _epoch_claims() -> Iterator[Claim]:
    config = recipes.recipe(recipes.PAPER)
    plan = _plan(config)
    first = next(plan.batches(0, 1, 0, 0))
    yield EPOCHS.equal("images in a batch", RunPlan.batches, 128, len(first.ids))
    yield EPOCHS.equal("steps in an epoch of 1,281,167", RunPlan, 10_009, plan.steps_per_epoch)
    used = EpochPlan(plan.counts, 0, 0, plan.global_batch, plan.lanes, plan.window).batches * plan.global_batch
    yield EPOCHS.equal("images that do not fill a batch (S17)", EpochPlan, 15, recipes.TRAINING_IMAGES - used)
    yield EPOCHS.equal("epochs, roughly 90", RunPlan, 90, plan.steps // plan.steps_per_epoch)
    orders = [
        EpochPlan(plan.counts, 0, epoch, plan.global_batch, plan.lanes, plan.window).sample_ids(0, 0, 128)
        for epoch in (0, 1)
    ]
    yield EPOCHS.deviates(
        "order of the images in the next epoch", EpochPlan, "the same", "another",
        "the same" if np.array_equal(orders[0], orders[1]) else "another",
        "S16: the source shuffled once when it packed. Here each epoch has an order of its own, a function of the"
        " seed and the epoch.",
    )  # fmt: skip


def _plateau_claims() -> Iterator[Claim]:
    config = recipes.recipe(recipes.PAPER)
    schedule, progress = schedule_of(config), Progress()
    visited: list[Rates] = []
    waits: list[int] = []
    for evaluation in range(101):  # the error never improves after the first one
        rates = rates_at(schedule, progress, evaluation, 1)
        if not visited or rates != visited[-1]:
            visited.append(rates)
            waits.append(evaluation)
        progress = after_evaluation(schedule, progress, 0.5, evaluation, 1)
    for index, expected in enumerate((0.01, 0.001, 0.0001, 0.00001)):
        yield PLATEAU.close(f"rate after {index} drops", rates_at, expected, visited[index].weights, 1e-12)
    yield PLATEAU.equal("drops in 100 epochs of equal errors", after_evaluation, 3, len(visited) - 1)
    improving, lower = Progress(), 1.0
    for evaluation in range(50):
        lower -= 0.01
        improving = after_evaluation(schedule, improving, lower, evaluation, 1)
    yield PLATEAU.equal("drops while the error falls", after_evaluation, 0, improving.drops)
    yield PLATEAU.equal("biases: rate / rate of the weights", rates_at, 1.0, visited[0].biases / visited[0].weights)
    yield PLATEAU.equal("layers with a rate of their own", rates_at, 0, len(visited[0].layers))
    yield PLATEAU.deviates(
        "when the error has stopped improving", after_evaluation, "judged by hand", "5 evaluations",
        f"{waits[2] - waits[1]} evaluations",
        "S15: the paper has no number. Here a drop follows five evaluations in a row without a gain of 0.05 points.",
    )  # fmt: skip


def _overrides(log: Log) -> list[str]:
    """Return a log as run.events."""
    changes: dict[int, list[str]] = {}
    for epoch, change in (
        (log.first, "learning_rate: 0.001"),
        (log.second, "learning_rate: 0.0001"),
        (log.slow, "layer_learning_rates: {conv1: 0.00001}, colour_noise: 0"),
        (log.frozen, "layer_learning_rates: {conv1: 0}"),
        (log.third, "learning_rate: 0.00001"),
    ):
        if epoch is not None:
            changes.setdefault(epoch, []).append(change)
    events = ", ".join(f"{{epoch: {epoch}, {', '.join(parts)}}}" for epoch, parts in sorted(changes.items()))
    biases = [] if log.biases is None else [f"optim.bias_learning_rate={log.biases}"]
    return [f"run.events=[{events}]", f"run.epochs={log.killed}", *biases]


def _log_claims(topic: Topic, config: Config, log: Log) -> Iterator[Claim]:
    schedule, events = schedule_of(config), config.run.events
    steps = _plan(config).steps_per_epoch

    def at(step: int) -> tuple[Rates, float]:
        return rates_at(schedule, Progress(), step, steps), colour_noise_at(
            config.data.colour_noise, events, step, steps
        )

    def change(epoch: int, value: str) -> str:
        """Return a value in the last step before an epoch and in its first."""
        found = []
        for rates, noise in (at(epoch * steps - 1), at(epoch * steps)):
            own = {"conv1": rates.layers.get("conv1", rates.weights), "noise": noise, "weights": rates.weights}
            found.append(f"{own[value]:g}")
        return " -> ".join(found)

    yield topic.equal(f"weights' rate at epoch {log.first}", rates_at, "0.01 -> 0.001", change(log.first, "weights"))
    yield topic.equal(
        f"weights' rate at epoch {log.second}", rates_at, "0.001 -> 0.0001", change(log.second, "weights")
    )
    if log.slow is not None:
        yield topic.equal(f"conv1's rate at epoch {log.slow}", rates_at, "0.0001 -> 1e-05", change(log.slow, "conv1"))
        yield topic.equal(f"colour noise at epoch {log.slow}", colour_noise_at, "0.1 -> 0", change(log.slow, "noise"))
    before = "1e-05" if log.slow is not None else "0.0001"
    yield topic.equal(f"conv1's rate at epoch {log.frozen}", rates_at, f"{before} -> 0", change(log.frozen, "conv1"))
    if log.third is not None:
        yield topic.equal(
            f"weights' rate at epoch {log.third}", rates_at, "0.0001 -> 1e-05", change(log.third, "weights")
        )
    ends = [at(epoch * steps + offset) for epoch in range(log.killed) for offset in (0, steps // 2, steps - 1)]
    drops = 3 if log.third is not None else 2
    yield topic.equal("weights' rates over the whole run", rates_at, 1 + drops, len({r.weights for r, _ in ends}))
    if log.biases is not None:
        yield topic.equal("biases' rate at the end", rates_at, log.biases, ends[-1][0].biases)
    if log is LOGS[0]:
        yield topic.equal("biases' rates over the whole run", rates_at, 1, len({rates.biases for rates, _ in ends}))
        yield topic.equal("epochs until it was ended", RunPlan, log.killed, _plan(config).steps // steps)


def _hands_off_claims() -> Iterator[Claim]:
    config = recipes.recipe(recipes.HANDS_OFF)
    schedule, events, steps = schedule_of(config), config.run.events, _plan(config).steps_per_epoch
    total = _plan(config).steps

    def rates(step: float) -> Rates:
        return rates_at(schedule, Progress(), round(step), steps)

    phases = [{rates(total * (phase + part) / 4 + 1).weights for part in (0, 0.5, 0.9999)} for phase in range(4)]
    for number, (phase, expected) in enumerate(zip(phases, (0.01, 0.001587, 0.000252, 0.00004), strict=True), 1):
        yield HANDS_OFF.equal(f"weights' rate in quarter {number}", rates_at, (expected,), tuple(phase))
    yield HANDS_OFF.close("first rate / last rate", rates_at, 250.0, rates(0).weights / rates(total - 1).weights, 1e-9)
    middle = " -> ".join(f"{rates(step).biases:g}" for step in (total // 2 - 1, total // 2))
    yield HANDS_OFF.equal("biases' rate at mid-training", rates_at, "0.02 -> 0.002", middle)
    for epoch, text, name in ((68, "0.1 -> 0", "colour noise"), (74, "4e-05 -> 0", "conv1's rate")):
        found = []
        for step in (epoch * steps - 1, epoch * steps):
            own = rates(step)
            conv1 = own.layers.get("conv1", own.weights)
            noise = colour_noise_at(config.data.colour_noise, events, step, steps)
            found.append(f"{noise if name == 'colour noise' else conv1:g}")
        where = colour_noise_at if name == "colour noise" else rates_at
        yield HANDS_OFF.equal(f"{name} at epoch {epoch}", where, text, " -> ".join(found))


def _other_claims() -> Iterator[Claim]:
    doubled = recipes.recipe(f"{recipes.SOURCE} variants/batch_256")
    learning_rate = rates_at(schedule_of(doubled), Progress(), 0, _plan(doubled).steps_per_epoch).weights
    yield OTHERS.equal("batch 256: weights' rate", schedule_of, 0.02, learning_rate)
    yield OTHERS.equal("batch 256: images", RunPlan.batches, 256, len(next(_plan(doubled).batches(0, 1, 0, 0)).ids))
    again = ["run.events=[{epoch: 25, learning_rate: 0.001}, {epoch: 51, learning_rate: 0.0001},"
             " {epoch: 91, learning_rate: 0.001}]", "run.epochs=135"]  # fmt: skip
    raised = recipes.recipe(recipes.SOURCE, *again)
    learning_rate = rates_at(schedule_of(raised), Progress(), 92 * 10_009, 10_009).weights
    yield OTHERS.equal("rate raised again at epoch 91", rates_at, 0.001, learning_rate)
