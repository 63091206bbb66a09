"""Names: of layouts, of splits in file names, and the text of file names."""

from __future__ import annotations

import os
from collections.abc import Mapping

from alexnet_dist.data.choices import SplitName

PARQUET, TAR_GZ = "parquet", "huggingface-tar"
LAYOUTS = ("auto", "folder", "ilsvrc2012", "ilsvrc2010", "kaggle", PARQUET, TAR_GZ, "webdataset", "list")
# The names in use for each split, preferred first.
SPLIT_NAMES: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test",),
}


def base_name(name: str) -> str:
    """Return the last part of the name of a file in a folder or archive."""
    return name.rpartition("/")[2]


def is_utf8(name: str) -> bool:
    """Return whether a file name is UTF-8; Python represents any other bytes in it as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """Return a file name as text that every JSON reader accepts: bytes that are not UTF-8 are escaped as in \\xff."""
    return os.fsencode(name).decode(errors="backslashreplace")
