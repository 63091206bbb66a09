"""The command ``python -m alexnet_dist.pack SOURCE OUT``: its options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from alexnet_dist.data.choices import SPLITS, Chroma, Filter
from alexnet_dist.errors import run_command
from alexnet_dist.pack.sources.names import LAYOUTS


def main(argv: list[str]) -> None:
    """Pack or verify a split; the last line of stdout is one JSON object. Raises UserError."""
    # OUT may follow options. There parse_args would take SOURCE for OUT, because SOURCE is optional.
    arguments = _parser().parse_intermixed_args(argv)
    from alexnet_dist.pack.command import run  # imports much: --help does without it

    run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.pack",
        description="Pack images into shards: square JPEGs of one size in WebDataset tars, with a manifest. If the "
        "command is killed at any point, running it again resumes the work and ends with the same bytes.",
        epilog="A file that is not a usable image is skipped and listed with its reason in the manifest; a class "
        "without any usable image is an error.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=Path,
        metavar="SOURCE",
        help="the images: class folders, or train/ and val/ of them; a folder with the files of ILSVRC, Kaggle or "
        "Hugging Face, or with WebDataset shards; or a list with an image, a tab and its class on each line",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for the shards of both splits")
    parser.add_argument("--split", choices=SPLITS, default="train", help="the split to pack (default: train)")
    parser.add_argument(
        "--size", type=_whole(8, 2048), default=256, help="side of the packed square images, in pixels (default: 256)"
    )
    parser.add_argument(
        "--samples-per-shard",
        type=_whole(1, 1_000_000),
        default=1000,
        metavar="N",
        help="source files per shard, of which rejected ones are left out (default: 1000)",
    )
    parser.add_argument(
        "--processes",
        type=_whole(1, 1024),
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of processes that read and pack images (default: one per CPU core)",
    )
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="auto", help="layout of SOURCE (default: auto, detected from its files)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the order of the images and of the holdout (default: 0)"
    )
    parser.add_argument(
        "--holdout",
        type=_fraction,
        metavar="F",
        help="divide a SOURCE that has only one split: the fraction F of each class is val, the rest is train; pass it "
        "for both splits (default: no division)",
    )
    parser.add_argument(
        "--quality", type=_whole(1, 100), default=90, help="quality of the JPEGs, from 1 to 100 (default: 90)"
    )
    parser.add_argument(
        "--chroma", choices=get_args(Chroma), default="420", help="chroma subsampling of the JPEGs (default: 420)"
    )
    parser.add_argument(
        "--filter",
        choices=get_args(Filter),
        default="bicubic",
        help="filter of the antialiased resize (default: bicubic)",
    )
    parser.add_argument(
        "--max-rejected",
        type=_whole(0, 1 << 62),
        metavar="N",
        help="stop if more than N files are rejected (default: no limit)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read the packed split again and check every hash; without SOURCE, only verify (default: do not verify)",
    )
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` to `most`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text}: expected {least} to {most}")
        return number

    return whole_number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a fraction between 0 and 1, such as 0.1")
    return number


if __name__ == "__main__":
    sys.exit(run_command(main))
