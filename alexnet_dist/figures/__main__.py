"""python -m alexnet_dist.figures RUN OUT/: draw a run's curves, kernels, predictions and nearest neighbours.

curves.png and conv1.png need only the run directory; predictions.png and neighbours.png also need the held-out shards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alexnet_dist.data.choices import SPLITS
from alexnet_dist.errors import UserError, run_command


def main(arguments: list[str]) -> None:
    """Parse the arguments, load the run, and draw and write its pictures."""
    options = _parser().parse_args(arguments)
    # These import torch: --help does without it.
    from alexnet_dist.data.manifest import manifest_path
    from alexnet_dist.data.reader import Split
    from alexnet_dist.data.remote import locate
    from alexnet_dist.figures.drawing import new_figure
    from alexnet_dist.figures.pictures import draw_all
    from alexnet_dist.runs.load import load_run

    new_figure(1.0, 1.0)  # fail before a long load if matplotlib is missing
    run = load_run(options.run, options.step)
    data = run.config.data
    root = locate(options.data or data.root, data.cache, data.cache_bytes)
    has_shards = options.data is not None or not isinstance(root, Path) or manifest_path(root, options.split).exists()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, figure in draw_all(run, Split.open(root, options.split) if has_shards else None).items():
            figure.savefig(options.out / name, facecolor="white")
            print(options.out / name)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written: {error.strerror}; choose another folder") from None
    if not has_shards:
        folder = root.absolute() if isinstance(root, Path) else root
        print(f"predictions.png and neighbours.png skipped: no shards of {options.split} in {folder}; pass --data")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.figures", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split to take images from (default: val)")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest complete one")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
