"""Names: of layouts, of splits in the names of files and folders, and the text of file names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from alexnet_dist.data.choices import SplitName

PARQUET, TAR_GZ = "parquet", "huggingface-tar"
LAYOUTS = ("auto", "folder", "ilsvrc2012", "ilsvrc2010", "kaggle", PARQUET, TAR_GZ, "webdataset", "list")
# The names in use for each split, preferred first.
SPLIT_NAMES: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
# Words beside that of the split, as in train_images, valset and ILSVRC2012_img_val.
BESIDE_SPLIT = frozenset(("set", "split", "data", "dataset", "image", "images", "img", "imgs", "ilsvrc", "imagenet"))

ARCHIVE_ENDINGS = (".tar", ".gz", ".tgz", ".zip", ".parquet")


def split_of(name: str) -> SplitName | None:
    """Return the split that a folder is named for, in any case, such as train for Training_set; None if for none."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in BESIDE_SPLIT]
    if len(words) != 1:
        return None
    word = words[0].removesuffix("set")
    return next((split for split, names in SPLIT_NAMES.items() if word in names), None)


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


def listed(names: list[str], most: int = 3) -> str:
    """Return names for a message, the first `most` of them, as in "a, b and 5 more"."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
