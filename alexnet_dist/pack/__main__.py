"""The command ``python -m alexnet_dist.pack SOURCE OUT``: its arguments, its summary and its line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from alexnet_dist.data.manifest import SPLITS, Chroma, Filter, Manifest, Options
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.pack.assemble import list_reasons
from alexnet_dist.pack.run import pack
from alexnet_dist.pack.sources.layouts import LAYOUTS
from alexnet_dist.pack.state import Request


def main(arguments: list[str]) -> None:
    """Pack a split, or verify one; the last line of stdout is one JSON object. Raises UserError."""
    # OUT may follow options; plain parse_args takes SOURCE alone for OUT there, for it may be left out.
    given = _parser().parse_intermixed_args(arguments)
    request = _request(given)
    started = time.monotonic()
    try:
        packed = None if request is None else pack(request)
        manifest = None if packed is None else packed.manifest
        if given.verify:
            # Reads as the loader does, and so takes torch, without which the command itself starts.
            from alexnet_dist.pack.verify import verify

            manifest = verify(given.out, given.split, given.processes)
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(f"{error.filename or given.out}: {error.strerror}") from error
    assert manifest is not None
    seconds = time.monotonic() - started
    # Where nothing was to be packed, the time went into verifying.
    only_verified = packed is None or (given.verify and packed.new_images == 0)
    images = manifest.images if packed is None or only_verified else packed.new_images
    print(_summary(given, manifest, images, seconds), file=sys.stderr)
    print(
        json.dumps(
            {
                "images": manifest.images,
                "rejected": len(manifest.rejected),
                "shards": len(manifest.shards),
                "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1),
            }
        )
    )


def _request(given: argparse.Namespace) -> Request | None:
    """Return what is to be packed; None where only OUT is given, to be verified."""
    if given.source is None:
        if not given.verify:
            raise UserError("expected SOURCE and OUT; OUT alone is for --verify")
        return None
    options = Options(
        seed=given.seed,
        size=given.size,
        quality=given.quality,
        chroma=given.chroma,
        filter=given.filter,
        samples_per_shard=given.samples_per_shard,
        holdout=given.holdout,
    )
    return Request(given.source, given.out, given.split, options, given.layout, given.processes, given.max_rejected)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.pack",
        description="Pack images into shards: square JPEGs of one size in WebDataset tars, with a manifest. Killed at "
        "any point, the same command goes on where it was and ends with the same bytes.",
        epilog="A file that is no usable image is left out and listed with its reason in the manifest; a class that "
        "loses all its files stops the pack.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=Path,
        metavar="SOURCE",
        help="class folders, or train/ and val/ of them; a folder with the files of ILSVRC, Kaggle or Hugging Face, or "
        "with WebDataset shards; a list with an image, a tab and its class a line",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for the shards; both splits go into one")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--size", type=_whole(8, 2048), default=256, help="side of the packed square (default: 256)")
    parser.add_argument("--samples-per-shard", type=_whole(1, 1_000_000), default=1000, metavar="N")
    parser.add_argument(
        "--processes",
        type=_whole(1, 1024),
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="default: one a core",
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="what SOURCE is (default: see for yourself)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images and of the holdout")
    parser.add_argument(
        "--holdout", type=_fraction, metavar="F", help="divide one plain folder: F of each class is val, the rest train"
    )
    parser.add_argument("--quality", type=_whole(1, 100), default=90, help="of the JPEGs (default: 90)")
    parser.add_argument(
        "--chroma", choices=get_args(Chroma), default="420", help="colour subsampling of the JPEGs (default: 420)"
    )
    parser.add_argument(
        "--filter", choices=get_args(Filter), default="bicubic", help="of the antialiased resize (default: bicubic)"
    )
    parser.add_argument(
        "--max-rejected", type=_whole(0, 1 << 62), metavar="N", help="stop above N rejected files (default: no limit)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read OUT's split again and check every hash; SOURCE may be left out"
    )
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` to `most`, for argparse."""

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


def _summary(given: argparse.Namespace, manifest: Manifest, images: int, seconds: float) -> str:
    gigabytes = sum(shard.size_bytes for shard in manifest.shards) / 1e9
    lines = [
        f"{given.out}: {manifest.split} holds {manifest.images} images of {len(manifest.classes)} classes in "
        f"{len(manifest.shards)} shards, {gigabytes:.3f} GB"
    ]
    if given.verify:
        lines.append(f"verified: every hash, checksum and header is as it was packed, in {seconds:.1f} s")
    elif images:
        lines.append(f"packed {images} images in {seconds:.1f} s: {images / seconds:.0f} images/s")
    else:
        lines.append("already packed: nothing was done")
    if manifest.rejected:
        lines.append(f"REJECTED {len(manifest.rejected)} files; all are listed in the manifest:")
        lines.append(list_reasons(manifest.rejected))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
