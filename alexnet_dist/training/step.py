"""One optimizer step and one validation, as pure computation on the batches of a source: no file, print or metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import Parameter

from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.tower_parallel import LinkedTower, both_towers
from alexnet_dist.monitoring.timeline import StepTrace, Timeline, Times, region
from alexnet_dist.nn.layers import DropoutKey, DropoutKeys
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.nn.scoring import score
from alexnet_dist.training import optim
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import DeviceRates, Rates, Rule
from alexnet_dist.training.run_plan import BatchSpec


class BatchSource(Protocol):
    """Where a replica's batches come from; `feed.Feed` in a run."""

    def take(self) -> Batch:
        """Return the next batch."""

    def send_ahead(self) -> None:
        """Send this rank's samples of the next batch to the other tower, once."""


@dataclass(frozen=True)
class Engine:
    """One rank's net with what trains it.

    weights, velocities: by tower index, then by the parameter's name in that tower.
    compute: dtype of the multiplications; weights stay float32 when it is bfloat16.
    guarded: whether a step whose gradients are not finite changes nothing; the host then waits for each step's end.
    is_compiled: whether what may be compiled is, besides the norm.
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
    guarded: bool = False
    is_compiled: bool = False

    def logits(self, images: Tensor, dropout_keys: DropoutKeys | None = None) -> Tensor:
        """Return the logits of a batch, in at least float32; dropout_keys: required in training.

        A softmax over a thousand classes in bfloat16 would lose digits of the loss.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.compute == torch.bfloat16):
            logits: Tensor = self.model(images, dropout_keys)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def loss(self, images: Tensor, labels: Tensor, dropout_keys: DropoutKeys) -> tuple[Tensor, Tensor]:
        """Return a batch's part of the global batch's mean loss, and its logits.

        A sum over slots divided by the global batch: summed over replicas it is the mean, also if they are not equal.
        """
        logits = self.logits(images, dropout_keys)
        return F.cross_entropy(logits, labels, reduction="sum") / self.global_batch, logits

    def clear_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for parameters in self.weights.values():
            for parameter in parameters.values():
                parameter.grad = None

    def update(self, rates: Rates | DeviceRates) -> None:
        """Change the weights by the gradients that there are."""
        for tower, weights in self.weights.items():
            optim.update(weights, self.gradients(tower), self.velocities[tower], rates, self.rule, self.is_compiled)

    def broadcast_weights(self) -> None:
        """Give every replica the weights of the first one, before the first step of a start.

        Also of a new run, in which all draw the same numbers: torch's normal numbers differ in their last bits between
        kinds of CPU.
        """
        for weights in self.weights.values():
            self.reducer.broadcast(weights.values())

    def broadcast_velocities(self) -> None:
        """Give every replica the velocities of the first one, which alone has read the checkpoint."""
        for velocities in self.velocities.values():
            self.reducer.broadcast(velocities.values())

    def gradients(self, tower: int) -> dict[str, Tensor]:
        """Return a tower's gradients; after a step, those of the global batch."""
        return {name: weight.grad for name, weight in self.weights[tower].items() if weight.grad is not None}

    def may_update(self) -> bool:
        """Return whether the gradients of the global batch are finite in both towers; always, if not guarded.

        The same on every rank: replicas have the same sums of gradients, and the towers of a pair ask each other.
        """
        if not self.guarded:
            return True
        gradients = [gradient for tower in self.weights for gradient in self.gradients(tower).values()]
        finite = bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
        if isinstance(self.model, LinkedTower):
            return both_towers(finite, self.model.link, gradients[0].device)
        return finite

    def tensors(self, tower: int) -> dict[str, Tensor]:
        """Return a tower's weights and velocities themselves: conv1.weight, ..., velocity.conv1.weight, ...

        A checkpoint stores them after `merge_cross_weights`.
        """
        weights = {name: weight.detach() for name, weight in self.weights[tower].items()}
        return weights | {f"velocity.{name}": value for name, value in self.velocities[tower].items()}


def new_engine(
    model: AlexNet | LinkedTower,
    reducer: Reducer,
    rule: Rule,
    seed: int,
    global_batch: int,
    accumulate: int,
    compute: torch.dtype,
    timeline: Timeline,
    guarded: bool = False,
    is_compiled: bool = False,
) -> Engine:
    """Return an engine before its first step: velocities zero."""
    towers = [tower for tower in model.modules() if isinstance(tower, Tower)]
    weights = {tower.index: dict(tower.named_parameters()) for tower in towers}
    velocities = {
        index: {name: torch.zeros_like(weight) for name, weight in named.items()} for index, named in weights.items()
    }
    return Engine(
        model,
        reducer,
        weights,
        velocities,
        rule,
        seed,
        global_batch,
        accumulate,
        compute,
        timeline,
        guarded,
        is_compiled,
    )


@dataclass(frozen=True)
class StepReport:
    """What one finished step was on this rank.

    loss: this replica's part of the global batch's mean loss. wrong: how many of its samples had a wrong top guess.
    batches: the micro-batches. times: where the time went. sent_bytes, received_bytes: over the link.
    updated: whether the step has changed the weights.
    """

    loss: float
    wrong: float
    batches: tuple[BatchSpec, ...]
    times: Times
    sent_bytes: int
    received_bytes: int
    updated: bool = True


@dataclass(frozen=True)
class PendingStep:
    """A step that the host has launched; the device may still compute it.

    sums: float64 (loss, wrong) on its way to the host. updated: whether the weights have changed.
    """

    batches: tuple[BatchSpec, ...]
    sums: Tensor
    trace: StepTrace
    updated: bool = True

    def read(self) -> StepReport:
        """Wait until the device has finished the step, and return its report."""
        times = self.trace.read()  # waits for the last mark, which comes after the sums
        loss, wrong = self.sums.tolist()
        sent, received = self.trace.sent_bytes, self.trace.received_bytes
        return StepReport(loss, wrong, self.batches, times, sent, received, self.updated)


def train_step(engine: Engine, source: BatchSource, step: int, rates: Rates) -> PendingStep:
    """Launch the step that follows `step` completed ones: forward, backward, sum over replicas, update.

    Gradients are summed over replicas: the same for any number of them. Nothing here waits for a CUDA device.
    """
    engine.model.train()
    timeline = engine.timeline
    timeline.take()
    sums: list[Tensor] = []
    batches: list[BatchSpec] = []
    engine.clear_gradients()
    for index in range(engine.accumulate):
        with region("input"):
            batch = source.take()
        batches.append(batch.spec)
        timeline.mark("other")
        loss, logits = engine.loss(batch.images, batch.labels, DropoutKey(engine.seed, step, batch.slots))
        timeline.mark("forward")
        if index == engine.accumulate - 1:
            engine.reducer.arm(before_launch=source.send_ahead)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        source.send_ahead()
        timeline.mark("backward")
        sums.append(loss_and_wrong(loss, logits, batch.labels))
    with region("averaging"):
        engine.reducer.finish()
    timeline.mark("backward")
    with region("optimizer"):
        updated = engine.may_update()
        if updated:
            engine.update(rates)
    total = copy_to_host(torch.stack(sums).sum(0))
    timeline.mark("optimizer")
    return PendingStep(tuple(batches), total, timeline.take(), updated)


@torch.no_grad()
def loss_and_wrong(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss and the number of wrong top guesses, float64 (2,)."""
    return torch.stack([loss.double(), (logits.argmax(1) != labels).sum()])


def copy_to_host(sums: Tensor) -> Tensor:
    """Return a copy on the host, complete when the device reaches what is launched next."""
    if sums.device.type != "cuda":
        return sums
    # Pinned: the host would wait for a copy into pageable memory.
    return torch.empty_like(sums, device="cpu", pin_memory=True).copy_(sums, non_blocking=True)


def validate(engine: Engine, source: BatchSource, steps: int, stop_requested: Callable[[], bool]) -> Tensor | None:
    """Return this replica's float64 sums over the validation set: (loss, top-1 wrong, top-5 wrong, images).

    stop_requested: called once a batch; when it returns True, the rest is skipped and None is returned.
    """
    engine.model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for _ in range(steps):
        batch = source.take()
        with torch.no_grad():
            sums += score(engine.logits(batch.images), batch.labels)
        source.send_ahead()
        if stop_requested():
            return None
    engine.timeline.take()
    return sums
