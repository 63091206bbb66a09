"""Text printed by the demo: warnings about the images, and a final report of what ran, its result and next commands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.demo.paths import DemoPaths
from alexnet_dist.system.wording import percent

MIN_TRAINING, MIN_HELD_OUT = 50, 5  # images per class, below which the error means little
MAX_NAMED = 5
# Crops, colours and dropout make training images harder than held-out ones: a net that generalises has about the same
# error on both, or a lower one on those held out. Ten points the other way are no accident of the recipe, and three
# standard deviations none of which images were held out.
OVERFITTING_GAP, DEVIATIONS = 0.1, 3.0


@dataclass(frozen=True)
class DemoResult:
    """Result of a demo; errors are fractions, chance_error is that of always predicting the most common class.

    training_error: mean of the batches of the last epoch that were logged.

    overrides: training config overrides besides data.root and run.directory. example: an image to predict.
    """

    paths: DemoPaths
    drawn: bool
    overrides: Sequence[str]
    example: Path | None
    classes: int
    train_images: int
    val_images: int
    training_error: float
    top1_error: float
    chance_error: float
    steps: int
    images_seen: int
    training_s: float
    total_s: float


def few_image_notes(names: Sequence[str], training: Sequence[int], held_out: Sequence[int]) -> Iterator[str]:
    """Yield one line for each split that has few images in some classes; counts are per class."""
    for split, counts, minimum, advice in (
        ("to train on", training, MIN_TRAINING, "expect a high error: training from scratch needs hundreds per class"),
        ("held out", held_out, MIN_HELD_OUT, "the measured error is not reliable"),
    ):
        small = sorted((count, name) for count, name in zip(counts, names, strict=True) if count < minimum)
        if small:
            named = ", ".join(f"{name} ({count})" for count, name in small[:MAX_NAMED])
            rest = f" and {len(small) - MAX_NAMED} more" if len(small) > MAX_NAMED else ""
            summary = f"{len(small)} of {len(names)} classes have fewer than {minimum} images {split}"
            yield f"note: {summary}: {named}{rest}; {advice}"


def overfitting_note(training_error: float, held_out_error: float, held_out_images: int) -> str:
    """Return a sentence if the error on held-out images is far above that on training images, else nothing."""
    deviation = math.sqrt(held_out_error * (1 - held_out_error) / held_out_images)
    if held_out_error - training_error <= max(OVERFITTING_GAP, DEVIATIONS * deviation):
        return ""
    return (
        f"overfitting: the error is {percent(training_error)} on the training images of the last epoch; more images, or"
        " fewer epochs, help more than longer training"
    )


def report(result: DemoResult) -> str:
    """Return the final report."""
    note = overfitting_note(result.training_error, result.top1_error, result.val_images)
    note = f"\n  {note}" if note else ""
    run, figures = result.paths.run, result.paths.figures
    image = "IMAGE.jpg" if result.example is None else shlex.quote(str(result.example))
    quoted_run = shlex.quote(str(run))
    source = "drawn" if result.drawn else "yours"
    overrides = shlex.join([f"data.root={result.paths.shards}", "run.directory=runs/mine", *result.overrides])
    python = ".venv/bin/python"
    descriptions = {
        run / "report.html": "the run on one page: open it in a browser",
        figures / "curves.png": "loss and error during training",
        figures / "net.png": "the net, and what its towers send each other",
        figures / "conv1.png": "the kernels learned by the first layer, by tower",
        figures / "predictions.png": "held-out images and their most probable classes",
        figures / "neighbours.png": "held-out images and their nearest neighbours in feature space",
        figures / "activations.png": "what the towers send each other for one image",
        run / "metrics.jsonl": "loss, error and times, logged every few steps",
        run / "evaluations.jsonl": "error on the held-out images during training",
        run / "checkpoints": "weights of both towers, to resume from or to export",
    }
    width = max(len(str(path)) for path in descriptions)
    files = "\n".join(f"  {path!s:{width}}  {description}" for path, description in descriptions.items())
    return f"""
The demo is finished, in {result.total_s:.0f} s.

What ran
  images     {result.train_images:,} to train on, {result.val_images:,} held out, {result.classes} classes ({source})
  processes  4 under torchrun: 2 replicas of 2 linked towers, communicating over gloo, on this machine's CPU
  training   {result.steps:,} steps, {result.images_seen:,} images in {result.training_s:.0f} s, \
{result.images_seen / result.training_s:,.0f} images/s including evaluations

Result
  top-1 error on the held-out images: {percent(result.top1_error)} \
(always predicting the most common class: {percent(result.chance_error)}){note}

Files
{files}

Next commands
  {python} -m alexnet_dist.predict {quoted_run} {image}
  {python} -m alexnet_dist.evaluate {quoted_run} --views 10
  make demo DATA=/path/to/your/images

Repeat the training by hand, and read its live metrics from a second terminal
  OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone --nproc-per-node=4 launch/train.py --config configs/demo.yaml \\
      metrics.port=9410 {overrides}
  curl -s http://127.0.0.1:9410/metrics | grep ^alexnet_train
"""
