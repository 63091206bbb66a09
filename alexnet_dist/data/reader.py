"""Read packed shards in place: JPEG bytes by sample id, from the shards and their index.

A sample's id is its position in the split's concatenated shards, 0 to images - 1.
"""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from alexnet_dist.data.augment import colour_components
from alexnet_dist.data.manifest import INDEX_DTYPE, Manifest, Sidecar
from alexnet_dist.data.plan import Ids
from alexnet_dist.data.shards import REPACK, Files, LocalFiles
from alexnet_dist.errors import UserError

# What can be wrong with a sample: its bytes do not have the packed checksum, they are not a complete JPEG, or the
# picture does not have the packed size.
BadKind = Literal["checksum", "damaged", "size"]
BAD_KINDS: tuple[BadKind, ...] = get_args(BadKind)


class BadSample(Exception):  # noqa: N818 - mainly a report, sometimes raised
    """A sample that cannot be read or decoded; it can be pickled, to be sent from a loader process to its rank.

    sample: its id. shard: the tar's name. offset: of the JPEG in the tar, in bytes. reason: text for messages. kind:
    the reason for metrics.
    """

    def __init__(self, sample: int, shard: str, offset: int, reason: str, kind: BadKind) -> None:
        super().__init__(sample, shard, offset, reason, kind)
        self.sample, self.shard, self.offset, self.reason, self.kind = sample, shard, offset, reason, kind

    def __str__(self) -> str:
        return f"sample {self.sample} ({self.shard}, byte {self.offset}): {self.reason}"


class Split:
    """One split of a packed set, checked and ready to read.

    root: the set's files; its text is the location. images: number of samples. counts: samples of each shard.
    labels: int32 (images,).
    """

    def __init__(self, files: Files, manifest: Manifest) -> None:
        """Read the index and the mean image; raises UserError naming the file that does not match the manifest."""
        self.root = files
        self.manifest = manifest
        self.images = manifest.images
        self.counts = tuple(shard.images for shard in manifest.shards)
        self.shards = files.shards(manifest)
        index = _array(files, manifest.index, (self.images,), INDEX_DTYPE)
        self.labels: npt.NDArray[np.int32] = np.ascontiguousarray(index["label"])
        self._check_index(index)
        # Indexing a memoryview returns a plain int, in a third of the time of a NumPy scalar.
        self._offsets, self._sizes, self._crcs = (
            np.ascontiguousarray(index[column]).data for column in ("offset", "size", "crc32")
        )
        self._mean: npt.NDArray[np.float32] | None = None
        if manifest.mean:
            self._mean = _array(files, manifest.mean, (3, manifest.size, manifest.size), np.dtype("<f4")).copy()
        self._ends = np.cumsum(self.counts).tolist()

    @classmethod
    def open(cls, root: Path | Files, split: str) -> Split:
        """Open a split and check that all its files exist and match the manifest.

        Shards are checked by size only: their hashes would need every byte. Each sample's checksum is checked when it
        is read. Raises UserError naming the first file that does not match, and what was expected.
        """
        files: Files = LocalFiles(root) if isinstance(root, Path) else root
        manifest = files.manifest(split)
        if manifest.split != split:
            name = f"{files}/{split}.manifest.json"
            raise UserError(f"{name}: it describes split {manifest.split}, expected {split}; {REPACK}")
        return cls(files, manifest)

    @property
    def manifest_name(self) -> str:
        """The manifest's path or URL, for messages."""
        return f"{self.root}/{self.manifest.split}.manifest.json"

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """The mean image, float32 (3, size, size), RGB on the 0-255 scale; raises UserError unless split is train."""
        if self._mean is None:
            raise UserError(f"{self.manifest_name}: no mean image; use that of split train")
        return self._mean

    @property
    def components(self) -> npt.NDArray[np.float64]:
        """The float64 (3, 3) of augment.colour_components; raises UserError unless the split is train."""
        if self.manifest.colour is None:
            raise UserError(f"{self.manifest_name}: no colour covariance; use that of split train")
        return colour_components(np.array(self.manifest.colour.covariance))

    def label(self, sample: int) -> int:
        """Return the class index of a sample."""
        return int(self.labels[sample])

    def jpeg(self, sample: int) -> memoryview | bytes:
        """Return the bytes of a sample's JPEG; raises BadSample if they do not have the packed checksum."""
        if not 0 <= sample < self.images:
            raise IndexError(f"sample {sample}: the split has ids 0 to {self.images - 1}")
        shard = bisect_right(self._ends, sample)
        data = self.shards.read(shard, self._offsets[sample], self._sizes[sample])
        if isal_zlib.crc32(data) != self._crcs[sample]:
            if self.shards.refetch(shard):
                data = self.shards.read(shard, self._offsets[sample], self._sizes[sample])
            if isal_zlib.crc32(data) != self._crcs[sample]:
                raise self.bad_sample(sample, "its bytes are not those that were packed (crc32 differs)")
        return data

    def bad_sample(self, sample: int, reason: str, kind: BadKind = "checksum") -> BadSample:
        """Return the report on a sample that cannot be used."""
        shard = self.manifest.shards[bisect_right(self._ends, sample)]
        return BadSample(sample, shard.name, self._offsets[sample], reason, kind)

    def shards_of(self, samples: Ids) -> list[int]:
        """Return the indices of the shards that contain the samples, each once; -1, an empty row, is ignored."""
        shards: list[int] = np.unique(np.searchsorted(self._ends, samples[samples >= 0], side="right")).tolist()
        return shards

    def to_keep(self) -> dict[str, bytes]:
        """Return the files of the training set that a run keeps, name to content: the manifest and the mean image."""
        assert self.manifest.mean is not None
        mean = io.BytesIO()
        np.save(mean, self.mean)
        return {
            f"{self.manifest.split}.manifest.json": self.manifest.text.encode(),
            self.manifest.mean.name: mean.getvalue(),
        }

    def _check_index(self, index: npt.NDArray[Any]) -> None:
        """Raise UserError for members outside their shards or out of order, and labels outside the classes."""
        sizes, offsets = index["size"].astype(np.int64), index["offset"]
        last_offsets = np.repeat([shard.size_bytes for shard in self.manifest.shards], self.counts) - sizes
        classes = len(self.manifest.classes)
        # A shard's members are in ascending order; if they are not, the counts in the manifest are wrong.
        backwards = np.zeros(self.images, dtype=bool)
        backwards[1:] = offsets[1:] < offsets[:-1] + sizes[:-1]
        backwards[np.cumsum((0, *self.counts[:-1]))] = False
        for wrong, expected in (
            ((offsets < 0) | (sizes < 1) | (offsets > last_offsets), "bytes inside its shard"),
            (backwards, "bytes after those of the previous row, in the same shard by the manifest's shards.images"),
            ((self.labels < 0) | (self.labels >= classes), f"a label from 0 to {classes - 1}"),
        ):
            if wrong.any():
                name = f"{self.root}/{self.manifest.index.name}"
                raise UserError(f"{name}: row {int(wrong.argmax())} does not have {expected}; {REPACK}")


def _array(files: Files, sidecar: Sidecar, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read an array that the manifest names and check its hash, shape and dtype."""
    name, data = f"{files}/{sidecar.name}", files.sidecar(sidecar)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != sidecar.sha256:
        raise UserError(f"{name}: sha256 {sha256[:12]}..., expected {sidecar.sha256[:12]}... by its manifest; {REPACK}")
    try:
        array = parse_npy(data)
    except Exception as error:  # numpy parses the header as a Python literal, which may raise any exception
        raise UserError(f"{name}: not a NumPy array file ({error!s:.80}); {REPACK}") from None
    if array.shape != shape or array.dtype != dtype:
        raise UserError(f"{name}: {array.dtype} {array.shape}, expected {dtype} {shape}; {REPACK}")
    return array


def parse_npy(data: bytes) -> npt.NDArray[Any]:
    """Return the array in a .npy file's bytes, read-only and in place.

    numpy.load would first allocate as much memory as the header demands, and the file may be untrusted.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it contains Python objects")
    array: npt.NDArray[Any] = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran else "C")
