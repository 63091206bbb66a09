"""python -m alexnet_dist.finetune RUN FOLDER: train the net of a finished run on your own images.

FOLDER has a folder for each class, or train/ and val/ with those in them. It is packed as the images of RUN were. All
layers of RUN are copied but the last one, which is drawn anew for your classes. The copied layers, and all biases,
learn at a tenth of its rate, as those of the paper's fine-tuned net (table 2). OUT gets shards/ and run/, a run like
any other: KEY=VALUE changes its configuration, and the same command continues it if it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import add_step_argument, positive
from alexnet_dist.errors import RunError, UserError, run_command
from alexnet_dist.pack.sources.split_folders import has_held_out
from alexnet_dist.system import environment, resources
from alexnet_dist.system.wording import counted, percent

if TYPE_CHECKING:
    from alexnet_dist.data.manifest import Options
    from alexnet_dist.data.reader import Split
    from alexnet_dist.runs.load import LoadedRun

STEPS_PER_EPOCH = 16  # at least: a folder of few images has smaller batches than RUN had
EPOCHS = 30
COPIED_SHARE = 0.1  # of the new layer's rate, for the copied layers
HOLDOUT = 0.2  # of each class
GIVEN = {"run.directory": "--out", "data.root": "--out", "run.epochs": "--epochs"}
DROP_AT, DROP = 2 / 3, 10.0  # all rates are divided by DROP after this part of the epochs


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuning changes in the configuration of the run that it begins with.

    learning_rate: of the new layer. copied, new: layers. step: of the run's checkpoint.
    """

    batch: int
    learning_rate: float
    epochs: int
    copied: Sequence[str]
    new: str
    step: int

    def overrides(self, source: Path, shards: Path, run: Path, classes: int) -> list[str]:
        """Return the key=value arguments of the training, after the configuration of the source."""
        drop = max(1, round(self.epochs * DROP_AT))
        values = {
            "data.root": str(shards),
            "data.global_batch": self.batch,
            "model.classes": classes,
            "optim.rule": "sgd",
            "optim.schedule": "epochs",
            "optim.drop_epochs": [],
            "optim.warmup_epochs": 0,
            "optim.reference_batch": None,
            "optim.bias_learning_rate": None,
            **{f"optim.{key}": value for key, value in self._rates(1).items()},
            "topology.layout": "auto",
            "train.accumulate": 1,
            "train.device": "auto",
            "run.directory": str(run),
            "run.epochs": self.epochs,
            "run.steps": None,
            "run.events": [{"epoch": drop, **self._rates(DROP)}] if drop < self.epochs else [],
            "run.evaluate_every": 1,
            "run.keep_best": True,
            "run.initial_weights": str(source),
            "run.initial_step": self.step,
            "run.initial_layers": list(self.copied),
        }
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

    def _rates(self, divisor: float) -> dict[str, object]:
        learning_rate = self.learning_rate / divisor
        return {"learning_rate": learning_rate * COPIED_SHARE, "layer_learning_rates": {self.new: learning_rate}}


def recipe(source: LoadedRun, images: int, epochs: int) -> Recipe:
    """Return how to fine-tune a run's net on so many training images.

    A smaller batch lowers the rate by the square root of the ratio, which keeps the noise of an update the same. In
    proportion, as for a whole training, the few steps that a small folder has lead nowhere.
    """
    data, optim = source.config.data, source.config.optim
    *copied, new = source.model.net.layers
    batch = min(data.global_batch, max(2, images // STEPS_PER_EPOCH))
    learning_rate = optim.layer_learning_rates.get(new) or optim.learning_rate
    learning_rate *= (
        data.global_batch / (optim.reference_batch or data.global_batch) * math.sqrt(batch / data.global_batch)
    )
    return Recipe(batch, learning_rate, epochs, copied, new, source.step)


def main(arguments: list[str]) -> None:
    """Pack, train, evaluate, print."""
    parsed = _parser().parse_intermixed_args(arguments)
    for word in parsed.overrides:
        if option := GIVEN.get(word.partition("=")[0]):
            raise UserError(f"{word}: finetune gives this key; choose its value with {option}")
    if not parsed.folder.is_dir():
        raise UserError(f"{parsed.folder}: no such folder; expected your images, a folder for each class")
    # They import torch: --help does without it.
    from alexnet_dist import config
    from alexnet_dist.data.reader import Split
    from alexnet_dist.runs.directory import CONFIG, PREEMPTED, check_is_run
    from alexnet_dist.runs.load import load_run

    check_is_run(parsed.run)
    config.load([parsed.run / CONFIG], parsed.overrides)  # a mistake in them is refused before anything is packed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the training saves before this process ends
    source = load_run(parsed.run, parsed.step)
    out = parsed.out or Path("runs") / f"{parsed.run.resolve().name}-on-{parsed.folder.resolve().name}"
    shards, run = out / "shards", out / "run"
    _check_epochs(run / CONFIG, parsed.epochs)
    kept = _pack_options(source.manifest.options, parsed.folder, parsed.holdout)
    packing = ["-m", "alexnet_dist.pack", str(parsed.folder), str(shards), *kept]
    _run("pack", [*packing, "--split=train"], capture=True)
    train = Split.open(shards, "train")
    if len(train.manifest.classes) < 2:
        raise UserError(f"{parsed.folder}: one class; expected two or more folders, one for each class")
    _run("pack", [*packing, "--split=val"], capture=True)
    val = Split.open(shards, "val")
    plan = recipe(source, train.images, parsed.epochs)
    words = plan.overrides(parsed.run.absolute(), shards.absolute(), run.absolute(), len(train.manifest.classes))
    words = ["--config", str(parsed.run / CONFIG), *words]
    _run("train", ["-m", "alexnet_dist.train", *words, *parsed.overrides], resources.cores())
    if (run / PREEMPTED).exists():
        raise RunError(f"{run}: stopped and saved; the same command continues it")
    _report(parsed.folder, run, train, val, plan)


def _check_epochs(file: Path, epochs: int) -> None:
    """Raise a UserError if a run was begun for another number of epochs, on which the fall of its rates depends."""
    from alexnet_dist import config

    if file.exists() and (begun := config.load([file], []).config.run.epochs) != epochs:
        raise UserError(
            f"{file.parent}: begun for {begun} epochs, and its learning rates fall at a time that depends on --epochs."
            f" To continue it: --epochs {begun}; to train longer, at its last rates: python -m alexnet_dist.train"
            f" --config {shlex.quote(str(file))} run.epochs={epochs}; to begin anew: another --out"
        )


def _pack_options(options: Options, folder: Path, holdout: float | None) -> list[str]:
    """Return the options of `pack` that give images as those of a packed set."""
    words = [f"--size={options.size}", f"--filter={options.filter}"]
    words += [f"--chroma={options.chroma}", f"--quality={options.quality}"]
    if holdout is None and folder.is_dir() and not has_held_out(folder):
        holdout = HOLDOUT
    return words if holdout is None else [*words, f"--holdout={holdout}"]


def _report(folder: Path, run: Path, train: Split, val: Split, plan: Recipe) -> None:
    """Evaluate, and print what was trained and how to use it."""
    words = ["-m", "alexnet_dist.evaluate", str(run), "--step=best", "--json"]
    found = json.loads(_run("evaluate", words, resources.cores(), capture=True))
    largest = max(int((val.labels == label).sum()) for label in range(len(val.manifest.classes)))
    print(
        f"\n{folder}: {len(train.manifest.classes)} classes, {train.images:,} to train on, {val.images:,} held out"
        f"\n  layers      copied: {', '.join(plan.copied)}; new: {plan.new}"
        f"\n  top-1 error {percent(found['top1_error'])} on the held-out images, at step {found['steps'][0]:,}: the"
        f" lowest of {counted(plan.epochs, 'evaluation')} on them, so somewhat optimistic"
        f"\n  to compare  {percent(1 - largest / val.images)} if the answer is always the largest class"
        f"\n  classify    python -m alexnet_dist.predict {shlex.quote(str(run))} IMAGE --step=best"
    )


def _run(step: str, arguments: list[str], threads: int = 1, capture: bool = False) -> str:
    """Run Python with these arguments; return its standard output if captured. UserError or RunError if it fails.

    If this process is asked to stop, so is that one, once: it is in a group of its own, which Ctrl-C does not reach.
    """
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=environment.child_environment(threads),
        stdout=subprocess.PIPE if capture else None,
        text=True,
        process_group=0,
    ) as child:
        try:
            printed, _ = child.communicate()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
    if child.returncode:
        failure = UserError if child.returncode == 2 else RunError
        raise failure(f"finetune stopped: {step} ended with exit code {child.returncode}; its output is above")
    return printed or ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of the net to begin with")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="your images, a folder for each class")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change of the training's configuration")
    add_step_argument(parser)
    parser.add_argument("--out", type=Path, help="folder for shards/ and run/; default: runs/RUN-on-FOLDER")
    parser.add_argument(
        "--epochs", type=positive(int), default=EPOCHS, help=f"passes over the images (default: {EPOCHS})"
    )
    parser.add_argument(
        "--holdout",
        type=positive(float),
        help=f"part of each class to be held out, if FOLDER has no val/ (default: {HOLDOUT})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
