"""Where the demo reads and writes, and that it replaces only what an earlier demo made."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.errors import UserError

MARKER = ".made-by-demo"


@dataclass(frozen=True)
class Places:
    """images: the user's folder, or where images are drawn. work: all the demo makes beside the run."""

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


def prepare(run: Path, data: Path | None) -> Places:
    """Clear away what an earlier demo made in the same place and return the places, `work` there and marked.

    Raises UserError when a directory in the way is not the demo's, or when it and the user's folder overlap.
    """
    work = run.with_name(f"{run.name}-data")
    if data is not None:
        _keep_apart(data, run, work)
    for directory in (run, work):
        if directory.exists() and not (directory / MARKER).is_file():
            raise UserError(
                f"{directory} stays as it is: the demo did not make it (there is no {MARKER} in it);"
                " move it away, or choose another place: python -m alexnet_dist.demo --run FOLDER"
            )
    try:
        for directory in (run, work):
            if directory.exists():
                shutil.rmtree(directory)
        work.mkdir(parents=True)
        mark(work)
    except OSError as problem:
        raise UserError(
            f"{problem.filename}: {problem.strerror}; change its permissions, or choose another place:"
            " python -m alexnet_dist.demo --run FOLDER"
        ) from None
    return Places(run, work, work / "images" if data is None else data)


def _keep_apart(data: Path, run: Path, work: Path) -> None:
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; expected one with train/ and val/ in it, or with a folder a class")
    for made in (run, work):
        inner, outer = made.resolve(), data.resolve()
        if inner.is_relative_to(outer) or outer.is_relative_to(inner):
            raise UserError(
                f"{data}: the demo would write to {made}, which overlaps it; choose another place:"
                " python -m alexnet_dist.demo --data FOLDER --run ELSEWHERE"
            )


def mark(directory: Path) -> None:
    """Mark a directory as the demo's, which the next demo may replace."""
    (directory / MARKER).write_text("Made by `make demo`; the next one replaces this folder.\n")


def has_held_out(folder: Path) -> bool:
    """Return whether a folder of images is divided already, into train/ and val/ or test/."""
    return (folder / "train").is_dir() and any((folder / name).is_dir() for name in ("val", "test"))


def example(folder: Path) -> Path | None:
    """Return one image of a folder, held out if it can be told from the folder alone."""
    held_out = folder / "val"
    paths = (held_out if held_out.is_dir() else folder).rglob("*")
    return next((path for path in paths if path.suffix.lower() in (".jpg", ".jpeg", ".png")), None)
