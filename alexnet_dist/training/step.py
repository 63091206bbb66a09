"""One optimizer step and one validation, as pure computation on what the feed brings: no file, no print, no metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import Parameter

from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.monitoring.timeline import StepTrace, Timeline, Times, region
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights
from alexnet_dist.training import optim
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.run_plan import BatchSpec


class Source(Protocol):
    """Where a replica's batches come from; `feed.Feed` in a run."""

    def take(self) -> Batch:
        """Return the next batch."""

    def send_ahead(self) -> None:
        """Send this rank's rows of the next batch to the other tower, once."""


@dataclass(frozen=True)
class Engine:
    """One rank's net and what trains it.

    weights, velocities: by tower index, then by the parameter's name in that tower.
    compute: the dtype of the multiplications; weights stay float32 when it is bfloat16.
    """

    model: AlexNet | LinkedTower
    reducer: Reducer
    weights: Mapping[int, Mapping[str, Parameter]]
    velocities: Mapping[int, Mapping[str, Tensor]]
    rule: Rule
    seed: int
    global_batch: int
    accumulate: int
    compute: torch.dtype
    timeline: Timeline

    def logits(self, batch: Batch, address: DropoutKey | None = None) -> Tensor:
        """Return the logits of a batch, in at least float32; address: of its dropout, in training.

        The softmax of a thousand classes in bfloat16 would lose the loss's digits.
        """
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.compute == torch.bfloat16):
            logits: Tensor = self.model(batch.images, address)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def share_weights(self) -> None:
        """Give every replica the first one's weights, before the first step.

        All draw the same, but torch's normal numbers differ in their last bits between kinds of CPU.
        """
        for weights in self.weights.values():
            self.reducer.share(weights.values())

    def gradients(self, tower: int) -> dict[str, Tensor]:
        """Return a tower's gradients, summed over the global batch once a step is done."""
        return {name: weight.grad for name, weight in self.weights[tower].items() if weight.grad is not None}

    def state(self, tower: int) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of a tower: conv1.weight, ..., velocity.conv1.weight, ..., joined."""
        velocities = merge_cross_weights(tower, self.velocities[tower])
        return merge_cross_weights(tower, self.weights[tower]) | {f"velocity.{name}": value for name, value in velocities.items()}


def engine(
    model: AlexNet | LinkedTower,
    reducer: Reducer,
    rule: Rule,
    seed: int,
    global_batch: int,
    accumulate: int,
    compute: torch.dtype,
    timeline: Timeline,
) -> Engine:
    """Return an engine at rest: velocities zero."""
    towers = [tower for tower in model.modules() if isinstance(tower, Tower)]
    weights = {tower.index: dict(tower.named_parameters()) for tower in towers}
    velocities = {
        index: {name: torch.zeros_like(weight) for name, weight in named.items()} for index, named in weights.items()
    }
    return Engine(model, reducer, weights, velocities, rule, seed, global_batch, accumulate, compute, timeline)


@dataclass(frozen=True)
class Report:
    """What one step was on this rank.

    loss: this replica's part of the global batch's mean loss; wrong: its rows whose top guess was wrong.
    tasks: the micro-batches. times: where its time went. sent_bytes, received_bytes: over the link.
    """

    loss: float
    wrong: float
    tasks: tuple[BatchSpec, ...]
    times: Times
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True)
class PendingStep:
    """A step that the host has ordered; the device may still be at it.

    sums: float64 (loss, wrong) on its way to the host.
    """

    tasks: tuple[BatchSpec, ...]
    sums: Tensor
    stretch: StepTrace

    def read(self) -> Report:
        """Wait until the device has done the step, and return what it was."""
        times = self.stretch.read()  # waits for the end of the last lap, which comes after the sums
        loss, wrong = self.sums.tolist()
        return Report(loss, wrong, self.tasks, times, self.stretch.sent_bytes, self.stretch.received_bytes)


def train_step(engine: Engine, feed: Source, step: int, rate: float) -> PendingStep:
    """Make step `step` (completed steps before it) into step + 1: forward, backward, sum over replicas, update.

    The loss is a sum over slots divided by the global batch, and gradients are summed: the same for any number of
    replicas, also when it does not divide the global batch. Nothing here waits for a CUDA device.
    """
    engine.model.train()
    timeline = engine.timeline
    timeline.cut()
    sums: list[Tensor] = []
    tasks: list[BatchSpec] = []
    for parameters in engine.weights.values():
        for parameter in parameters.values():
            parameter.grad = None
    for index in range(engine.accumulate):
        with region("input"):
            batch = feed.take()
        tasks.append(batch.task)
        timeline.lap("other")
        logits = engine.logits(batch, DropoutKey(engine.seed, step, batch.slots))
        loss = F.cross_entropy(logits, batch.labels, reduction="sum") / engine.global_batch
        timeline.lap("forward")
        if index == engine.accumulate - 1:
            engine.reducer.arm(before_launch=feed.send_ahead)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        feed.send_ahead()
        timeline.lap("backward")
        with torch.no_grad():
            sums.append(torch.stack([loss.double(), (logits.argmax(1) != batch.labels).sum()]))
    with region("averaging"):
        engine.reducer.finish()
    timeline.lap("backward")
    with region("optimizer"):
        for tower, weights in engine.weights.items():
            optim.update(weights, engine.gradients(tower), engine.velocities[tower], rate, engine.rule)
    total = _on_its_way(torch.stack(sums).sum(0))
    timeline.lap("optimizer")
    return PendingStep(tuple(tasks), total, timeline.cut())


def _on_its_way(sums: Tensor) -> Tensor:
    """Return a tensor's copy on the host, complete once the device has come to what is ordered next."""
    if sums.device.type != "cuda":
        return sums
    # Pinned: into pageable memory the copy would be waited for.
    return torch.empty_like(sums, device="cpu", pin_memory=True).copy_(sums, non_blocking=True)


def validate(engine: Engine, feed: Source, steps: int, asked_to_stop: Callable[[], bool]) -> Tensor | None:
    """Return this replica's float64 sums over the validation set: (loss, top-1 wrong, top-5 wrong, images).

    asked_to_stop: called once a batch; where it says yes, the rest is left and there are no sums.
    """
    engine.model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for _ in range(steps):
        batch = feed.take()
        with torch.no_grad():
            sums += score(engine.logits(batch), batch.labels)
        feed.send_ahead()
        if asked_to_stop():
            return None
    engine.timeline.cut()
    return sums
