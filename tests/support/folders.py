"""Folders of small images to pack, drawn from a seed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_dist.data.manifest import Options, SplitName
from alexnet_dist.pack.state import Request

SIZE = 16
OPTIONS = Options(seed=0, size=SIZE, quality=90, chroma="420", filter="bicubic", samples_per_shard=5, holdout=None)


def photo(seed: int, height: int = 20, width: int = 24) -> npt.NDArray[np.uint8]:
    """Draw a colour gradient with a little noise, (height, width, 3)."""
    random = np.random.default_rng(seed)
    rise = np.linspace(0, 100, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    return (random.uniform(0, 60, 3) + rise + random.uniform(0, 30, (height, width, 3))).astype(np.uint8)


def encoded(image: npt.NDArray[Any] | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return an image file's bytes, written by Pillow."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def write_folder(root: Path, classes: Mapping[str, int], seed: int = 0) -> Path:
    """Write class folders with so many images each, of several sizes, and return their folder."""
    number = 1000 * seed
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for place in range(images):
            number += 1
            pixels = photo(number, 14 + number % 9, 14 + number % 7)
            (root / name / f"{place:03d}.jpg").write_bytes(encoded(pixels))
    return root


def request(
    source: Path,
    out: Path,
    split: SplitName = "train",
    *,
    layout: str = "auto",
    processes: int = 1,
    max_rejected: int | None = None,
    **options: Any,
) -> Request:
    """Return a request to pack small images, five a shard."""
    given = replace(OPTIONS, **options)
    return Request(source, out, split, given, layout, processes, max_rejected)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with their bytes, but the lock."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".pack.lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
