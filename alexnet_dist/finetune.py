"""python -m alexnet_dist.finetune RUN FOLDER: train the net of a finished run on your own images.

FOLDER has a folder for each class, or train/ and val/ with those in them. It is packed as the images of RUN were. All
layers of RUN are copied but the last one, which is drawn anew for your classes. The copied layers learn at a tenth of
its rate, as those of the paper's fine-tuned net (table 2). OUT gets shards/ and run/, a run like any other: KEY=VALUE
changes its configuration, and the same command continues it.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import positive
from alexnet_dist.errors import RunError, UserError, run_command
from alexnet_dist.system import environment, resources

if TYPE_CHECKING:
    from alexnet_dist.config import Config
    from alexnet_dist.data.reader import Split

STEPS_PER_EPOCH = 16  # at least: a folder of few images has smaller batches than RUN had
EPOCHS = 30
COPIED_SHARE = 0.1  # of the new layer's rate, for the copied layers
DROP_AT, DROP = 2 / 3, 10.0  # all rates are divided by DROP after this part of the epochs


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuning changes in the configuration of the run that it begins with."""

    batch: int
    learning_rate: float
    epochs: int
    copied: Sequence[str]
    new: str

    def overrides(self, source: Path, shards: Path, run: Path, classes: int) -> list[str]:
        """Return the key=value arguments of the training, after the configuration of the source."""
        rates = {
            "learning_rate": self.learning_rate * COPIED_SHARE,
            "layer_learning_rates": {self.new: self.learning_rate},
        }
        drop = max(1, round(self.epochs * DROP_AT))
        event = {
            "epoch": drop,
            "learning_rate": self.learning_rate * COPIED_SHARE / DROP,
            "layer_learning_rates": {self.new: self.learning_rate / DROP},
        }
        values = {
            "data.root": str(shards),
            "data.global_batch": self.batch,
            "model.classes": classes,
            "optim.schedule": "epochs",
            "optim.drop_epochs": [],
            "optim.warmup_epochs": 0,
            "optim.reference_batch": None,
            "optim.learning_rate": rates["learning_rate"],
            "optim.layer_learning_rates": rates["layer_learning_rates"],
            "run.directory": str(run),
            "run.epochs": self.epochs,
            "run.steps": None,
            "run.events": [event] if drop < self.epochs else [],
            "run.evaluate_every": 1,
            "run.initial_weights": str(source),
            "run.initial_layers": list(self.copied),
        }
        return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def recipe(settings: Config, layers: Sequence[str], images: int, epochs: int) -> Recipe:
    """Return how to fine-tune a run's net on so many training images.

    A smaller batch lowers the rate by the square root of the ratio, which keeps the noise of an update the same. In
    proportion, as for a whole training, the few steps that a small folder has lead nowhere.
    """
    data, optim = settings.data, settings.optim
    batch = min(data.global_batch, max(2, images // STEPS_PER_EPOCH))
    rate = optim.learning_rate * data.global_batch / (optim.reference_batch or data.global_batch)
    rate *= math.sqrt(batch / data.global_batch)
    *copied, new = layers
    return Recipe(batch, rate, epochs, copied, new)


def main(arguments: list[str]) -> None:
    """Pack, train, evaluate, print."""
    parsed = _parser().parse_intermixed_args(arguments)
    # They import torch: --help does without it.
    from alexnet_dist.data.reader import Split
    from alexnet_dist.runs.load import load_run

    source = load_run(parsed.run)
    out = parsed.out or Path("runs") / f"{parsed.run.resolve().name}-on-{parsed.folder.resolve().name}"
    shards, run = out / "shards", out / "run"
    options = source.manifest.options
    kept = [
        f"--size={options.size}",
        f"--filter={options.filter}",
        f"--chroma={options.chroma}",
        f"--quality={options.quality}",
    ]
    if not (parsed.folder / "val").is_dir():
        kept.append(f"--holdout={parsed.holdout}")
    for split in ("train", "val"):
        _run("pack", ["-m", "alexnet_dist.pack", str(parsed.folder), str(shards), "--split", split, *kept])
    train, val = Split.open(shards, "train"), Split.open(shards, "val")
    if len(train.manifest.classes) < 2:
        raise UserError(f"{parsed.folder}: one class; expected two or more folders, one for each class")
    plan = recipe(source.config, list(source.model.net.layers), train.images, parsed.epochs)
    words = [*plan.overrides(parsed.run.absolute(), shards.absolute(), run.absolute(), len(train.manifest.classes))]
    config = ["--config", str(parsed.run / "config.yaml")]
    _run("train", ["-m", "alexnet_dist.train", *config, *words, *parsed.overrides], resources.cores())
    _report(parsed.folder, run, train, val, plan)


def _report(folder: Path, run: Path, train: Split, val: Split, plan: Recipe) -> None:
    """Evaluate, and print what was trained and how to use it."""
    found = json.loads(
        _run("evaluate", ["-m", "alexnet_dist.evaluate", str(run), "--step=best", "--json"], capture=True)
    )
    largest = max(int((val.labels == label).sum()) for label in range(len(val.manifest.classes)))
    print(
        f"\n{folder}: {len(train.manifest.classes)} classes, {train.images:,} to train on, {val.images:,} held out"
        f"\n  copied      {', '.join(plan.copied)}; drawn: {plan.new}"
        f"\n  top-1 error {found['top1_error']:.1%} on the held-out images at step {found['steps'][0]:,}, the best:"
        " chosen on these images, so somewhat optimistic"
        f"\n  for scale   {1 - largest / val.images:.1%} if the answer is always the largest class"
        f"\n  classify    python -m alexnet_dist.predict {shlex.quote(str(run))} IMAGE --step=best"
    )


def _run(step: str, arguments: list[str], threads: int = 1, capture: bool = False) -> str:
    """Run Python with these arguments; return its standard output if captured. UserError or RunError if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment.child_environment(threads),
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if done.returncode:
        failure = UserError if done.returncode == 2 else RunError
        raise failure(f"finetune stopped: {step} ended with exit code {done.returncode}; its output is above")
    return done.stdout or ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of the net to begin with")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="your images, a folder for each class")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change of the training's configuration")
    parser.add_argument("--out", type=Path, help="folder for shards/ and run/; default: runs/RUN-on-FOLDER")
    parser.add_argument(
        "--epochs", type=positive(int), default=EPOCHS, help=f"passes over the images (default: {EPOCHS})"
    )
    parser.add_argument(
        "--holdout",
        type=positive(float),
        default=0.2,
        help="part of each class to be held out, if FOLDER has no val/ (default: 0.2)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
