"""The report as a file: written on demand, or by a run at its end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.figures.curves import run_names
from alexnet_dist.report.history import read_history
from alexnet_dist.report.net import net_pictures
from alexnet_dist.report.page import file_page
from alexnet_dist.runs.directory import REPORT
from alexnet_dist.system.files import replace_file


def write_report(directories: Sequence[Path], path: Path, data: str | None, with_held_out: bool = True) -> None:
    """Write the report of some runs. Raises UserError if one cannot be read, or the file cannot be written.

    data: as for `net_pictures`. with_held_out: whether it shows held-out images, which have to be decoded.
    """
    names = run_names(directories)
    histories = [read_history(directory, name) for directory, name in zip(directories, names, strict=True)]
    nets = [net_pictures(directory, data, with_held_out) for directory in directories]
    text = file_page(histories, nets)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode("utf-8", "backslashreplace"))  # a file name need not be UTF-8
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from None


def write_at_end(directory: Path) -> None:
    """Write the report of a run that has just finished, without held-out images; a failure is one warning."""
    command = f"python -m alexnet_dist.report {shlex.quote(str(directory))}"
    try:
        write_report([directory], directory / REPORT, None, with_held_out=False)
    except Exception as error:  # the run is finished, whatever this is
        print(f"warning: {REPORT} is not written: {error}; {command} tries again", file=sys.stderr, flush=True)
    else:
        print(f"report: {directory / REPORT} ({command} adds predictions and neighbours)", flush=True)
