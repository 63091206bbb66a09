"""From ring rows to a batch on the device: the halves that the towers decoded, shared over the link one batch ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.data.loader import Loader, BatchRequest, labels, pixels, row_bytes
from alexnet_dist.data.plan import tower_half
from alexnet_dist.data.reader import BadSample
from alexnet_dist.distributed.link import PIXELS, Handle, PairLink
from alexnet_dist.monitoring.timeline import DATA_WAIT, Timeline
from alexnet_dist.training.run_plan import BatchSpec


@dataclass(frozen=True)
class Batch:
    """A replica's batch on its device.

    images: (n, 3, S, S), mean-subtracted, 0-255 scale. labels: (n,) int64, -1 for an empty row. slots: (n,) int64.
    """

    task: BatchSpec
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
    memory_format: torch.memory_format = torch.contiguous_format


def prepare(task: BatchSpec, rows: Tensor, how: Preparation) -> Batch:
    """Return the batch of ring rows (n, row_bytes) uint8, which are on the device already; rows are not changed."""
    n = len(task.ids)
    flip = shift = None
    if task.train:
        draws = augment.train_draws(
            how.seed, task.epoch, task.ids, how.size, how.crop, how.components, how.colour_noise
        )
        flip = _sent(draws.flip, rows.device) if how.flip else None
        shift = _sent(draws.shift, rows.device) if how.colour_noise else None
    images = augment.network_input(pixels(rows, how.crop), how.mean, how.dtype, flip, shift, how.memory_format)
    slots = torch.arange(task.first_slot, task.first_slot + n, device=rows.device)
    return Batch(task, images, labels(rows), slots)


def _sent(drawn: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return drawn numbers on a device, without waiting for it: from pinned memory."""
    values = torch.from_numpy(drawn)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


class Feed:
    """The stream of a replica's batches on one rank: local rows from the loader, the other half over the link."""

    def __init__(
        self,
        tasks: Iterator[BatchSpec],
        loader: Loader,
        towers: tuple[int, ...],
        link: PairLink | None,
        how: Preparation,
        timeline: Timeline,
    ) -> None:
        """Start the loader on this rank's part of the tasks; without a link, that is all of it."""
        self._tasks, for_loader = itertools.tee(tasks)
        self._towers, self._link, self._how, self._timeline = towers, link, how, timeline
        self._loaded = loader.run(self._order(task) for task in for_loader)
        self._upload = _Upload(how.mean.device)
        self._ahead: tuple[BatchSpec, Tensor, Handle | None] | None = None
        self._bad: list[BadSample] = []

    def take_bad(self) -> list[BadSample]:
        """Return the bad samples met since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def _half(self, task: BatchSpec, tower: int) -> tuple[int, int]:
        return tower_half(tower, 0, len(task.ids))

    def _order(self, task: BatchSpec) -> BatchRequest:
        first, end = self.own_rows(task)
        return BatchRequest("train" if task.train else "val", task.epoch, task.ids[first:end], task.train)

    def own_rows(self, task: BatchSpec) -> tuple[int, int]:
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
        self._upload.settle()
        with self._timeline.wait(DATA_WAIT, "samples"):
            loaded = next(self._loaded)
        self._bad.extend(loaded.bad)
        rows, handle = self._upload.begin(loaded.rows), None
        if self._link is not None:
            first, end = self._half(task, 1 - self._towers[0])
            rows = self._upload.take(rows)
            handle = self._link.start(rows, (end - first, row_bytes(self._how.crop)), PIXELS)
        self._ahead = (task, rows, handle)

    def take(self) -> Batch:
        """Return the next batch; StopIteration is never raised: the caller knows the programme's length."""
        self.send_ahead()
        assert self._ahead is not None, "the programme is over"
        task, rows, handle = self._ahead
        self._ahead = None
        if handle is None or self._link is None:
            rows = self._upload.take(rows)
        else:
            other = self._link.wait(handle)
            rows = torch.cat([handle.sent, other] if self._towers[0] == 0 else [other, handle.sent])
        return prepare(task, rows, self._how)


class _Upload:
    """The way of rows from the ring to the device: on CUDA a copy on a stream of its own, beside the step's work.

    The ring is pinned (Loader.pin): from pageable memory CUDA would hold the host until it has staged the rows.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied: torch.cuda.Event | None = None

    def settle(self) -> None:
        """Wait for the copy before, which has long been done: its slot of the ring will be written again."""
        if self._copied is not None:
            self._copied.synchronize()

    def begin(self, rows: Tensor) -> Tensor:
        """Begin to copy rows; they may be used after `take`."""
        if self._stream is None:
            return rows
        with torch.cuda.stream(self._stream):
            on_device = rows.to(self._device, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return on_device

    def take(self, rows: Tensor) -> Tensor:
        """Let the current stream wait for the copy; the allocator learns that this stream uses it too."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            rows.record_stream(current)
        return rows
