"""python -m alexnet_dist.figures RUN OUT/: draw a run: its net, kernels, curves, predictions, neighbours, activations.

net.png, conv1.png and curves.png need only the run directory; predictions.png, neighbours.png and activations.png also
need the held-out shards. With several runs, RUN RUN ... OUT/, only curves.png is drawn, with all runs on the same axes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import add_step_argument
from alexnet_dist.data.choices import SPLITS
from alexnet_dist.errors import UserError, run_command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEED_SHARDS = ("predictions.png", "neighbours.png", "activations.png")
REASONS = {
    "curves.png": "the run has logged nothing yet",
    "neighbours.png": "there is only one held-out image",
    "activations.png": "no layer of this net reads both towers",
}


def main(arguments: list[str]) -> None:
    """Parse the arguments, load the run, and draw and write its pictures."""
    options = _parser().parse_intermixed_args(arguments)
    # These import torch: --help does without it.
    from alexnet_dist.data.manifest import manifest_path
    from alexnet_dist.data.reader import Split
    from alexnet_dist.data.remote import locate
    from alexnet_dist.figures.page import blank_figure
    from alexnet_dist.figures.pictures import CURVES, draw_all, draw_runs
    from alexnet_dist.runs.directory import CONFIG
    from alexnet_dist.runs.load import load_run

    if (options.out / CONFIG).exists():
        raise UserError(f"{options.out}: a run; expected the folder for the pictures as the last argument: add it")
    blank_figure(1.0, 1.0)  # fail before a long load if matplotlib is missing
    if len(options.runs) > 1:
        if options.data is not None or options.step is not None:
            raise UserError("--data or --step with several runs, of which only curves are drawn; leave the option out")
        _write(draw_runs(options.runs), options.out / CURVES)
        return
    run = load_run(options.runs[0], options.step)
    data = run.config.data
    root = locate(options.data or data.root, data.cache, data.cache_bytes)
    has_shards = options.data is not None or not isinstance(root, Path) or manifest_path(root, options.split).exists()
    done = set()
    for name, figure in draw_all(run, Split.open(root, options.split) if has_shards else None):
        _write(figure, options.out / name)
        done.add(name)
    if not has_shards:
        folder = root.absolute() if isinstance(root, Path) else root
        print(f"{', '.join(NEED_SHARDS)} skipped: no shards of {options.split} in {folder}; pass --data")
        done.update(NEED_SHARDS)
    for name, reason in REASONS.items():
        if name not in done:
            print(f"{name} skipped: {reason}")


def _write(figure: Figure, path: Path) -> None:
    """Write a picture and print its path. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor="white")
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written: {error.strerror}; choose another folder") from None
    print(path, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.figures", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory; of several, curves are drawn")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split to take images from (default: val)")
    add_step_argument(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
