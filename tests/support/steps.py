"""Batches in memory and a small engine, for tests of single steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.monitoring.timeline import DATA_WAIT, Timeline
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rates, Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, new_engine
from support.nets import SMALL

SEED, GLOBAL_BATCH = 3, 8
RATES, FROZEN = Rates(0.01, 0.02), Rates(0.0, 0.0)


def batch(first: int, end: int, dtype: torch.dtype = torch.float64, train: bool = True, empty: int = 0) -> Batch:
    """Return slots [first, end) of a global batch, each with its own image; the last `empty` rows have no label."""
    images, labels = [], []
    for slot in range(first, end):
        generator = torch.Generator().manual_seed(slot)
        images.append(30 * torch.randn(3, SMALL.side, SMALL.side, generator=generator, dtype=torch.float64).to(dtype))
        labels.append(slot % SMALL.classes)
    labelled = torch.tensor(labels)
    labelled[len(labelled) - empty :] = -1
    spec = BatchSpec(train, 0, 0, np.arange(first, end), first)
    return Batch(spec, torch.stack(images), labelled, torch.arange(first, end))


class Source:
    """A BatchSource that returns given batches, each after `wait_s`, and records its calls."""

    def __init__(self, batches: Sequence[Batch], timeline: Timeline | None = None, wait_s: float = 0.0) -> None:
        self._batches, self._timeline, self._wait_s = list(batches), timeline, wait_s
        self.events: list[str] = []
        self.when_ahead: Callable[[], None] = lambda: None

    def take(self) -> Batch:
        self.events.append("take")
        if self._timeline is not None:
            with self._timeline.wait(DATA_WAIT, "samples"):
                time.sleep(self._wait_s)
        return self._batches.pop(0)

    def send_ahead(self) -> None:
        self.events.append("ahead")
        self.when_ahead()


def fresh(
    accumulate: int = 1, dtype: torch.dtype = torch.float64, compute: torch.dtype = torch.float64, device: str = "cpu"
) -> Engine:
    """Return an engine for the small net before its first step, on one device without replicas."""
    model = AlexNet(SMALL, SEED, dtype).to(device)
    rule, timeline = Rule(), Timeline(torch.device(device))
    reducer = Reducer(model, None, timeline)
    return new_engine(model, reducer, rule, SEED, GLOBAL_BATCH, accumulate, compute, timeline)


def gradients(engine: Engine) -> dict[str, Tensor]:
    """Return copies of both towers' gradients, by tower and name."""
    return {
        f"{tower}.{name}": gradient.clone() for tower in (0, 1) for name, gradient in engine.gradients(tower).items()
    }
