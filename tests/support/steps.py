"""Batches in memory and a small engine for tests of single steps."""

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
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, engine
from support.nets import SMALL

SEED, GLOBAL_BATCH = 3, 8


def batch(first: int, end: int, dtype: torch.dtype = torch.float64, train: bool = True, empty: int = 0) -> Batch:
    """Return slots [first, end) of a global batch, each slot's row its own, the last `empty` rows without an image."""
    images, labels = [], []
    for slot in range(first, end):
        generator = torch.Generator().manual_seed(slot)
        images.append(30 * torch.randn(3, SMALL.side, SMALL.side, generator=generator, dtype=torch.float64).to(dtype))
        labels.append(slot % SMALL.classes)
    truth = torch.tensor(labels)
    truth[len(truth) - empty :] = -1
    return Batch(BatchSpec(train, 0, 0, np.arange(first, end), first), torch.stack(images), truth, torch.arange(first, end))


class Source:
    """Brings batches, waits as long as it is told to, and notes what it is asked."""

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
    model = AlexNet(SMALL, SEED, dtype).to(device)
    rule, timeline = Rule(bias_rate_factor=2.0), Timeline(torch.device(device))
    reducer = Reducer(model, None, timeline)
    return engine(model, reducer, rule, SEED, GLOBAL_BATCH, accumulate, compute, timeline)


def gradients(trainer: Engine) -> dict[str, Tensor]:
    return {f"{tower}.{name}": g.clone() for tower in (0, 1) for name, g in trainer.gradients(tower).items()}
