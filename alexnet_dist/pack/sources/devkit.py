"""ILSVRC's development kit: the synset of each of its numbers, and the labels of the validation images.

The kit numbers the synsets in its own order (``ILSVRC2012_ID``), not that of the sorted WordNet ids. Using its numbers
as labels would train a network that looks right and names every class wrong.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.pack import gzip_tars, tars

# meta.mat is 0.2 MB in both years, a ground truth 1 MB.
LARGEST_BYTES = 64 << 20
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Synsets:
    """The classes of one year: the WordNet id of each of the kit's numbers, and the description of each id."""

    by_number: Mapping[int, str]
    descriptions: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The WordNet ids in the order of the labels."""
        return tuple(sorted(self.by_number.values()))


@dataclass(frozen=True)
class Devkit:
    """A kit, in its archive or unpacked; `read` returns the content of a file by its path inside the kit."""

    path: Path
    year: int
    read: Callable[[str], bytes]

    def synsets(self) -> Synsets:
        """Read meta.mat: the synsets without children are the classes, the others are their hypernyms."""
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
            return self._parse_synsets(rows)
        except UserError:
            raise
        except Exception as error:  # scipy raises errors of a dozen types for damaged files
            raise UserError(f"{self.path}: its data/meta.mat cannot be read ({error}): download it again") from None

    def _parse_synsets(self, rows: Any) -> Synsets:
        by_number: dict[int, str] = {}
        descriptions: dict[str, str] = {}
        for row in rows:
            if int(row["num_children"]) == 0:
                name = str(row["WNID"])
                by_number[int(row[f"ILSVRC{self.year}_ID"])] = name
                descriptions[name] = str(row["words"])
        unique = len(set(by_number.values())) == len(by_number)
        if not by_number or not unique or not all(map(WORDNET_ID.fullmatch, descriptions)):
            raise UserError(f"{self.path}: its data/meta.mat does not list unique WordNet ids: download it again")
        return Synsets(by_number, descriptions)

    def ground_truth(self) -> list[int]:
        """Return the kit's number of each validation image, in the order of the images' own numbers."""
        name = f"data/ILSVRC{self.year}_validation_ground_truth.txt"
        return parse_numbers(self.read(name), f"{self.path}: {name}")


def parse_numbers(content: bytes, where: str) -> list[int]:
    """Return the whole numbers of a text file, one per line; raises UserError naming `where` and the line."""
    lines = content.decode(errors="replace").split()
    for number, line in enumerate(lines, start=1):
        if not (line.isascii() and line.isdigit() and len(line) < 10):
            raise UserError(f"{where}: line {number} is {line[:40]!r}, expected a synset's number")
    return [int(line) for line in lines]


def find_devkit(folder: Path, year: int) -> Devkit | None:
    """Return the kit of a year in a folder, packed or unpacked, or None."""
    patterns = [f"ILSVRC{year}_devkit*.tar.gz", f"ILSVRC{year}_devkit*/"]
    if year == 2010:
        patterns.append("devkit-1.0/")
    path = next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)
    if path is None:
        return None
    return Devkit(path, year, partial(_read_file if path.is_dir() else _read_member, path))


def _read_file(kit: Path, name: str) -> bytes:
    try:
        with (kit / name).open("rb") as file:
            return file.read(LARGEST_BYTES)
    except OSError as error:
        raise UserError(f"{kit / name}: cannot be read: {error.strerror}. Unpack the development kit again") from None


def _read_member(archive: Path, name: str) -> bytes:
    with gzip_tars.open_gzip(archive) as stream:
        read_at = gzip_tars.ForwardReader(stream)
        for member in tars.members(read_at, str(archive)):
            if member.name.endswith(f"/{name}") and member.problem is None and member.size_bytes <= LARGEST_BYTES:
                return read_at(member.offset, member.size_bytes)
    raise UserError(f"{archive}: holds no {name}; expected ILSVRC's development kit: download it again")
