"""A training step as one CUDA graph: the host launches one thing instead of some hundred kernels.

At the paper's batch of 128 a fast device waits for the host's launches most of the time. A graph repeats what was
captured with the same memory, so all that differs from step to step is read from tensors on the device: the batch, the
keys of the dropout masks, the learning rates. As numbers they would be part of the graph, and each step would have the
masks of the captured one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_dist.monitoring.timeline import GRAPH
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.system import rng
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import DeviceRates, Rates
from alexnet_dist.training.step import BatchSource, Engine, PendingStep, copy_to_host, loss_and_wrong, train_step

# Steps that run before the capture: they choose algorithms of cuDNN and compile, which a capture does not allow.
WARM_UP = 3

Compute = Callable[[], Tensor]
LaunchStep = Callable[[Engine, BatchSource, int, Rates], PendingStep]


@dataclass(frozen=True)
class StaticKeys:
    """The keys of dropout masks in memory that stays: `fill` sets them for a step.

    slots: (B,) int64. keys: by layer, the low and the high 32 bits, int64 () each.
    """

    slots: Tensor
    keys: Mapping[str, tuple[Tensor, Tensor]]

    def of(self, layer: str) -> rng.AnyKey:
        """Return a layer's key."""
        return self.keys[layer]

    def fill(self, dropout_key: DropoutKey) -> None:
        """Take over the slots and the keys of a step."""
        self.slots.copy_(dropout_key.slots, non_blocking=True)
        for layer, own in self.keys.items():
            for tensor, number in zip(own, dropout_key.of(layer), strict=True):
                tensor.fill_(number)


@dataclass(frozen=True)
class StepInputs:
    """All that a step reads besides weights and velocities, in memory that stays."""

    images: Tensor
    labels: Tensor
    keys: StaticKeys
    rates: DeviceRates

    def fits(self, batch: Batch, rates: Rates) -> bool:
        """Return whether a batch has this size, and rates these layers."""
        return self.images.shape == batch.images.shape and self.rates.layers.keys() == rates.layers.keys()

    def fill(self, batch: Batch, dropout_key: DropoutKey, rates: Rates) -> None:
        """Take over the values of a step; the host waits for none of them."""
        self.images.copy_(batch.images, non_blocking=True)
        self.labels.copy_(batch.labels, non_blocking=True)
        self.keys.fill(dropout_key)
        self.rates.fill(rates)


def new_inputs(engine: Engine, batch: Batch, rates: Rates) -> StepInputs:
    """Return inputs for batches of one size, and for rates of the same layers."""
    device = batch.images.device
    assert isinstance(engine.model, AlexNet)
    dropped = [name for name, layer in engine.model.net.layers.items() if layer.dropout]
    keys = {
        name: (torch.zeros((), dtype=torch.int64, device=device), torch.zeros((), dtype=torch.int64, device=device))
        for name in dropped
    }
    weight = next(iter(engine.weights[0].values()))
    return StepInputs(
        torch.empty_like(batch.images),
        torch.empty_like(batch.labels),
        StaticKeys(torch.empty_like(batch.slots), keys),
        rates.on(device, weight.dtype),
    )


def compute(engine: Engine, inputs: StepInputs) -> Tensor:
    """Do a whole step on the inputs, weights and velocities as they are; return what `loss_and_wrong` returns."""
    engine.clear_gradients()
    loss, logits = engine.loss(inputs.images, inputs.labels, inputs.keys)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    engine.update(inputs.rates)
    return loss_and_wrong(loss, logits, inputs.labels)


def launcher(is_graph: bool) -> LaunchStep:
    """Return what launches the steps of a run; is_graph: train.cuda_graph."""
    return GraphedStep() if is_graph else train_step


def capture(step: Compute) -> Compute:
    """Capture a step as a CUDA graph and return what replays it; nothing is computed by the capture itself."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: what other threads of this process do does not end the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        sums = step()

    def replay() -> Tensor:
        graph.replay()
        return sums

    return replay


class Beside:
    """Does steps on a stream of its own, as what is captured later needs; the current stream waits for each."""

    def __init__(self) -> None:
        """Take no stream yet: one for all steps, since torch keeps memory for each."""
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, step: Compute) -> Tensor:
        """Do a step and return what it returns."""
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            sums = step()
        current.wait_stream(self._stream)
        return sums


class GraphedStep:
    """As `step.train_step`, for one replica in one process without micro-batches: replays a graph once it is warm."""

    def __init__(
        self, capture: Callable[[Compute], Compute] = capture, warm_up: Callable[[Compute], Tensor] | None = None
    ) -> None:
        """Take what captures a step, and what does a step before that."""
        self._capture, self._warm_up = capture, warm_up or Beside()
        self._inputs: StepInputs | None = None
        self._done = 0
        self._replay: Compute | None = None

    def __call__(self, engine: Engine, source: BatchSource, step: int, rates: Rates) -> PendingStep:
        """Launch the step that follows `step` completed ones."""
        engine.model.train()
        timeline = engine.timeline
        timeline.take()
        batch = source.take()
        if self._inputs is None or not self._inputs.fits(batch, rates):
            self._inputs, self._done, self._replay = new_inputs(engine, batch, rates), 0, None
        inputs = self._inputs
        inputs.fill(batch, DropoutKey(engine.seed, step, batch.slots), rates)
        timeline.mark("other")
        sums = self._launch(engine, inputs)
        timeline.mark(GRAPH)
        source.send_ahead()
        total = copy_to_host(sums)
        timeline.mark("other")
        return PendingStep((batch.spec,), total, timeline.take())

    def _launch(self, engine: Engine, inputs: StepInputs) -> Tensor:
        if self._done < WARM_UP:
            self._done += 1
            return self._warm_up(lambda: compute(engine, inputs))
        if self._replay is None:
            engine.clear_gradients()  # their memory is not the graph's
            self._replay = self._capture(lambda: compute(engine, inputs))
        return self._replay()
