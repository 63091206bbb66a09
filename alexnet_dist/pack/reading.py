"""One container of a stream, read by one process: its images are made into training JPEGs as they come."""

from __future__ import annotations

import io
import os
import time
from typing import Any

from alexnet_dist.data.manifest import Options, Rejected
from alexnet_dist.data.transform import UnusableImageError, one_thread, training_image
from alexnet_dist.files import sync_folder
from alexnet_dist.pack import spool
from alexnet_dist.pack.adder import Adder
from alexnet_dist.pack.sources.huggingface import Met, meet
from alexnet_dist.pack.sources.source import LARGEST_FILE_BYTES, TOO_LARGE
from alexnet_dist.pack.spool import Spooled, Unit

PROGRESS_S = 0.5  # between two notes of how far a container is read


def finish_unit(unit: Unit) -> int:
    """Read a container and write its JPEGs and record, unless both are there; return the images it held.

    Raises UserError naming a container that is damaged, and OSError for a disk that cannot be written.
    """
    there = spool.load(unit)
    if there is not None:
        return len(there.rows)
    temporary = unit.file(".bin.tmp")
    rows: list[list[Any]] = []
    rejected: list[Rejected] = []
    adder = Adder(unit.options.size) if unit.adds_up else None
    noted_s = 0.0
    with one_thread(), temporary.open("wb") as file:
        for met in meet(unit.path, unit.kind):
            if met.problem is not None:
                rejected.append(Rejected(met.name, met.problem))
                continue
            reason = _take(met, unit.options, file, adder)
            start = rows[-1][3] + rows[-1][4] if rows else 0
            rows.append([met.name, met.kind, met.size_bytes, start, file.tell() - start, reason])
            if time.monotonic() - noted_s > PROGRESS_S:
                unit.file(".at").write_text(str(met.at_bytes))
                noted_s = time.monotonic()
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(unit.file(".bin"))
    sync_folder(unit.folder)
    spool.save(unit, Spooled(rows, tuple(rejected), None if adder is None else adder.sums()))
    return len(rows)


def _take(met: Met, options: Options, file: io.BufferedWriter, adder: Adder | None) -> str | None:
    """Write an image's training JPEG; return why it has none, or None."""
    if met.size_bytes > LARGEST_FILE_BYTES:
        return TOO_LARGE
    try:
        jpeg, pixels = training_image(met.data, options)
    except UnusableImageError as error:
        return str(error)
    file.write(jpeg)
    if adder is not None:
        adder.add(pixels)
    return None
