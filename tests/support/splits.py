"""A packed split that fits the runs of support.runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class
from alexnet_dist.data.reader import Split
from support.runs import CLASSES, SIZE

Pack = Callable[..., Path]


def with_classes(root: Path, names: list[str], split: str = "val") -> Split:
    """Return a split with other classes."""
    path = manifest.manifest_path(root, split)
    manifest.save(replace(manifest.load(path), classes=tuple(map(Class, names))), path)
    return Split.open(root, split)


def opened(pack: Pack, jpegs: list[bytes] | None = None, split: str = "val") -> Split:
    """Return a split of eight images with the classes of write_run's runs."""
    return with_classes(pack(jpegs, (5, 3), SIZE, split), [f"class-{label}" for label in range(CLASSES)], split)
