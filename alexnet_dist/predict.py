"""python -m alexnet_dist.predict RUN IMAGE [IMAGE ...]: classify images with a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError, run_command


def main(arguments: list[str]) -> None:
    """Parse, load, predict, print.

    Images that cannot be used do not keep the others from being classified: they are named at the end, in a UserError.
    """
    parsed = _parser().parse_args(arguments)
    # These import torch: --help does without it.
    from alexnet_dist.runs.load import load_run
    from alexnet_dist.runs.prediction import predict

    run = load_run(parsed.run, parsed.step)
    results: list[dict[str, Any]] = []
    errors = []
    for path in parsed.images:
        try:
            prediction = predict(run, path, parsed.views)
        except UserError as error:
            errors.append(str(error))
            results.append({"image": str(path), "error": str(error)})
            continue
        results.append(asdict(prediction))
        if not parsed.json:
            print(prediction.image)
            for guess in prediction.classes:
                print(f"  {guess.probability:6.1%}  {guess.name}")
    if parsed.json:
        print(json.dumps(results))
    if errors:
        of_several = f"{len(errors)} of {len(results)} images were not classified:\n" if len(results) > 1 else ""
        raise UserError(of_several + "\n".join(errors))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="image of any size, in any format that Pillow reads; turned by its EXIF orientation",
    )
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="1: centre patch; 10: as the paper tests")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest that verifies")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list: for each image its classes or its error"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
