"""Where the bytes of a packed split come from: a folder, mapped into memory, or whatever else answers like one."""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from alexnet_dist.data.manifest import Manifest, Sidecar, load, manifest_path
from alexnet_dist.errors import RunError, UserError

# A mapped file holds a file descriptor, and a process may open 1,024 by default: fewer than ImageNet has shards.
OPEN_SHARDS = 256

REPACK = "pack the images again"
SINCE_OPENED = (
    "since the packed set was opened; leave a set alone while it is in use: put the shard back, and start again"
)


class Shards(Protocol):
    """The shards of one split, by their number in its manifest."""

    def read(self, shard: int, offset: int, size: int) -> memoryview | bytes:
        """Return a shard's bytes [offset, offset + size); fewer where the shard is shorter than its manifest says."""
        ...

    def refetch(self, shard: int) -> bool:
        """Return whether a shard that gave wrong bytes has been replaced, so that reading it again may help."""
        ...


class Files(Protocol):
    """The files of a packed set, of any of its splits. str() is what users call the place."""

    def manifest(self, split: str) -> Manifest:
        """Return a split's manifest, checked against itself; raises UserError naming the file and what is wrong."""
        ...

    def sidecar(self, sidecar: Sidecar) -> bytes:
        """Return the bytes of an index or a mean, unchecked; raises UserError where there is no such file."""
        ...

    def shards(self, manifest: Manifest) -> Shards:
        """Return the shards of a manifest, ready to read; raises UserError naming the first that cannot be right."""
        ...


class Folder:
    """A packed set in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def manifest(self, split: str) -> Manifest:
        """Read a split's manifest."""
        return load(manifest_path(self.root, split))

    def sidecar(self, sidecar: Sidecar) -> bytes:
        """Read an index or a mean."""
        file = self.root / sidecar.name
        _size_bytes(file)
        return file.read_bytes()

    def shards(self, manifest: Manifest) -> Shards:
        """Check that the shards are there, each as long as the manifest says; their bytes are not read."""
        for shard in manifest.shards:
            file = self.root / shard.name
            found = _size_bytes(file)
            if found != shard.size_bytes:
                name = manifest_path(self.root, manifest.split).name
                raise UserError(f"{file}: {found} bytes, expected {shard.size_bytes} by {name}; {REPACK}")
        return MappedShards([self.root / shard.name for shard in manifest.shards])


class MappedShards:
    """Shards read in place from memory-mapped files."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._mapped = lru_cache(maxsize=OPEN_SHARDS)(self._map)

    def read(self, shard: int, offset: int, size: int) -> memoryview:
        """Return a view of the mapped file, which stays mapped as long as a view of it lives.

        Raises RunError where the file is not there any more, or shorter than when the split was opened. One that is
        cut short while it is mapped ends the process by a bus error: to ask before each read would cost a fifth of it.
        """
        content = self._mapped(shard)
        found = content[offset : offset + size]
        if len(found) < size:
            raise RunError(f"{self._files[shard]}: cut short to {len(content):,} bytes {SINCE_OPENED}")
        return found

    def refetch(self, _shard: int) -> bool:
        """Return False: there is no other copy."""
        return False

    def _map(self, shard: int) -> memoryview:
        try:
            with self._files[shard].open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise RunError(f"{self._files[shard]}: {error.strerror} {SINCE_OPENED}") from None
        except ValueError:  # mmap's, of an empty file
            raise RunError(f"{self._files[shard]}: cut short to 0 bytes {SINCE_OPENED}") from None


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected beside its manifest: copy it there, or {REPACK}") from None
