"""python -m alexnet_dist.predict RUN IMAGE [IMAGE ...]: classify images with a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from alexnet_dist.data.transform import UnusableImageError, training_image
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.runs.inference import view_probabilities
from alexnet_dist.runs.load import LoadedRun, load_run

GUESSES = 5


@dataclass(frozen=True)
class Guess:
    """One class and its probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    image: str
    classes: list[Guess]


def predict(run: LoadedRun, path: Path, views: int = 1) -> Prediction:
    """Classify one JPEG or PNG of any size, prepared as pack prepares training images.

    Raises UserError if the file is missing or is no image.
    """
    try:
        _, pixels = training_image(path.read_bytes(), run.manifest.options)
    except (OSError, UnusableImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected a JPEG or PNG") from None
    probabilities = view_probabilities(run, torch.from_numpy(pixels)[None], views, torch.device("cpu"))[0]
    best = probabilities.topk(min(GUESSES, len(probabilities)))
    names = [described.words or described.name for described in run.manifest.classes]
    guesses = [
        Guess(index, names[index], probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return Prediction(str(path), guesses)


def main(arguments: list[str]) -> None:
    """Parse, load, predict, print."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG or PNG, any size")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="1: centre patch; 10: as the paper tests")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest that verifies")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parsed = parser.parse_args(arguments)
    run = load_run(parsed.run, parsed.step)
    predictions = [predict(run, path, parsed.views) for path in parsed.images]
    if parsed.json:
        print(json.dumps([asdict(prediction) for prediction in predictions]))
        return
    for prediction in predictions:
        print(prediction.image)
        for guess in prediction.classes:
            print(f"  {guess.probability:6.1%}  {guess.name}")


if __name__ == "__main__":
    sys.exit(run_command(main))
