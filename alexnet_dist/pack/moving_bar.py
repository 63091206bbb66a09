"""A bar that moves within a shard: how many files of each shard are done, counted in memory that processes share."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

COUNT_BYTES = 8
EVERY_S = 0.2


def note_done(counts: Path | None, shard: int, done: int) -> None:
    """Note how many files of a shard are done, in any process of the command; None: nobody looks."""
    if counts is None:
        return
    with suppress(OSError):  # a bar that stands still ends no packing
        descriptor = os.open(counts, os.O_WRONLY)
        try:
            os.pwrite(descriptor, array("q", [done]).tobytes(), COUNT_BYTES * shard)
        finally:
            os.close(descriptor)


@contextmanager
def moving_bar(name: str, files: int, shards: int) -> Iterator[Path]:
    """Show a bar for the files of all shards, and yield the path for `note_done`; nothing is left of it on a disk."""
    memory = os.memfd_create("alexnet_dist")
    os.truncate(memory, COUNT_BYTES * shards)
    ended = threading.Event()
    with tqdm(total=files, unit=" images", desc=name, dynamic_ncols=True, miniters=1) as bar:

        def show() -> None:
            while not ended.wait(EVERY_S):
                bar.update(_done(memory, shards) - bar.n)

        thread = threading.Thread(target=show, name="bar", daemon=True)
        thread.start()
        try:
            yield Path(f"/proc/{os.getpid()}/fd/{memory}")
        finally:
            ended.set()
            thread.join()
            bar.update(_done(memory, shards) - bar.n)
            os.close(memory)


def _done(memory: int, shards: int) -> int:
    return sum(array("q", os.pread(memory, COUNT_BYTES * shards, 0)))
