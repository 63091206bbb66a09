"""From decoded samples to a batch on the device: the towers share their halves over the link, one batch ahead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.data.loader import BatchRequest, Loader, labels, pixels, row_bytes
from alexnet_dist.data.plan import tower_half
from alexnet_dist.data.reader import BadSample
from alexnet_dist.distributed.link import Handle, PairLink
from alexnet_dist.distributed.tower_parallel import PIXELS
from alexnet_dist.monitoring.timeline import DATA_WAIT, Timeline
from alexnet_dist.nn.compiler import compiled
from alexnet_dist.training.context import COMPUTE_DTYPES, WEIGHT_DTYPES, RunContext, memory_format_of
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.schedule import colour_noise_at


@dataclass(frozen=True)
class Batch:
    """A replica's batch on its device.

    images: (n, 3, S, S), mean-subtracted, 0-255 scale. labels: (n,) int64, -1 for an empty row. slots: (n,) int64.
    """

    spec: BatchSpec
    images: Tensor
    labels: Tensor
    slots: Tensor


@dataclass(frozen=True)
class Preparation:
    """What turns decoded pixels into the network's input: sizes, draws and the mean image, (3, S, S) float32.

    noise_at: the standard deviation of the colour noise by completed steps. train_divisor: of training images.
    is_compiled: whether one function of torch.compile makes the input of the pixels.
    """

    seed: int
    size: int
    crop: int
    flip: bool
    noise_at: Callable[[int], float]
    train_divisor: float
    components: augment.Floats
    mean: Tensor
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.contiguous_format
    is_compiled: bool = False


def preparation(run: RunContext, is_compiled: bool) -> Preparation:
    """Return the preparation of a run's batches, with the centre crop of the mean image on this rank's device."""
    config, train = run.config, run.splits["train"]
    mean = augment.centre_crop(torch.from_numpy(train.mean), config.data.crop).contiguous()
    return Preparation(
        seed=config.run.seed,
        size=train.manifest.size,
        crop=config.data.crop,
        flip=config.data.flip,
        noise_at=lambda step: colour_noise_at(
            config.data.colour_noise, config.run.events, step, run.plan.steps_per_epoch
        ),
        train_divisor=config.data.train_divisor,
        components=train.components,
        mean=mean.to(run.topology.device),
        # The first convolution rounds to this dtype anyway, unless a product comes before it.
        dtype=(COMPUTE_DTYPES if run.net.input_scale == 1 else WEIGHT_DTYPES)[config.train.dtype],
        memory_format=memory_format_of(config),
        is_compiled=is_compiled,
    )


def prepare(spec: BatchSpec, rows: Tensor, preparation: Preparation) -> Batch:
    """Return the batch of ring rows (n, row_bytes) uint8 that are on the device; the rows are not changed."""
    n = len(spec.ids)
    flip = shift = None
    divisor = 1.0
    if spec.train:
        noise, divisor = preparation.noise_at(spec.step), preparation.train_divisor
        draws = augment.train_draws(
            preparation.seed, spec.epoch, spec.ids, preparation.size, preparation.crop, preparation.components,
            noise,
        )  # fmt: skip
        flip = _to_device(draws.flip, rows.device) if preparation.flip else None
        shift = _to_device(draws.shift, rows.device) if noise else None
    # Compiled, a division may round differently.
    is_compiled = preparation.is_compiled and divisor == 1
    network_input = compiled(augment.network_input) if is_compiled else augment.network_input
    images = network_input(
        pixels(rows, preparation.crop), preparation.mean, preparation.dtype, flip, shift, preparation.memory_format,
        divisor,
    )  # fmt: skip
    slots = torch.arange(spec.first_slot, spec.first_slot + n, device=rows.device)
    return Batch(spec, images, labels(rows), slots)


def _to_device(draws: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy draws to a device without waiting for it: from pinned memory."""
    values = torch.from_numpy(draws)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def rows_of_rank(spec: BatchSpec, towers: tuple[int, ...]) -> tuple[int, int]:
    """Return [first, end) of the rows of a batch that the rank with these towers decodes."""
    rows = len(spec.ids)
    return (0, rows) if len(towers) == 2 else tower_half(towers[0], 0, rows)


class Feed:
    """The stream of a replica's batches on one rank: half of the rows from the loader, the other half over the link."""

    def __init__(
        self,
        run: RunContext,
        batches: Iterator[BatchSpec],
        loader: Loader,
        link: PairLink | None,
        timeline: Timeline,
        is_compiled: bool = False,
    ) -> None:
        """Start the loader on this rank's rows of the batches; without a link, those are all rows.

        is_compiled: of `Preparation`, on CUDA.
        """
        self._batches, for_loader = itertools.tee(batches)
        self._towers, self._link, self._timeline = run.topology.towers, link, timeline
        self._preparation = preparation(run, is_compiled and run.topology.device.type == "cuda")
        self._random_crop = run.config.data.random_crop
        self._loaded = loader.run(self._request(spec) for spec in for_loader)
        self._upload = _Upload(run.topology.device)
        self._next: tuple[BatchSpec, Tensor, Handle | None] | None = None
        self._bad: list[BadSample] = []

    def take_bad(self) -> list[BadSample]:
        """Return the bad samples since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def _request(self, spec: BatchSpec) -> BatchRequest:
        first, end = rows_of_rank(spec, self._towers)
        random_crop = spec.train and self._random_crop
        return BatchRequest("train" if spec.train else "val", spec.epoch, spec.ids[first:end], random_crop)

    def send_ahead(self) -> None:
        """Send this rank's rows of the next batch to the other tower; at the end of the run, nothing.

        Call it when no exchange of the pair is in flight: after the last one of backward.
        """
        if self._next is not None:
            return
        spec = next(self._batches, None)
        if spec is None:
            return
        self._upload.wait()
        with self._timeline.wait(DATA_WAIT, "samples"):
            loaded = next(self._loaded)
        self._bad.extend(loaded.bad)
        rows, handle = self._upload.start(loaded.rows), None
        if self._link is not None:
            first, end = tower_half(1 - self._towers[0], 0, len(spec.ids))
            rows = self._upload.finish(rows)
            handle = self._link.start(rows, (end - first, row_bytes(self._preparation.crop)), PIXELS)
        self._next = (spec, rows, handle)

    def take(self) -> Batch:
        """Return the next batch; the caller knows how many there are."""
        self.send_ahead()
        assert self._next is not None, "the run has no more batches"
        spec, rows, handle = self._next
        self._next = None
        if handle is None or self._link is None:
            rows = self._upload.finish(rows)
        else:
            other = self._link.wait(handle)
            rows = torch.cat([handle.sent, other] if self._towers[0] == 0 else [other, handle.sent])
        return prepare(spec, rows, self._preparation)


class _Upload:
    """The copy of rows from the ring to the device; on CUDA it has its own stream, in parallel to the step's work.

    The ring is pinned (Loader.pin): from pageable memory CUDA would block the host until it has staged the rows.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait for the previous copy, mostly long finished: its slot of the ring will be written again."""
        if self._copied is not None:
            self._copied.synchronize()

    def start(self, rows: Tensor) -> Tensor:
        """Begin to copy rows; they may be used after `finish`."""
        if self._stream is None:
            return rows
        with torch.cuda.stream(self._stream):
            on_device = rows.to(self._device, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return on_device

    def finish(self, rows: Tensor) -> Tensor:
        """Make the current stream wait for the copy, and the allocator know that this stream uses the rows too."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            rows.record_stream(current)
        return rows
