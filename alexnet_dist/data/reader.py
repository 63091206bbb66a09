"""Read packed shards in place: JPEG bytes by sample id, from memory-mapped tars and their index.

A sample's id is its position in the split's shards laid end to end, 0 to images - 1.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import zlib
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from alexnet_dist.data.augment import colour_components
from alexnet_dist.data.manifest import INDEX_DTYPE, Manifest, load, manifest_path
from alexnet_dist.errors import UserError

# A mapped file holds a file descriptor, and a process may open 1,024 by default: fewer than ImageNet has shards.
OPEN_SHARDS = 256

REPACK = "pack the images again"


# What can be wrong with a sample: its bytes are not those that were packed, they are no whole JPEG, or the picture has
# other sides than the packed size.
BadKind = Literal["checksum", "damaged", "size"]
BAD_KINDS: tuple[BadKind, ...] = get_args(BadKind)


class BadSample(Exception):  # noqa: N818 - a report first, and raised at times
    """A sample that cannot be read or decoded; it stands for its slot in reports, and crosses process borders.

    sample: its id. shard: the tar's name. offset: bytes, of the JPEG in the tar. reason: a clause. kind: one of
    BAD_KINDS, to count by.
    """

    def __init__(self, sample: int, shard: str, offset: int, reason: str, kind: BadKind) -> None:
        super().__init__(sample, shard, offset, reason, kind)
        self.sample, self.shard, self.offset, self.reason, self.kind = sample, shard, offset, reason, kind

    def __str__(self) -> str:
        return f"sample {self.sample} ({self.shard}, byte {self.offset}): {self.reason}"


class Split:
    """One split of a packed set, `train` or `val`, checked and ready to read.

    manifest: what pack wrote. images: number of samples. counts: samples of each shard.
    labels: int32 (images,).
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        """Read the index and the mean beside the shards; raises UserError naming the file that does not match."""
        self.root = root
        self.manifest = manifest
        self.images = manifest.images
        self.counts = tuple(shard.images for shard in manifest.shards)
        index = _array(root, manifest.index.name, manifest.index.sha256, (self.images,), INDEX_DTYPE)
        self._offsets, self._sizes, self._crcs = (np.ascontiguousarray(index[k]) for k in ("offset", "size", "crc32"))
        self.labels: npt.NDArray[np.int32] = np.ascontiguousarray(index["label"])
        self._check_index()
        self._mean: npt.NDArray[np.float32] | None = None
        if manifest.mean:
            shape = (3, manifest.size, manifest.size)
            self._mean = _array(root, manifest.mean.name, manifest.mean.sha256, shape, np.dtype("<f4"))
        self._ends = np.cumsum(self.counts).tolist()
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._map)

    @classmethod
    def open(cls, root: Path, split: str) -> Split:
        """Open a split, having checked that all its files are there, as long as, and as, the manifest says.

        The shards' hashes are not checked here, that would read every byte; each sample's checksum is, as it is read.
        Raises UserError naming the first file that does not match, and what was expected of it.
        """
        path = manifest_path(root, split)
        manifest = load(path)
        if manifest.split != split:
            raise UserError(f"{path}: it describes split {manifest.split}, expected {split}; {REPACK}")
        for shard in manifest.shards:
            file = root / shard.name
            found = _size_bytes(file)
            if found != shard.size_bytes:
                raise UserError(f"{file}: {found} bytes, expected {shard.size_bytes} by {path.name}; {REPACK}")
        return cls(root, manifest)

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """The mean image, float32 (3, size, size), RGB planes on the 0-255 scale; of a training split only."""
        if self._mean is None:
            raise UserError(f"{manifest_path(self.root, self.manifest.split)}: no mean image; take split train's")
        return self._mean

    @property
    def components(self) -> npt.NDArray[np.float64]:
        """The colour components, float64 (3, 3), of augment.colour_components; of a training split only."""
        if self.manifest.colour is None:
            raise UserError(
                f"{manifest_path(self.root, self.manifest.split)}: no colour covariance; take split train's"
            )
        return colour_components(np.array(self.manifest.colour.covariance))

    def label(self, sample: int) -> int:
        """Return the class index of a sample."""
        return int(self.labels[sample])

    def jpeg(self, sample: int) -> memoryview:
        """Return the bytes of a sample's JPEG, in place; raises BadSample where their checksum is another."""
        if not 0 <= sample < self.images:
            raise IndexError(f"sample {sample}: the split has ids 0 to {self.images - 1}")
        offset = int(self._offsets[sample])
        data = self._shard(bisect_right(self._ends, sample))[offset : offset + int(self._sizes[sample])]
        if zlib.crc32(data) != self._crcs[sample]:
            raise self.bad_sample(sample, "its bytes are not those that were packed (crc32)")
        return data

    def bad_sample(self, sample: int, reason: str, kind: BadKind = "checksum") -> BadSample:
        """Return the report on a sample that cannot be used; kind: checksum for what reading finds."""
        shard = self.manifest.shards[bisect_right(self._ends, sample)]
        return BadSample(sample, shard.name, int(self._offsets[sample]), reason, kind)

    def _map(self, shard: int) -> memoryview:
        with (self.root / self.manifest.shards[shard].name).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _check_index(self) -> None:
        """Refuse offsets outside the shards and labels outside the classes, before a worker meets them."""
        shard_bytes = np.repeat([shard.size_bytes for shard in self.manifest.shards], self.counts)
        last_offsets = shard_bytes - self._sizes
        classes = len(self.manifest.classes)
        for wrong, expected in (
            ((self._offsets < 0) | (self._sizes < 1) | (self._offsets > last_offsets), "bytes inside its shard"),
            ((self.labels < 0) | (self.labels >= classes), f"a label from 0 to {classes - 1}"),
        ):
            if wrong.any():
                file = self.root / self.manifest.index.name
                raise UserError(f"{file}: row {int(wrong.argmax())} does not have {expected}; {REPACK}")


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected beside its manifest: copy it there, or {REPACK}") from None


def _array(root: Path, name: str, sha256: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read an array that the manifest names, after its hash, shape and dtype are found to be right."""
    file = root / name
    _size_bytes(file)
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UserError(f"{file}: sha256 {found[:12]}..., expected {sha256[:12]}... by its manifest; {REPACK}")
    try:
        array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{file}: not a NumPy array file ({error}); {REPACK}") from None
    if array.shape != shape or array.dtype != dtype:
        raise UserError(f"{file}: {array.dtype} {array.shape}, expected {dtype} {shape}; {REPACK}")
    return array
