"""python -m alexnet_dist.show SHARDS: print a summary of a packed split and write a sheet of its samples as a PNG.

Training samples are shown as the net sees them: cropped, flipped and colour-shifted with the same random numbers as in
training, for a seed and an epoch. The mean image is not subtracted, and values are clipped to 0 to 255.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alexnet_dist.data.choices import SPLITS
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.system.wording import counted


def main(arguments: list[str]) -> None:
    """Parse the arguments, print the summary and write the sheet.

    Raises UserError for bad arguments, an unreadable split or an unwritable output file.
    """
    options = _parser().parse_args(arguments)
    # These import torch: --help does without it.
    from alexnet_dist.config import Config
    from alexnet_dist.data.reader import Split
    from alexnet_dist.data.remote import locate
    from alexnet_dist.show.samples import sample_pictures
    from alexnet_dist.show.sheet import sheet
    from alexnet_dist.show.summary import summary

    defaults = Config().data
    root = locate(options.shards, defaults.cache, defaults.cache_bytes)
    split = Split.open(root, options.split)
    size = split.manifest.size
    crop = size * 7 // 8 if options.crop is None else options.crop
    for name, value, maximum in (
        ("count", options.count, 1000),
        ("crop", crop, size),
        ("epoch", options.epoch, 1 << 31),
    ):
        minimum = 0 if name == "epoch" else 1
        if not minimum <= value <= maximum:
            raise UserError(f"--{name}: {value}; expected {minimum:,} to {maximum:,}")
    print(summary(split), flush=True)  # before the pictures, since a remote set is slow to read
    samples = sample_pictures(split, options.count, options.seed, options.epoch, crop)
    title = f"{Path(options.shards).resolve().name}: {options.split}, {split.images:,} images"
    processing = "cropped, flipped, colours shifted" if options.split == "train" else "centre crop"
    subtitle = (
        f"as the net sees them: {crop} of {size} pixels, {processing}; seed {options.seed}, epoch {options.epoch}"
    )
    try:
        sheet(samples, title, subtitle).save(options.out, format="PNG")
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written: {error.strerror}; choose another --out") from None
    print(f"{counted(len(samples.pictures), 'picture')} in {options.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.show", description=__doc__)
    parser.add_argument(
        "shards",
        metavar="SHARDS",
        help="folder or URL of a packed set; for a remote set, the shard of each picture is downloaded",
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="PNG", help="default: sheet.png")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="number of pictures (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="for choosing and augmenting samples (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="of the augmentation; the samples stay (default: 0)")
    parser.add_argument(
        "--crop", type=int, metavar="PIXELS", help="side of a picture (default: 7/8 of the packed size)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
