"""What a loader's worker does: decode an order's samples, crop them, and write them into a slot of the shared ring.

A row of the ring is one sample: crop * crop * 3 bytes of pixels (height, width, RGB), then its label as eight
little-endian bytes. One message over the pair link thus carries pixels and labels together.
"""

from __future__ import annotations

import mmap
import os
import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch.utils.data import Dataset, get_worker_info

from alexnet_dist.data.augment import centre_offset, crop_offsets
from alexnet_dist.data.plan import Ids
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import UserError

LABEL_BYTES = 8
# Samples tried for one slot before the run stops: so many in a row are a broken shard, not a broken image.
TRIES = 8

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class BatchRequest:
    """What a rank wants decoded as one batch.

    split: a key of the loader's splits. epoch: addresses the crops. ids: int64 (n,), -1 for an empty row.
    train: crop where augment.crop_offsets says; otherwise at the centre.
    """

    split: str
    epoch: int
    ids: Ids
    train: bool


SlotRequest = tuple[int, BatchRequest] | None  # slot and order; None only wakes a worker up
Message = tuple[int, tuple[BadSample, ...]] | Exception | None  # slot and bad samples; None answers None


def row_bytes(crop: int) -> int:
    """Return the bytes of a sample of crop x crop pixels and its label."""
    return crop * crop * 3 + LABEL_BYTES


def pixels(rows: torch.Tensor, crop: int) -> torch.Tensor:
    """Return the pixels of rows, uint8 (n, row_bytes), as a view (n, crop, crop, 3)."""
    return rows[:, :-LABEL_BYTES].view(len(rows), crop, crop, 3)


def labels(rows: torch.Tensor) -> torch.Tensor:
    """Return the labels of rows, uint8 (n, row_bytes), as int64 (n,)."""
    # A copy, and always one: a view of int64 wants an address that eight divides, and the rows will be written again.
    return rows[:, -LABEL_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.int64).view(len(rows))


class Decoder(Dataset[Message]):
    """DataLoader's data set, in the workers: a task goes in, pixels and labels go to the ring, a few words come out."""

    def __init__(self, splits: Mapping[str, Split], ring: Bytes, seed: int, crop: int) -> None:
        self._splits, self._ring, self._seed, self._crop = splits, ring, seed, crop
        self._images = {name: np.empty((s.manifest.size, s.manifest.size, 3), np.uint8) for name, s in splits.items()}

    def __getitem__(self, task: SlotRequest) -> Message:
        if task is None:
            self._warm_up()
            return None
        try:
            return self._fill(*task)
        except Exception as error:  # DataLoader would wrap it; the rank raises it as itself
            return _portable(error)

    def _warm_up(self) -> None:
        """Do once what every order does, before the first one comes: a forked process starts with all pages to fault.

        The ring is only read, a byte a page; other workers may be writing it.
        """
        self._ring.reshape(-1)[:: mmap.PAGESIZE].max(initial=0)
        for image in self._images.values():
            jpeg = simplejpeg.encode_jpeg(np.zeros_like(image), 90, "RGB", "420")
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=image, strict=True)
            crop_offsets(self._seed, 0, np.zeros(1, np.int64), len(image), self._crop)

    def _fill(self, slot: int, order: BatchRequest) -> Message:
        split, image, crop = self._splits[order.split], self._images[order.split], self._crop
        rows = self._ring[slot, : len(order.ids)]
        views = rows[:, :-LABEL_BYTES].reshape(len(rows), crop, crop, 3)
        tops, lefts = self._offsets(order, split.manifest.size)
        used, bad = order.ids.copy(), []
        for row, (sample, top, left) in enumerate(zip(order.ids.tolist(), tops, lefts, strict=True)):
            if sample < 0:
                views[row] = 0
                continue
            used[row], problem = _decode(split, sample, image)
            if problem is not None:
                bad.append(problem)
            views[row] = image[top : top + crop, left : left + crop]
        found = np.where(used < 0, -1, split.labels[used]).astype("<i8")
        rows[:, -LABEL_BYTES:] = found.view(np.uint8).reshape(-1, LABEL_BYTES)
        return slot, tuple(bad)

    def _offsets(self, order: BatchRequest, size: int) -> tuple[list[int], list[int]]:
        if order.train:
            top, left = crop_offsets(self._seed, order.epoch, np.maximum(order.ids, 0), size, self._crop)
            return top.tolist(), left.tolist()
        centre = [centre_offset(size, self._crop)] * len(order.ids)
        return centre, centre


def _decode(split: Split, planned: int, image: Bytes) -> tuple[int, BadSample | None]:
    """Decode a sample into image, or the next one that can be; return the id decoded and what was wrong with the first.

    Raises UserError where several in a row cannot be decoded.
    """
    first: BadSample | None = None
    for sample in range(planned, planned + TRIES):
        try:
            _decode_one(split, sample % split.images, image)
        except BadSample as bad:
            first = first or bad.with_traceback(None)
        else:
            return sample % split.images, first
    raise UserError(f"{TRIES} samples in a row could not be read, from {first}. Its shard is damaged: pack it again")


def _decode_one(split: Split, sample: int, image: Bytes) -> None:
    jpeg, sides = split.jpeg(sample), image.shape[:2]
    try:
        found = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=image, strict=True).shape[:2]
    except ValueError as error:
        # A picture that is larger than the buffer is refused in the same way as a damaged one.
        found = _sides(jpeg)
        if found in (None, sides):
            raise split.bad_sample(sample, str(error), "damaged") from None
    if found != sides:
        reason = f"{found[1]} x {found[0]} pixels, expected {split.manifest.size} a side"
        raise split.bad_sample(sample, reason, "size")


def _sides(jpeg: memoryview | bytes) -> tuple[int, int] | None:
    """Return (height, width) by a JPEG's header, or None where it has none."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:
        return None
    return height, width


def _portable(error: Exception) -> Exception:
    """Return the error as it can cross a queue, with the worker's traceback as a note."""
    if get_worker_info() is not None:
        error.add_note(f"in loader process {os.getpid()}:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    return error
