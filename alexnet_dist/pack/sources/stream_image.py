"""An image as a stream yields it, and the class in its name."""

from __future__ import annotations

import re
from typing import NamedTuple

NAME_WITH_CLASS = re.compile(r"(.+)_(n\d{8})(\.\w+)$")


class StreamImage(NamedTuple):
    """An image read from a container.

    name: ``class/file``; the name in the container if the class is not known, which is "" then. problem: why it cannot
    be an image; `data` is empty then, and for an image above LARGEST_FILE_BYTES. container_read_bytes: how much of the
    container has been read.
    """

    name: str
    class_name: str
    data: bytes
    size_bytes: int
    problem: str | None
    container_read_bytes: int = 0


def split_name(name: str) -> tuple[str, str]:
    """Split ``x_n01440764.JPEG`` into n01440764 and x.JPEG; the class is empty if the name has none."""
    match = NAME_WITH_CLASS.match(name)
    return (match[2], f"{match[1]}{match[3]}") if match else ("", name)
