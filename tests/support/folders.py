"""Folders of small images drawn from a seed, and how tests list and pack them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Options
from alexnet_dist.pack.request import PackRequest
from alexnet_dist.pack.sources.layouts import list_split
from alexnet_dist.pack.sources.listing import ImageSource
from alexnet_dist.pack.sources.options import BY_ITSELF, ReadOptions

SIZE = 16
OPTIONS = Options(seed=0, size=SIZE, quality=90, chroma="420", filter="bicubic", samples_per_shard=5, holdout=None)


def photo(seed: int, height: int = 20, width: int = 24) -> npt.NDArray[np.uint8]:
    """Draw a colour gradient with a little noise, (height, width, 3)."""
    random = np.random.default_rng(seed)
    rise = np.linspace(0, 100, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    return (random.uniform(0, 60, 3) + rise + random.uniform(0, 30, (height, width, 3))).astype(np.uint8)


def encoded(image: npt.NDArray[Any] | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return the bytes of an image file that Pillow writes."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def write_folder(root: Path, classes: Mapping[str, int], seed: int = 0) -> Path:
    """Write class folders with these numbers of images, of several sizes, and return their parent folder."""
    number = 1000 * seed
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(images):
            number += 1
            pixels = photo(number, 14 + number % 9, 14 + number % 7)
            (root / name / f"{index:03d}.jpg").write_bytes(encoded(pixels))
    return root


def image_source(
    root: Path,
    split: SplitName | None = None,
    *,
    layout: str = "auto",
    holdout: float | None = None,
    seed: int = 0,
    train_classes: tuple[str, ...] | None = None,
) -> ImageSource:
    """Return the listing of a split, not of a stream; by default of val if there are `train_classes`, else of train."""
    split = split or ("train" if train_classes is None else "val")
    source = list_split(root, layout, split, holdout, seed, train_classes)
    assert isinstance(source, ImageSource)
    return source


def request(
    source: Path,
    out: Path,
    split: SplitName = "train",
    *,
    layout: str = "auto",
    processes: int = 1,
    max_rejected: int | None = None,
    reading: ReadOptions = BY_ITSELF,
    **options: Any,
) -> PackRequest:
    """Return a request to pack small images, five per shard."""
    return PackRequest(source, out, split, replace(OPTIONS, **options), layout, processes, max_rejected, reading)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file below a folder, by its relative path; without the lock file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".pack.lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def extract(path: Path, folder: Path) -> None:
    """Write the files of a flat tar into a folder; TarFile.extractall warns or fails, depending on Python's version."""
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            (folder / member.name).write_bytes(content.read())
