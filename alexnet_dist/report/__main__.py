"""python -m alexnet_dist.report RUN [RUN ...]: a page about a run, or about several on the same axes.

Without --live it is one self-contained file, RUN/report.html. With --live a local page shows the same of runs that are
active, and the phases of their ranks, and is drawn again every few seconds.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from alexnet_dist.config.arguments import PORT, add_port_argument
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.system.local_page import serve


def main(arguments: list[str]) -> None:
    """Parse, read the runs, and write the report or serve the live page."""
    parsed = _parser().parse_intermixed_args(arguments)
    if parsed.live and (parsed.out is not None or parsed.data is not None):
        raise UserError("--live: expected without --out and --data: it writes no file and shows no predictions")
    if parsed.port is not None and not parsed.live:
        raise UserError("--port: expected with --live alone")
    if not parsed.live and parsed.out is None and len(parsed.runs) > 1:
        raise UserError(f"{len(parsed.runs)} runs without --out; expected --out FILE, such as --out report.html")
    # These import torch: --help does without it.
    if parsed.live:
        from alexnet_dist.figures.curves import run_names
        from alexnet_dist.report.history import read_history
        from alexnet_dist.report.live import Live

        names = run_names(parsed.runs)
        for directory, name in zip(parsed.runs, names, strict=True):
            read_history(directory, name)  # what is no run is refused at once
        serve(partial(Live, parsed.runs, names), PORT if parsed.port is None else parsed.port)
        return
    from alexnet_dist.report.written import write_report
    from alexnet_dist.runs.directory import REPORT

    path = parsed.out or parsed.runs[0] / REPORT
    write_report(parsed.runs, path, parsed.data)
    print(path, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory, of a live or finished run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: report.html in the run)")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--live", action="store_true", help="open a local page instead, drawn again every few seconds")
    add_port_argument(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
