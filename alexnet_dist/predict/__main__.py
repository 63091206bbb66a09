"""python -m alexnet_dist.predict RUN IMAGE [IMAGE ...]: classify images with a trained run.

The five most probable classes of each image are printed. An image that cannot be used does not keep the others from
being classified: it is named at the end, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import PORT, add_device_argument, add_port_argument, add_step_argument
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.system.local_page import serve

if TYPE_CHECKING:
    from alexnet_dist.runs.pictures import Picture
    from alexnet_dist.runs.trained import TrainedNet


def main(arguments: list[str]) -> None:
    """Parse, load, predict, print.

    Images that cannot be used do not keep the others from being classified: they are named at the end, in a UserError.
    """
    parsed = _parser().parse_intermixed_args(arguments)
    if parsed.serve == bool(parsed.images):
        raise UserError("expected RUN and IMAGEs, or RUN and --serve")
    if parsed.serve and (parsed.format != "text" or parsed.views != 1):
        raise UserError("--serve: expected without --views, --json and --csv: the page shows one view and ten")
    if parsed.port is not None and not parsed.serve:
        raise UserError("--port: expected with --serve alone")
    # These import torch: --help does without it.
    from alexnet_dist.runs.pictures import find_pictures
    from alexnet_dist.runs.trained import load_run

    net = load_run(parsed.run, parsed.step, parsed.device)
    print(f"{parsed.run}: step {net.step:,}", file=sys.stderr, flush=True)
    pictures, note = find_pictures(parsed.images)
    if note:
        print(note, file=sys.stderr, flush=True)
    if parsed.words is not None:
        net = _named_by(net, parsed.words)
    if parsed.serve:
        from alexnet_dist.predict.server import Page

        serve(partial(Page, net), PORT if parsed.port is None else parsed.port)
    else:
        _print(net, pictures, parsed.views, parsed.format)


def _named_by(net: TrainedNet, words: Path) -> TrainedNet:
    """Return a net with the words of a file for its classes; say how many have none."""
    from alexnet_dist.runs.words import named_by

    names, missing = named_by(words, net.loaded.manifest.classes)
    if missing:
        print(f"{words}: no words for {missing:,} of {len(names):,} classes", file=sys.stderr, flush=True)
    return replace(net, classes=tuple(names))


def _print(net: TrainedNet, pictures: Sequence[Picture], views: int, form: str) -> None:
    """Print the classes of pictures; UserError names those that cannot be classified."""
    from alexnet_dist.predict.output import OUTPUTS
    from alexnet_dist.runs.prediction import Failure, predictions

    output, errors = OUTPUTS[form](), []
    for result in predictions(net.loaded, pictures, views, net.device, net.classes):
        output.write(result)
        if isinstance(result, Failure):
            errors.append(result.error)
    output.close()
    if errors:
        several = f"{len(errors):,} of {len(pictures):,} images were not classified:\n" if len(pictures) > 1 else ""
        raise UserError(several + "\n".join(errors))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="a file in any format that Pillow reads, turned by its EXIF orientation; a folder, with all folders in"
        " it; an http, https or s3 URL; or - for the contents of one file on the standard input",
    )
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 10),
        default=1,
        help="1: the centre; 10: centre and corners, and their mirror images, averaged, as the paper tests",
    )
    add_step_argument(parser)
    add_device_argument(parser)
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="words to show for classes, such as ImageNet's synset_words.txt"
    )
    parser.add_argument("--serve", action="store_true", help="open a local page instead, to drop images on")
    add_port_argument(parser)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        default="text",
        help="print a JSON list: for each image its classes or its error",
    )
    formats.add_argument(
        "--csv", dest="format", action="store_const", const="csv", help="print a table: a line for each class or error"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
