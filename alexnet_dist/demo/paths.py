"""Paths that the demo reads and writes; it chooses names that are free, and changes nothing that exists."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.errors import UserError

# Names of the folders of a split, in any case, also with `set` or a hyphen: `Training-Set`.
VAL_NAMES, TEST_NAMES = ("val", "valid", "validation"), ("test", "testing")
ELSEWHERE = "choose another directory: python -m alexnet_dist.demo --run FOLDER"


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
    """Create `work` beside the run directory and return the paths; if either name is taken, both get a number.

    What an earlier demo, or anything else, left there stays as it is, and a line is printed. Raises UserError if `data`
    is no folder, if the output would be written into it, or if `work` cannot be created.
    """
    if data is not None and not data.is_dir():
        raise UserError(f"{data}: no such folder; expected a folder with train/ and val/, or with one folder per class")
    try:
        if run.name in ("", ".."):
            run = run.resolve()
        if data is not None:
            next(data.iterdir(), None)  # it can be read
        free, number = run, 1
        while True:
            work = free.with_name(f"{free.name}-data")
            if not _is_taken(free):
                if data is not None:
                    _check_outside(data, free, work)
                if _create(work):
                    break
            number += 1
            free = run.with_name(f"{run.name}-{number}")
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; change its permissions, or {ELSEWHERE}") from None
    if number > 1:
        print(f"{run} or {run.name}-data exists and stays; this demo writes {free} and {work}", flush=True)
    return DemoPaths(free, work, work / "images" if data is None else data)


def discard(paths: DemoPaths) -> None:
    """Remove the output of a demo that fails before it trains, so that the next one can have its names."""
    shutil.rmtree(paths.work, ignore_errors=True)


def _is_taken(directory: Path) -> bool:
    return directory.is_symlink() or (directory.exists() and not (directory.is_dir() and not any(directory.iterdir())))


def _create(directory: Path) -> bool:
    """Create a directory; return False if there is one, which may be that of a demo that runs now."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


def _check_outside(data: Path, run: Path, work: Path) -> None:
    """Raise UserError if an output that does not exist yet would be created in the user's folder."""
    for output in (run, work):
        if output.resolve().is_relative_to(data.resolve()):
            raise UserError(f"{data}: the demo would write to {output}, which is inside it; {ELSEWHERE}")


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in folders if re.sub("[^a-z]", "", path.name.lower()).removesuffix("set") in names]


def example_image(folder: Path) -> Path | None:
    """Return one image of a folder, a held-out one if they are apart, or None if there is no JPEG or PNG."""
    held_out = [*_named(folder, VAL_NAMES), *_named(folder, TEST_NAMES)]
    paths = (held_out or [folder])[0].rglob("*")
    return next((path for path in paths if path.suffix.lower() in (".jpg", ".jpeg", ".png")), None)
