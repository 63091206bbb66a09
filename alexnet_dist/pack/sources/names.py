"""What names say: of which split something is, and whether they are text at all."""

from __future__ import annotations

import os
from collections.abc import Mapping

from alexnet_dist.data.manifest import SplitName

# What a split is called, the best name first.
SPLIT_NAMES: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test",),
}


def is_text(name: str) -> bool:
    """Tell whether a file's name is UTF-8; Python hands on one that is not with surrogates in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """Return a file name as text that any JSON reader takes: bytes that are not UTF-8 become \\xff and the like."""
    return os.fsencode(name).decode(errors="backslashreplace")
