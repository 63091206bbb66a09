"""The command behind ``make demo``: the whole workflow, from images to pictures of a trained net, on a CPU.

python -m alexnet_dist.demo [--data FOLDER] [--run runs/demo]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alexnet_dist.demo.summary import report
from alexnet_dist.errors import run_command


def main(arguments: list[str]) -> None:
    """Parse the arguments, run the demo and print its report."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.demo",
        description="Draw images (or use yours), pack them, train 2 replicas of 2 linked towers, evaluate, draw"
        " figures.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="your images: train/ and val/ with one folder per class in each, or one folder per class without a split,"
        " of which a tenth is held out; nothing is written to it",
    )
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/demo"),
        metavar="FOLDER",
        help="run directory (default: runs/demo); if it exists, it stays, and the demo writes to FOLDER-2 and so on",
    )
    options = parser.parse_args(arguments)
    from alexnet_dist.demo.workflow import run_demo  # imports torch: --help does without it

    print(report(run_demo(options.run, options.data)), end="")


if __name__ == "__main__":
    sys.exit(run_command(main))
