"""The source of a packed split's bytes: the protocols that readers use, and their implementation for local files."""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from alexnet_dist.data.manifest import Manifest, Sidecar, load, manifest_path
from alexnet_dist.errors import RunError, UserError

# A mapped file holds a file descriptor, and a process may by default open 1,024: fewer than ImageNet has shards.
OPEN_SHARDS = 256

REPACK = "pack the images again"
SINCE_OPENED = (
    "since the packed set was opened; a set in use must not change: restore the shard, and start the run again"
)


class Shards(Protocol):
    """The shards of one split, by their index in its manifest."""

    def read(self, shard: int, offset: int, size: int) -> memoryview | bytes:
        """Return a shard's bytes [offset, offset + size); fewer if the shard is shorter than the manifest says."""
        ...

    def refetch(self, shard: int) -> bool:
        """Fetch a shard that returned wrong bytes again; return False if there is no better copy."""
        ...


class Files(Protocol):
    """The files of a packed set, of any of its splits. str() is the location as shown to users."""

    def manifest(self, split: str) -> Manifest:
        """Return a split's manifest, checked as by manifest.parse; raises UserError naming the file and the problem."""
        ...

    def sidecar(self, sidecar: Sidecar) -> bytes:
        """Return the bytes of an index or a mean, unchecked; raises UserError if there is no such file."""
        ...

    def shards(self, manifest: Manifest) -> Shards:
        """Return the shards of a manifest, ready to read; raises UserError naming the first that cannot be used."""
        ...


class LocalFiles:
    """A packed set in a folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def manifest(self, split: str) -> Manifest:
        """Read a split's manifest; a relative root is taken from the current folder, which the message names."""
        path = manifest_path(self.root, split)
        if not path.is_absolute() and not path.exists():
            raise UserError(
                f"{path}: no such file: {path.absolute()} was tried, because the current folder is {Path.cwd()}. Give"
                f" the absolute path of {self.root}, or change to the folder that contains it; to pack it:"
                f" python -m alexnet_dist.pack SOURCE {self.root} --split {split}"
            )
        return load(path)

    def sidecar(self, sidecar: Sidecar) -> bytes:
        """Read an index or a mean."""
        file = self.root / sidecar.name
        _size_bytes(file)
        return file.read_bytes()

    def shards(self, manifest: Manifest) -> Shards:
        """Check that the shards exist and have the sizes in the manifest; their bytes are not read."""
        for shard in manifest.shards:
            file = self.root / shard.name
            size_bytes = _size_bytes(file)
            if size_bytes != shard.size_bytes:
                name = manifest_path(self.root, manifest.split).name
                raise UserError(f"{file}: {size_bytes} bytes, expected {shard.size_bytes} by {name}; {REPACK}")
        return MappedShards([self.root / shard.name for shard in manifest.shards])


class MappedShards:
    """Shards read in place from memory-mapped files."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._mapped = lru_cache(maxsize=OPEN_SHARDS)(self._map)

    def read(self, shard: int, offset: int, size: int) -> memoryview:
        """Return a view of the mapped file, which stays mapped while a view of it exists.

        Raises RunError if the file is missing, or shorter than when the split was opened. A file truncated while it is
        mapped ends the process with a bus error: a check before each read would take a fifth of its time.
        """
        content = self._mapped(shard)
        view = content[offset : offset + size]
        if len(view) < size:
            raise RunError(f"{self._files[shard]}: truncated to {len(content):,} bytes {SINCE_OPENED}")
        return view

    def refetch(self, _shard: int) -> bool:
        """Return False: there is no other copy."""
        return False

    def _map(self, shard: int) -> memoryview:
        try:
            with self._files[shard].open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise RunError(f"{self._files[shard]}: {error.strerror} {SINCE_OPENED}") from None
        except ValueError:  # raised by mmap for an empty file
            raise RunError(f"{self._files[shard]}: truncated to 0 bytes {SINCE_OPENED}") from None


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected beside its manifest: copy it there, or {REPACK}") from None
