"""Paths that the demo reads and writes; it deletes only directories that an earlier demo created."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.errors import UserError

MARKER = ".made-by-demo"


@dataclass(frozen=True)
class DemoPaths:
    """run: the run directory. work: all other output. images: the user's folder, or a folder of `work` if drawn."""

    run: Path
    work: Path
    images: Path

    @property
    def shards(self) -> Path:
        """The packed images."""
        return self.work / "shards"

    @property
    def figures(self) -> Path:
        """The pictures of the run."""
        return self.run / "figures"


def prepare(run: Path, data: Path | None) -> DemoPaths:
    """Delete the output of an earlier demo at the same path, create and mark `work`, and return the paths.

    Raises UserError if an existing directory was not created by the demo, or if one overlaps the user's folder.
    """
    work = run.with_name(f"{run.name}-data")
    if data is not None:
        _check_no_overlap(data, run, work)
    for directory in (run, work):
        if directory.exists() and not (directory / MARKER).is_file():
            raise UserError(
                f"{directory} is left unchanged: the demo did not create it (it contains no {MARKER});"
                " move it away, or choose another directory: python -m alexnet_dist.demo --run FOLDER"
            )
    try:
        for directory in (run, work):
            if directory.exists():
                shutil.rmtree(directory)
        work.mkdir(parents=True)
        mark_as_demo(work)
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}; change its permissions, or choose another directory:"
            " python -m alexnet_dist.demo --run FOLDER"
        ) from None
    return DemoPaths(run, work, work / "images" if data is None else data)


def _check_no_overlap(data: Path, run: Path, work: Path) -> None:
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; expected a folder with train/ and val/, or with one folder per class")
    for output in (run, work):
        output_path, data_path = output.resolve(), data.resolve()
        if output_path.is_relative_to(data_path) or data_path.is_relative_to(output_path):
            raise UserError(
                f"{data}: the demo would write to {output}, which overlaps it; choose another run directory:"
                " python -m alexnet_dist.demo --data FOLDER --run ELSEWHERE"
            )


def mark_as_demo(directory: Path) -> None:
    """Mark a directory as created by the demo; the next demo may delete it."""
    (directory / MARKER).write_text("Created by `make demo`; the next demo deletes this folder.\n")


def has_held_out(folder: Path) -> bool:
    """Return whether a folder of images is already split into train/ and val/ or test/."""
    return (folder / "train").is_dir() and any((folder / name).is_dir() for name in ("val", "test"))


def example_image(folder: Path) -> Path | None:
    """Return one image of a folder, from val/ if it exists, or None if there is no JPEG or PNG."""
    held_out = folder / "val"
    paths = (held_out if held_out.is_dir() else folder).rglob("*")
    return next((path for path in paths if path.suffix.lower() in (".jpg", ".jpeg", ".png")), None)
