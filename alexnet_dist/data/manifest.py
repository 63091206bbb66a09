"""The manifest: one JSON file that says what a packed split is, down to the hash of every file that belongs to it.

It is written last, so a split with a manifest is complete. It holds no times, hosts, process counts or absolute
paths: the same images packed with the same options have the same manifest, byte for byte.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from alexnet_dist.errors import UserError
from alexnet_dist.files import replace_file

SplitName = Literal["train", "val", "test"]
Chroma = Literal["420", "422", "444"]
Filter = Literal["bicubic", "bilinear"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
# One row a sample: the place of its JPEG bytes in its shard, its label, and the zlib.crc32 of those bytes.
INDEX_DTYPE = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("crc32", "<u4")])

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.tar$")]
_SidecarName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.npy$")]
_ClassName = Annotated[str, Field(pattern=r"^[^/\x00]+$")]
_Positive = Annotated[int, Field(ge=1)]
_Triple = tuple[float, float, float]
# The lists of a manifest that may be long, and the values in an entry of theirs, or in all the rest: far above what
# pack writes. Pydantic copies an object into each report on it, so a stranger's file could take any amount of memory.
_LONG = ("classes", "shards", "rejected")
_MOST_VALUES = 1000
_EXPECTED, _CHANGED = "Expected a manifest as alexnet_dist.pack writes it", "The file was changed after packing"
PACK_AGAIN = "pack again"
FORMAT: Literal[2] = 2


@dataclass(frozen=True)
class Class:
    """A class; its label is its place in the manifest's list. `words` describe it where the source has them."""

    __pydantic_config__ = _STRICT
    name: _ClassName
    words: str | None = None


@dataclass(frozen=True)
class Shard:
    """A tar file beside the manifest."""

    __pydantic_config__ = _STRICT
    name: _ShardName
    images: _Positive
    size_bytes: _Positive
    sha256: _Sha256


@dataclass(frozen=True)
class Sidecar:
    """A NumPy file beside the manifest: the index or the mean image."""

    __pydantic_config__ = _STRICT
    name: _SidecarName
    sha256: _Sha256


@dataclass(frozen=True)
class Colour:
    """Mean (3) and population covariance (3, 3) of RGB over all pixels of the split, on the 0-255 scale."""

    __pydantic_config__ = _STRICT
    mean: _Triple
    covariance: tuple[_Triple, _Triple, _Triple]


@dataclass(frozen=True)
class Rejected:
    """A file of the source that is not in the shards, named relative to the class folders, and why."""

    __pydantic_config__ = _STRICT
    file: str
    reason: str


@dataclass(frozen=True)
class Options:
    """What decides the bytes of the shards besides the source.

    chroma: the subsampling of colour in the JPEGs. filter: of the resize. holdout: a fraction of each class, or None.
    """

    __pydantic_config__ = _STRICT
    seed: int
    size: _Positive
    quality: Annotated[int, Field(ge=1, le=100)]
    chroma: Chroma
    filter: Filter
    samples_per_shard: _Positive
    holdout: Annotated[float, Field(gt=0, lt=1)] | None


@dataclass(frozen=True)
class SourceId:
    """What was packed: the number of files and the hash of their names, labels and sizes, before a holdout.

    containers: the hash of the archives' names and sizes, where the files in them cannot be listed without reading all.
    """

    __pydantic_config__ = _STRICT
    files: _Positive
    sha256: _Sha256
    containers: _Sha256 | None = None


@dataclass(frozen=True)
class Manifest:
    """A packed split; see the module. `mean` and `colour` are of the training split only."""

    __pydantic_config__ = _STRICT
    split: SplitName
    size: _Positive
    images: _Positive
    classes: Annotated[tuple[Class, ...], Field(min_length=1), FailFast()]
    shards: Annotated[tuple[Shard, ...], Field(min_length=1), FailFast()]
    index: Sidecar
    mean: Sidecar | None
    colour: Colour | None
    rejected: Annotated[tuple[Rejected, ...], FailFast()]
    options: Options
    libraries: Mapping[str, str]
    source: SourceId | None = None
    format: Literal[2] = FORMAT

    @property
    def text(self) -> str:
        """The canonical JSON text, as `save` writes it."""
        return json.dumps(asdict(self), sort_keys=True, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """The hash of the canonical text: the identity of the packed split, in checkpoints for one."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def manifest_path(root: Path, split: str) -> Path:
    """Return where the manifest of a split lies in a folder of shards."""
    return root / f"{split}.manifest.json"


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest, durably and whole or not at all."""
    replace_file(path, manifest.text.encode())


def load(path: Path) -> Manifest:
    """Read a manifest from a file and check it as `parse` does; raises UserError naming the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file. A packed split has one: pack it by "
            f"python -m alexnet_dist.pack SOURCE {path.parent} --split {path.name.removesuffix('.manifest.json')}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(content, str(path))


def parse(content: bytes, name: str, fix: str = PACK_AGAIN) -> Manifest:
    """Read a manifest and check it against itself; that the files agree with it is the reader's to check.

    The file may be a stranger's: whatever is in it, this takes memory in proportion to its size.
    Raises UserError naming the file, as `name`, and the key for anything that is missing, of a wrong type, out of
    range, unknown, or in contradiction to another key; its last words are `fix`.
    """
    try:
        value = from_json(content)
    except ValueError as error:
        raise UserError(f"{name}: the whole file: Invalid JSON: {error}. {_EXPECTED}: {fix}") from None
    problem = _misshapen(value)
    if problem:
        raise UserError(f"{name}: {problem}. {_EXPECTED}: {fix}")
    try:
        manifest = _adapter().validate_json(to_json(value, inf_nan_mode="constants"))
    except ValidationError as error:
        raise UserError(f"{name}: {_first_problem(error)}. {_EXPECTED}: {fix}") from None
    problem = _contradiction(manifest)
    if problem:
        raise UserError(f"{name}: {problem}. {_CHANGED if fix == PACK_AGAIN else _EXPECTED}: {fix}")
    return manifest


def _misshapen(value: Any) -> str | None:
    """Return what is wrong with a file whose problems could not be reported key by key, or None."""
    if not isinstance(value, dict):
        return f"the whole file: not an object, found {value!r:.80}"
    if value.get("format", FORMAT) != FORMAT:  # of another version, which has other keys as well
        return f"format: {value['format']!r:.20}; this version of alexnet_dist reads {FORMAT}"
    missing = [field.name for field in fields(Manifest) if field.default is MISSING and field.name not in value]
    if missing:
        return f"{missing[0]}: Field required{f' (and {len(missing) - 1} more)' if missing[1:] else ''}"
    long = {key: value[key] for key in _LONG if isinstance(value[key], list)}
    if _is_large({key: rest for key, rest in value.items() if key not in long}):
        return f"the whole file: more than {_MOST_VALUES} values outside {', '.join(_LONG)}"
    for key, entries in long.items():
        large = next((number for number, entry in enumerate(entries) if _is_large(entry)), None)
        if large is not None:
            return f"{key}.{large}: more than {_MOST_VALUES} values in one entry"
    return None


def _is_large(value: Any) -> bool:
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            seen += len(one)
            if seen > _MOST_VALUES:
                return True
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return False


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    found = "" if first["type"] == "missing" else f", found {first['input']!r:.80}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key:.200}: {first['msg']}{found}{more}"


def _contradiction(manifest: Manifest) -> str | None:
    """Return what is wrong between keys that are each in order, or None."""
    total = sum(shard.images for shard in manifest.shards)
    if total != manifest.images:
        return f"images: {manifest.images}, but the shards' images add up to {total}"
    twice = [name for name, times in Counter(shard.name for shard in manifest.shards).items() if times > 1]
    if twice:
        return f"shards: {twice[0]} is listed twice"
    names = [kind.name for kind in manifest.classes]
    if names != sorted(set(names)):
        return "classes: expected different names in sorted order, because a label is a place in this list"
    if manifest.size != manifest.options.size:
        return f"size: {manifest.size}, but options.size is {manifest.options.size}"
    if (manifest.split == "train") == (manifest.mean is None or manifest.colour is None):
        return f"mean and colour: expected for split train and only there, and the split is {manifest.split}"
    return None
