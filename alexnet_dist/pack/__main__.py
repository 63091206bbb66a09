"""The command ``python -m alexnet_dist.pack SOURCE OUT``: its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from alexnet_dist.data.choices import SPLITS, Chroma, Filter
from alexnet_dist.errors import run_command
from alexnet_dist.pack.sources.names import LAYOUTS
from alexnet_dist.system import resources


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
        epilog="Every file, member or row of SOURCE is packed, or rejected and listed with its reason in the manifest, "
        "or is no sample by a rule that the summary names; the last line of output has these numbers. A class without "
        "any usable image, a SOURCE that lacks parts it names, and one with two readings are errors.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=Path,
        metavar="SOURCE",
        help="the images: class folders, or train/ and val/ of them; a folder with the files of ILSVRC, Kaggle or "
        "Hugging Face, or with WebDataset shards; or a list with an image, a tab and its class on each line; for "
        "example /data/imagenet",
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the folder for the shards of both splits, for example shards"
    )
    _add_set_options(parser)
    _add_encoding_options(parser)
    _add_reading_options(parser)
    _add_run_options(parser)
    return parser


def _add_set_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is packed")
    group.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="the split to pack into OUT; run the command once for each, for example --split val (default: train)",
    )
    group.add_argument(
        "--holdout",
        type=_fraction,
        metavar="F",
        help="divide a SOURCE that has only one split: the fraction F of each class is val, the rest is train; give it "
        "for both splits, for example --holdout 0.1 (default: no division)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="the seed of the order of the images in the shards and of the holdout, for example --seed 1 (default: 0)",
    )
    group.add_argument(
        "--samples-per-shard",
        type=_whole(1, 1_000_000),
        default=1000,
        metavar="N",
        help="the number of source images per shard, of which rejected ones are left out, for example "
        "--samples-per-shard 500 (default: 1000)",
    )


def _add_encoding_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how images are encoded; give the same for train and val")
    group.add_argument(
        "--size",
        type=_whole(8, 2048),
        default=256,
        metavar="N",
        help="the side of the packed square images in pixels, for example --size 64 (default: 256)",
    )
    group.add_argument(
        "--quality",
        type=_whole(1, 100),
        default=90,
        metavar="N",
        help="the quality of the packed JPEGs, from 1 to 100, for example --quality 95 (default: 90)",
    )
    group.add_argument(
        "--chroma",
        choices=get_args(Chroma),
        default="420",
        help="the chroma subsampling of the packed JPEGs, for example --chroma 444 for none (default: 420)",
    )
    group.add_argument(
        "--filter",
        choices=get_args(Filter),
        default="bicubic",
        help="the filter of the antialiased resize, for example --filter bilinear (default: bicubic)",
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how SOURCE is read")
    group.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="auto",
        help="the layout of SOURCE, for example --layout folder (default: auto, detected from its files)",
    )
    group.add_argument(
        "--image-field",
        metavar="FIELD",
        help="the field of the image in a sample of shards, which is what follows the key in a member's name, for "
        "example --image-field input.jpg (default: detected)",
    )
    group.add_argument(
        "--label-field",
        metavar="FIELD",
        help="the field of the label in a sample of shards, or a key in a .json member, for example --label-field "
        "outputs.cls or --label-field json:label (default: cls)",
    )
    group.add_argument(
        "--image-column",
        metavar="NAME",
        help="the column of a parquet file that holds the images, for example --image-column img (default: image)",
    )
    group.add_argument(
        "--label-column",
        metavar="NAME",
        help="the column of a parquet file that holds the labels, whole numbers that the metadata may name, for "
        "example --label-column fine_label (default: label, and a WordNet id in an image's name goes before it)",
    )
    group.add_argument(
        "--allow-missing",
        action="store_true",
        help="pack a SOURCE that lacks parts which it names, for example train-00001-of-00003.parquet, and list them "
        "in the summary (default: such a SOURCE is an error)",
    )
    group.add_argument(
        "--max-rejected",
        type=_whole(0, 1 << 62),
        metavar="N",
        help="stop with an error if more than N files are rejected, for example --max-rejected 0 (default: no limit)",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the command runs")
    group.add_argument(
        "--processes",
        type=_whole(1, 1024),
        default=resources.cores(),
        metavar="N",
        help="the number of processes that read and pack images; the bytes do not depend on it, for example "
        "--processes 8 (default: one per CPU core)",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="read the packed split again and check every hash, for example pack OUT --verify, which needs no SOURCE "
        "(default: do not verify)",
    )


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
