"""The records of a run, JSON lines that it appends while it trains; without room on the disk they wait in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet_dist.errors import PermanentError
from alexnet_dist.runs.directory import EVALUATIONS
from alexnet_dist.system.files import without_links


class Records:
    """Appends whole lines to the files of one run directory."""

    def __init__(self, directory: Path) -> None:
        """Begin with no line that waits."""
        self._directory = directory
        self._waiting: dict[str, list[str]] = {}

    @property
    def waiting(self) -> int:
        """Lines that have found no room so far."""
        return sum(map(len, self._waiting.values()))

    def append(self, name: str, value: Mapping[str, Any]) -> str:
        """Append a line to a file, after those that wait for room; return why they could not be written, or nothing.

        Raises PermanentError if the directory has been removed: a restart would begin a new run in its place.
        """
        self._waiting.setdefault(name, []).append(json.dumps(value) + "\n")
        return self.flush(name)

    def flush(self, name: str) -> str:
        """Write the lines of a file that wait; return why they could not be written, or nothing."""
        lines = self._waiting.get(name, [])
        try:
            append_whole(self._directory / name, "".join(lines).encode(), durable=name == EVALUATIONS)
        except FileNotFoundError:
            raise PermanentError(f"{self._directory}: removed while it was in use") from None
        except OSError as error:
            return f"{self._directory / name}: {error.strerror}"
        self._waiting.pop(name, None)
        return ""

    def flush_all(self) -> str:
        """Write all lines that wait; return the first reason why some could not be written, or nothing."""
        return next((problem for name in list(self._waiting) if (problem := self.flush(name))), "")


def append_whole(path: Path, content: bytes, durable: bool = False) -> None:
    """Append all of the content to a file, or nothing; sync it to disk if it is to be durable. Raises OSError."""
    with open(path, "ab", buffering=0, opener=without_links) as file:
        size_bytes = file.seek(0, 2)
        try:
            written = 0
            while written < len(content):
                written += file.write(content[written:])
            if durable:  # the checkpoint's manifest will say that it was evaluated
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # not a regular file
                file.truncate(size_bytes)
            raise
