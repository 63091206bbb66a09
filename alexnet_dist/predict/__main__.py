"""python -m alexnet_dist.predict RUN IMAGE [IMAGE ...]: classify images with a trained run.

The five most probable classes of each image are printed. An image that cannot be used does not keep the others from
being classified: it is named at the end, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import add_device_argument, add_step_argument
from alexnet_dist.errors import UserError, run_command

if TYPE_CHECKING:
    from alexnet_dist.runs.pictures import Picture
    from alexnet_dist.runs.trained import TrainedNet

PORT, LAST_PORT = 8000, 65535


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
        _serve(net, PORT if parsed.port is None else parsed.port)
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


def _serve(net: TrainedNet, port: int) -> None:
    """Serve the page until Ctrl-C."""
    from alexnet_dist.predict.server import Page

    try:
        page = Page(net, port)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; choose another, or 0 for any free one") from None
    with page:
        print(f"open {page.url} in a browser of this machine; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            page.serve_forever()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 0 to {LAST_PORT}")
    return int(text)


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
    parser.add_argument("--port", type=_port, help=f"of the page; 0: any free one (default: {PORT})")
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
