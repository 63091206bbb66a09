"""ILSVRC's development kit: which synset each of its numbers means, in which order the validation images are labelled.

The kit numbers the synsets in an order of its own (``ILSVRC2012_ID``), which is not that of the sorted WordNet ids:
taking its numbers for labels trains a net that looks right and names everything wrong.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars

# meta.mat is 0.2 MB in both years, a ground truth 1 MB.
LARGEST_BYTES = 64 << 20
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Synsets:
    """The classes of one year: the WordNet id of each of the kit's numbers, and each id's words."""

    by_number: Mapping[int, str]
    words: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The WordNet ids in the order of the labels."""
        return tuple(sorted(self.by_number.values()))


@dataclass(frozen=True)
class Devkit:
    """A kit, in its archive or unpacked: `read` returns the one file of it whose path ends so."""

    path: Path
    year: int
    read: Callable[[str], bytes]

    def synsets(self) -> Synsets:
        """Read meta.mat: the synsets without children are the classes; the others are nodes above them."""
        try:
            from scipy.io import loadmat
        except ImportError:
            raise UserError(
                f"{self.path}: scipy, which reads its meta.mat, is not installed: pip install 'alexnet_dist[devkit]'"
            ) from None
        content = self.read("data/meta.mat")
        try:
            with warnings.catch_warnings(action="ignore"):
                rows = loadmat(io.BytesIO(content), squeeze_me=True, variable_names=["synsets"])["synsets"]
            return self._synsets(rows)
        except UserError:
            raise
        except Exception as error:  # scipy's reader raises errors of a dozen kinds on damaged files
            raise UserError(f"{self.path}: its data/meta.mat cannot be read ({error}): download it again") from None

    def _synsets(self, rows: Any) -> Synsets:
        by_number: dict[int, str] = {}
        words: dict[str, str] = {}
        for row in rows:
            if int(row["num_children"]) == 0:
                name = str(row["WNID"])
                by_number[int(row[f"ILSVRC{self.year}_ID"])] = name
                words[name] = str(row["words"])
        if not by_number or len(set(by_number.values())) != len(by_number) or not all(map(WORDNET_ID.fullmatch, words)):
            raise UserError(f"{self.path}: its data/meta.mat does not list different WordNet ids: download it again")
        return Synsets(by_number, words)

    def ground_truth(self) -> list[int]:
        """Return the kit's number of each validation image, in the order of the images' own numbers."""
        name = f"data/ILSVRC{self.year}_validation_ground_truth.txt"
        return numbers(self.read(name), f"{self.path}: {name}")


def numbers(content: bytes, where: str) -> list[int]:
    """Return the whole numbers of a text file, one a line."""
    lines = content.decode(errors="replace").split()
    for number, line in enumerate(lines, start=1):
        if not (line.isascii() and line.isdigit() and len(line) < 10):
            raise UserError(f"{where}: line {number} is {line[:40]!r}, expected a synset's number")
    return [int(line) for line in lines]


def find(folder: Path, year: int) -> Devkit | None:
    """Return the year's kit in a folder, packed or unpacked, or None."""
    for pattern in (f"ILSVRC{year}_devkit*.tar.gz", f"ILSVRC{year}_devkit*/", "devkit-1.0/"):
        if pattern == "devkit-1.0/" and year != 2010:
            continue
        for path in sorted(folder.glob(pattern)):
            if path.is_dir():
                return Devkit(path, year, lambda name, path=path: _read_file(path / name))  # type: ignore[misc]
            return Devkit(path, year, lambda name, path=path: _read_member(path, name))  # type: ignore[misc]
    return None


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Unpack the development kit again") from None


def _read_member(archive: Path, name: str) -> bytes:
    for member, read_at in _members(archive):
        if member.name.endswith(f"/{name}") and member.problem is None and member.size_bytes <= LARGEST_BYTES:
            return read_at(member.offset, member.size_bytes)
    raise UserError(f"{archive}: holds no {name}; expected ILSVRC's development kit: download it again")


def _members(archive: Path) -> Iterator[tuple[tars.Member, tars.Forward]]:
    with tars.unzipped(archive) as stream:
        read_at = tars.Forward(stream)
        for member in tars.members(read_at, str(archive)):
            yield member, read_at
