"""python -m alexnet_dist.predict RUN IMAGE [IMAGE ...]: classify images with a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from alexnet_dist.errors import run_command


def main(arguments: list[str]) -> None:
    """Parse, load, predict, print."""
    parsed = _parser().parse_args(arguments)
    # These import torch: --help does without it.
    from alexnet_dist.runs.load import load_run
    from alexnet_dist.runs.prediction import predict

    run = load_run(parsed.run, parsed.step)
    predictions = [predict(run, path, parsed.views) for path in parsed.images]
    if parsed.json:
        print(json.dumps([asdict(prediction) for prediction in predictions]))
        return
    for prediction in predictions:
        print(prediction.image)
        for guess in prediction.classes:
            print(f"  {guess.probability:6.1%}  {guess.name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG or PNG, any size")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="1: centre patch; 10: as the paper tests")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest that verifies")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
