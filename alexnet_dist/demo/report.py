"""What the demo says: warnings about the images, and at the end what ran, how well, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.demo.places import Places

FEW_TRAINING, FEW_HELD_OUT = 50, 5  # images a class, below which an error says little
NAMED = 5


@dataclass(frozen=True)
class Outcome:
    """What a demo has done; errors are fractions, chance_error is that of always naming the commonest class.

    recipe: the words beyond data.root and run.directory that the training was given. example: an image to predict.
    """

    places: Places
    drawn: bool
    recipe: Sequence[str]
    example: Path | None
    classes: int
    train_images: int
    val_images: int
    top1_error: float
    chance_error: float
    steps: int
    images_seen: int
    training_s: float
    whole_s: float


def scarce_classes(names: Sequence[str], training: Sequence[int], held_out: Sequence[int]) -> Iterator[str]:
    """Yield a line for each split in which classes have few images; counts are by class."""
    for split, counts, least, advice in (
        ("to train on", training, FEW_TRAINING, "expect a high error: a net from scratch wants hundreds a class"),
        ("held out", held_out, FEW_HELD_OUT, "so few say little about the error"),
    ):
        few = sorted((count, name) for count, name in zip(counts, names, strict=True) if count < least)
        if few:
            some = ", ".join(f"{name} ({count})" for count, name in few[:NAMED])
            more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
            who = f"{len(few)} of {len(names)} classes have fewer than {least} images {split}"
            yield f"note: {who}: {some}{more}; {advice}"


def report(outcome: Outcome) -> str:
    """Return the summary that a newcomer reads."""
    run, figures = outcome.places.run, outcome.places.figures
    image = "IMAGE.jpg" if outcome.example is None else shlex.quote(str(outcome.example))
    source = "drawn" if outcome.drawn else "yours"
    words = shlex.join([f"data.root={outcome.places.shards}", "run.directory=runs/mine", *outcome.recipe])
    python = ".venv/bin/python"
    found = {
        figures / "curves.png": "loss and error as the training went",
        figures / "conv1.png": "what the first layer has learned, tower by tower",
        figures / "predictions.png": "held-out images and the net's guesses",
        figures / "neighbours.png": "held-out images that the net finds alike",
        run / "metrics.jsonl": "loss, error and times, a line every few steps",
        run / "evaluations.jsonl": "error on the held-out images as the training went",
        run / "checkpoints": "weights of both towers, to go on from or to export",
    }
    width = max(len(str(path)) for path in found)
    files = "\n".join(f"  {path!s:{width}}  {meaning}" for path, meaning in found.items())
    return f"""
The demo is done, in {outcome.whole_s:.0f} s.

What ran
  images     {outcome.train_images:,} to train on, {outcome.val_images:,} held out, {outcome.classes} classes ({source})
  processes  4 under torchrun: 2 replicas, each of 2 linked towers; they talk over gloo, on this machine's CPU
  training   {outcome.steps:,} steps, {outcome.images_seen:,} images in {outcome.training_s:.0f} s, \
{outcome.images_seen / outcome.training_s:,.0f} images/s with its validations

Result
  top-1 error on the held-out images: {outcome.top1_error:.1%} \
(always naming the commonest class: {outcome.chance_error:.1%})

Look at
{files}

Type next
  {python} -m alexnet_dist.predict {run} {image}
  {python} -m alexnet_dist.evaluate {run} --views 10
  make demo DATA=/path/to/your/images

Train it again by hand, and look at it live from a second terminal
  OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone --nproc-per-node=4 launch/train.py --config configs/demo.yaml \\
      metrics.port=9410 {words}
  curl -s http://127.0.0.1:9410/metrics | grep ^alexnet_train
"""
