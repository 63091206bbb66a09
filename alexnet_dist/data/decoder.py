"""The work of a loader process: decode a request's samples, crop them, and write them into a slot of the shared ring.

The ring has slots for batches; a row of a slot holds one sample: crop * crop * 3 bytes of pixels (height, width, RGB),
then its label as eight little-endian bytes. One message between the towers thus carries pixels and labels together.
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
# Consecutive samples tried for one row: if all are bad, the shard is damaged and the run stops.
MAX_TRIES = 8

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class BatchRequest:
    """The samples to decode as one batch of a rank.

    split: a key of the loader's splits. epoch: used to draw the crops. ids: int64 (n,), -1 for an empty row.
    random_crop: crop at augment.crop_offsets, as for training; otherwise at the centre.
    """

    split: str
    epoch: int
    ids: Ids
    random_crop: bool


SlotRequest = tuple[int, BatchRequest] | None  # slot of the ring and request; None warms a worker up
Message = tuple[int, tuple[BadSample, ...]] | Exception | None  # slot and bad samples; None is the reply to None


def row_bytes(crop: int) -> int:
    """Return the size in bytes of a row: crop x crop pixels and a label."""
    return crop * crop * 3 + LABEL_BYTES


def pixels(rows: torch.Tensor, crop: int) -> torch.Tensor:
    """Return the pixels of rows, uint8 (n, row_bytes), as a view (n, crop, crop, 3)."""
    return rows[:, :-LABEL_BYTES].view(len(rows), crop, crop, 3)


def labels(rows: torch.Tensor) -> torch.Tensor:
    """Return the labels of rows, uint8 (n, row_bytes), as int64 (n,)."""
    # Always a copy: an int64 view needs an address that is a multiple of eight, and the ring is overwritten later.
    return rows[:, -LABEL_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.int64).view(len(rows))


class Decoder(Dataset[Message]):
    """DataLoader's data set, used in the workers: it writes a request's pixels and labels to the ring."""

    def __init__(self, splits: Mapping[str, Split], ring: Bytes, seed: int, crop: int) -> None:
        self._splits, self._ring, self._seed, self._crop = splits, ring, seed, crop
        self._images = {name: np.empty((s.manifest.size, s.manifest.size, 3), np.uint8) for name, s in splits.items()}

    def __getitem__(self, slot_request: SlotRequest) -> Message:
        if slot_request is None:
            self._warm_up()
            return None
        try:
            return self._fill(*slot_request)
        except Exception as error:  # returned, so that the rank raises it unchanged: DataLoader would wrap it
            return _picklable(error)

    def _warm_up(self) -> None:
        """Run the code of a request once before the first one: a forked process faults on every page it first uses.

        The ring is only read, one byte per page, because other workers may be writing it.
        """
        self._ring.reshape(-1)[:: mmap.PAGESIZE].max(initial=0)
        for image in self._images.values():
            jpeg = simplejpeg.encode_jpeg(np.zeros_like(image), 90, "RGB", "420")
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=image, strict=True)
            crop_offsets(self._seed, 0, np.zeros(1, np.int64), len(image), self._crop)

    def _fill(self, slot: int, request: BatchRequest) -> Message:
        split, image, crop = self._splits[request.split], self._images[request.split], self._crop
        rows = self._ring[slot, : len(request.ids)]
        views = rows[:, :-LABEL_BYTES].reshape(len(rows), crop, crop, 3)
        tops, lefts = self._offsets(request, split.manifest.size)
        used, bad = request.ids.copy(), []
        for row, (sample, top, left) in enumerate(zip(request.ids.tolist(), tops, lefts, strict=True)):
            if sample < 0:
                views[row] = 0
                continue
            used[row], problem = _decode(split, sample, image)
            if problem is not None:
                bad.append(problem)
            views[row] = image[top : top + crop, left : left + crop]
        classes = np.where(used < 0, -1, split.labels[used]).astype("<i8")
        rows[:, -LABEL_BYTES:] = classes.view(np.uint8).reshape(-1, LABEL_BYTES)
        return slot, tuple(bad)

    def _offsets(self, request: BatchRequest, size: int) -> tuple[list[int], list[int]]:
        if request.random_crop:
            top, left = crop_offsets(self._seed, request.epoch, np.maximum(request.ids, 0), size, self._crop)
            return top.tolist(), left.tolist()
        centre = [centre_offset(size, self._crop)] * len(request.ids)
        return centre, centre


def _decode(split: Split, planned: int, image: Bytes) -> tuple[int, BadSample | None]:
    """Decode into image the planned sample, or the next one that is good.

    Returns the id that was decoded, and the report on the planned sample if that was bad. Raises UserError if
    MAX_TRIES samples in a row are bad.
    """
    first: BadSample | None = None
    for sample in range(planned, planned + MAX_TRIES):
        try:
            _decode_one(split, sample % split.images, image)
        except BadSample as bad:
            first = first or bad.with_traceback(None)
        else:
            return sample % split.images, first
    raise UserError(
        f"{MAX_TRIES} samples in a row could not be read, starting with {first}. The shard is damaged: pack it again"
    )


def _decode_one(split: Split, sample: int, image: Bytes) -> None:
    jpeg, expected = split.jpeg(sample), image.shape[:2]
    try:
        shape = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=image, strict=True).shape[:2]
    except ValueError as error:
        # simplejpeg raises the same error for a damaged JPEG and for a picture that is larger than the buffer.
        shape = _header_shape(jpeg)
        if shape in (None, expected):
            raise split.bad_sample(sample, str(error), "damaged") from None
    if shape != expected:
        reason = f"{shape[1]} x {shape[0]} pixels, expected {split.manifest.size} a side"
        raise split.bad_sample(sample, reason, "size")


def _header_shape(jpeg: memoryview | bytes) -> tuple[int, int] | None:
    """Return (height, width) from a JPEG's header, or None if it cannot be read."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:
        return None
    return height, width


def _picklable(error: Exception) -> Exception:
    """Return the error with the worker's traceback as a note; if it does not pickle, a RuntimeError with its text."""
    if get_worker_info() is not None:
        error.add_note(f"in loader process {os.getpid()}:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    return error
