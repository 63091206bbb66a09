"""From ring rows to a batch on the device: the halves that the towers decoded, shared over the link one batch ahead."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.data.loader import LoadedBatch, Loader, Order, labels, pixels, row_bytes
from alexnet_dist.data.plan import tower_half
from alexnet_dist.data.reader import BadSample
from alexnet_dist.link import Handle, PairLink
from alexnet_dist.programme import Task


@dataclass(frozen=True)
class Batch:
    """A replica's batch on its device.

    images: (n, 3, S, S), mean-subtracted, 0-255 scale. labels: (n,) int64, -1 for an empty row. slots: (n,) int64.
    """

    task: Task
    images: Tensor
    labels: Tensor
    slots: Tensor


@dataclass(frozen=True)
class Preparation:
    """What turns decoded pixels into the network's input: sizes, draws and the mean image, (3, S, S) float32."""

    seed: int
    size: int
    crop: int
    flip: bool
    colour_noise: float
    components: augment.Floats
    mean: Tensor
    dtype: torch.dtype


def prepare(task: Task, rows: Tensor, how: Preparation) -> Batch:
    """Return the batch of ring rows (n, row_bytes) uint8, which are on the device already; rows are not changed."""
    n = len(task.ids)
    flip = shift = None
    if task.train:
        draws = augment.train_draws(
            how.seed, task.epoch, task.ids, how.size, how.crop, how.components, how.colour_noise
        )
        flip = torch.from_numpy(draws.flip).to(rows.device) if how.flip else None
        shift = torch.from_numpy(draws.shift).to(rows.device) if how.colour_noise else None
    images = augment.network_input(pixels(rows, how.crop), how.mean, how.dtype, flip, shift)
    slots = torch.arange(task.first_slot, task.first_slot + n, device=rows.device)
    return Batch(task, images, labels(rows), slots)


class Feed:
    """The stream of a replica's batches on one rank: local rows from the loader, the other half over the link."""

    def __init__(
        self, tasks: Iterator[Task], loader: Loader, towers: tuple[int, ...], link: PairLink | None, how: Preparation
    ) -> None:
        """Start the loader on this rank's part of the tasks; without a link, that is all of it."""
        self._tasks, for_loader = itertools.tee(tasks)
        self._towers, self._link, self._how = towers, link, how
        self._loaded = loader.run(self._order(task) for task in for_loader)
        self._ahead: tuple[Task, LoadedBatch, Handle | None] | None = None
        self._data_wait_s = 0.0
        self._bad: list[BadSample] = []

    @property
    def data_wait_s(self) -> float:
        """Seconds this rank has stood waiting for its loader."""
        return self._data_wait_s

    @property
    def link_wait_s(self) -> float:
        """Seconds this rank has stood waiting for the other tower, in all joins."""
        return self._link.traffic.wait_s if self._link is not None else 0.0

    def take_bad(self) -> list[BadSample]:
        """Return the bad samples met since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def _half(self, task: Task, tower: int) -> tuple[int, int]:
        return tower_half(tower, 0, len(task.ids))

    def _order(self, task: Task) -> Order:
        first, end = self.own_rows(task)
        return Order("train" if task.train else "val", task.epoch, task.ids[first:end], task.train)

    def own_rows(self, task: Task) -> tuple[int, int]:
        """Return [first, end) of a task's rows that this rank decodes."""
        return (0, len(task.ids)) if len(self._towers) == 2 else self._half(task, self._towers[0])

    def send_ahead(self) -> None:
        """Send this rank's rows of the next batch to the other tower; at the end of the programme, nothing.

        Call it when no exchange of the pair is under way: after the last one of backward.
        """
        if self._ahead is not None:
            return
        task = next(self._tasks, None)
        if task is None:
            return
        began_s = time.perf_counter()
        loaded = next(self._loaded)
        self._data_wait_s += time.perf_counter() - began_s
        self._bad.extend(loaded.bad)
        handle = None
        if self._link is not None:
            first, end = self._half(task, 1 - self._towers[0])
            rows = loaded.rows.to(self._how.mean.device)
            handle = self._link.start(rows, (end - first, row_bytes(self._how.crop)))
        self._ahead = (task, loaded, handle)

    def take(self) -> Batch:
        """Return the next batch; StopIteration is never raised: the caller knows the programme's length."""
        self.send_ahead()
        assert self._ahead is not None, "the programme is over"
        task, loaded, handle = self._ahead
        self._ahead = None
        if handle is None or self._link is None:
            rows = loaded.rows.to(self._how.mean.device)
        else:
            other = self._link.wait(handle)
            rows = torch.cat([handle.sent, other] if self._towers[0] == 0 else [other, handle.sent])
        return prepare(task, rows, self._how)
