"""The manifest: one JSON file that describes a packed split, including the hash of every file that belongs to it.

It is written last, so a split with a manifest is complete. It contains no times, hosts, process counts or absolute
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
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from alexnet_dist.data.choices import Chroma, Filter, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.system.files import replace_file

# One row per sample: offset and size of its JPEG in its shard, in bytes, its label, and the zlib.crc32 of the JPEG.
INDEX_DTYPE = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("crc32", "<u4")])

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.tar$")]
_SidecarName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.npy$")]
_ClassName = Annotated[str, Field(pattern=r"^[^/\x00]+$")]
_Positive = Annotated[int, Field(ge=1)]
_Triple = tuple[float, float, float]
# The lists of a manifest that may be long, and the limit on values in one of their entries, and in all other keys: far
# above what pack writes. Pydantic copies an object into each error about it, so an untrusted file could exhaust memory.
_LONG_LISTS = ("classes", "shards", "rejected")
_MAX_VALUES = 1000
_EXPECTED, _CHANGED = "Expected a manifest as alexnet_dist.pack writes it", "The file was changed after packing"
PACK_AGAIN = "pack again"
FORMAT: Literal[2] = 2


@dataclass(frozen=True)
class Class:
    """A class; its label is its index in the manifest's list. `words` describe it, if the source has a description."""

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
    """A file of the source that is not in the shards, named relative to the class folders, and the reason."""

    __pydantic_config__ = _STRICT
    file: str
    reason: str


@dataclass(frozen=True)
class Options:
    """The options that, with the source, determine the bytes of the shards.

    chroma: the chroma subsampling of the JPEGs. filter: of the resize. holdout: a fraction of each class, or None.
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
    """The identity of the source: the number of files and the hash of their names, labels and sizes, before a holdout.

    containers: the hash of the archives' names and sizes, if the files in them cannot be listed without reading it all.
    """

    __pydantic_config__ = _STRICT
    files: _Positive
    sha256: _Sha256
    containers: _Sha256 | None = None


@dataclass(frozen=True)
class Manifest:
    """A packed split; see the module. Only the training split has `mean` and `colour`.

    ignored: how many entries of the source are neither images nor rejected, by the rule that excludes them.
    missing: what the source names and lacks, if it was packed nevertheless. Both are None in sets without any.
    """

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
    ignored: Mapping[str, _Positive] | None = None
    missing: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @property
    def text(self) -> str:
        """The canonical JSON text, which `save` writes; without the keys that sets of earlier versions lack."""
        content = asdict(self)
        for key in ("ignored", "missing"):
            if content[key] is None:
                del content[key]
        return json.dumps(content, sort_keys=True, indent=1) + "\n"

    @property
    def seen(self) -> int:
        """How many files, members or rows the source of this split has."""
        return self.images + len(self.rejected) + sum((self.ignored or {}).values())

    @property
    def sha256(self) -> str:
        """The hash of the canonical text: the identity of the packed split, for example in checkpoints."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def manifest_path(root: Path, split: str) -> Path:
    """Return the path of a split's manifest in a folder of shards."""
    return root / f"{split}.manifest.json"


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest durably and atomically."""
    replace_file(path, manifest.text.encode())


def load(path: Path) -> Manifest:
    """Read a manifest from a file and check it as `parse` does; raises UserError naming the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file. A packed split has one: pack it with "
            f"python -m alexnet_dist.pack SOURCE {path.parent} --split {path.name.removesuffix('.manifest.json')}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(content, str(path))


def parse(content: bytes, name: str, fix: str = PACK_AGAIN) -> Manifest:
    """Read a manifest and check that its keys are valid and consistent; reader.Split checks the files it names.

    The file may be untrusted: whatever it contains, memory use is proportional to its size.
    Raises UserError naming the file, as `name`, and the key for anything missing, of a wrong type, out of range,
    unknown, or inconsistent with another key; the message ends with `fix`.
    """
    try:
        value = from_json(content)
    except ValueError as error:
        raise UserError(f"{name}: the whole file: Invalid JSON: {error}. {_EXPECTED}: {fix}") from None
    problem = _shape_problem(value)
    if problem:
        raise UserError(f"{name}: {problem}. {_EXPECTED}: {fix}")
    try:
        manifest = _adapter().validate_json(to_json(value, inf_nan_mode="constants"))
    except ValidationError as error:
        raise UserError(f"{name}: {_first_problem(error)}. {_EXPECTED}: {fix}") from None
    problem = _inconsistency(manifest)
    if problem:
        raise UserError(f"{name}: {problem}. {_CHANGED if fix == PACK_AGAIN else _EXPECTED}: {fix}")
    return manifest


def _shape_problem(value: Any) -> str | None:
    """Return what is wrong with the whole file, to be reported before any single key, or None."""
    if not isinstance(value, dict):
        return f"the whole file: not an object, found {value!r:.80}"
    if value.get("format", FORMAT) != FORMAT:  # another version, which has different keys
        return f"format: {value['format']!r:.20}; this version of alexnet_dist reads {FORMAT}"
    missing = [field.name for field in fields(Manifest) if field.default is MISSING and field.name not in value]
    if missing:
        return f"{missing[0]}: Field required{f' (and {len(missing) - 1} more)' if missing[1:] else ''}"
    long_lists = {key: value[key] for key in _LONG_LISTS if isinstance(value[key], list)}
    if _is_large({key: content for key, content in value.items() if key not in long_lists}):
        return f"the whole file: more than {_MAX_VALUES} values outside {', '.join(_LONG_LISTS)}"
    for key, entries in long_lists.items():
        large = next((number for number, entry in enumerate(entries) if _is_large(entry)), None)
        if large is not None:
            return f"{key}.{large}: more than {_MAX_VALUES} values in one entry"
    return None


def _is_large(value: Any) -> bool:
    stack, count = [value], 0
    while stack:
        node = stack.pop()
        if isinstance(node, dict | list):
            count += len(node)
            if count > _MAX_VALUES:
                return True
            stack.extend(node.values() if isinstance(node, dict) else node)
    return False


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    actual = "" if first["type"] == "missing" else f", found {first['input']!r:.80}"
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key:.200}: {first['msg']}{actual}{others}"


def _inconsistency(manifest: Manifest) -> str | None:
    """Return which keys, each valid alone, are inconsistent with each other, or None."""
    total = sum(shard.images for shard in manifest.shards)
    if total != manifest.images:
        return f"images: {manifest.images}, but the shards' images add up to {total}"
    repeated = [name for name, count in Counter(shard.name for shard in manifest.shards).items() if count > 1]
    if repeated:
        return f"shards: {repeated[0]} is listed twice"
    names = [kind.name for kind in manifest.classes]
    if names != sorted(set(names)):
        return "classes: expected different names in sorted order, because a label is an index into this list"
    if manifest.size != manifest.options.size:
        return f"size: {manifest.size}, but options.size is {manifest.options.size}"
    if (manifest.split == "train") == (manifest.mean is None or manifest.colour is None):
        return f"mean and colour: expected for split train only, and the split is {manifest.split}"
    return None
