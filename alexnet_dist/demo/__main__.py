"""The command behind ``make demo``: the main job from images to pictures of a trained net, on any machine's CPU.

python -m alexnet_dist.demo [--data FOLDER] [--run runs/demo]

Every step but the drawing is the command that a user would type, run as a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from alexnet_dist import config
from alexnet_dist.data.reader import Split
from alexnet_dist.demo import images
from alexnet_dist.demo.places import Places, example, has_held_out, mark, prepare
from alexnet_dist.demo.report import Outcome, report, scarce_classes
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.runs.directory import METRICS

REPOSITORY = Path(__file__).parents[2]
CONFIG, ENTRY = REPOSITORY / "configs" / "demo.yaml", REPOSITORY / "launch" / "train.py"
RANKS = 4
SEED = 0
TRAIN_IMAGES, VAL_IMAGES = 4000, 600
SIZE = 64  # pixels a side, packed
HOLDOUT = 0.1


def main(arguments: list[str]) -> None:
    """Draw or take images, pack, train, evaluate, draw figures, and tell what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.demo",
        description="Draw images (or take yours), pack them, train 2 replicas of 2 linked towers, evaluate, show.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="your images: train/ and val/ with a folder a class in each, or one folder with a folder a class, of"
        " which a tenth is held out; nothing in it is written",
    )
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run directory (default: runs/demo)")
    parsed = parser.parse_args(arguments)
    began_s = time.monotonic()
    for file in (CONFIG, ENTRY):
        if not file.exists():
            raise UserError(f"{file}: not found; the demo runs in a checkout: git clone, then make demo in it")
    places = prepare(parsed.run, parsed.data)
    drawn = parsed.data is None
    if drawn:
        draw(places)
    else:
        say(1, f"take the images in {places.images}; nothing is written there")
    train, val = pack(places, None if drawn or has_held_out(places.images) else HOLDOUT)
    recipe = [] if drawn else fitted(config.load([CONFIG], []).config, len(train.manifest.classes), train.images)
    places.run.mkdir(parents=True, exist_ok=True)
    mark(places.run)  # before training: a demo that is killed leaves nothing that the next one would not replace
    train_net(places, train, recipe)
    top1_error = evaluate(places, val)
    draw_figures(places)
    last = json.loads((places.run / METRICS).read_text().splitlines()[-1])
    outcome = Outcome(
        places=places,
        drawn=drawn,
        recipe=recipe,
        example=example(places.images),
        classes=len(train.manifest.classes),
        train_images=train.images,
        val_images=val.images,
        top1_error=top1_error,
        chance_error=1 - max(counts(val)) / val.images,
        steps=last["step"],
        images_seen=last["images"],
        training_s=last["time_s"],
        whole_s=time.monotonic() - began_s,
    )
    print(report(outcome), end="")


def draw(places: Places) -> None:
    """Draw the demo's images."""
    say(1, f"draw {TRAIN_IMAGES:,} images to train on and {VAL_IMAGES:,} to hold out, {len(images.CLASSES)} classes")
    processes = len(os.sched_getaffinity(0))
    images.write(places.images, SEED, "train", TRAIN_IMAGES, processes)
    images.write(places.images, SEED, "val", VAL_IMAGES, processes)


def pack(places: Places, holdout: float | None) -> tuple[Split, Split]:
    """Pack both splits, warn where images are few, and return them opened."""
    say(2, f"pack {places.images} into shards of {SIZE} x {SIZE} JPEGs")
    options = [] if holdout is None else ["--holdout", str(holdout)]
    for name in ("train", "val"):
        words = [str(places.images), str(places.shards), "--split", name, "--size", str(SIZE), *options]
        execute("pack", ["-m", "alexnet_dist.pack", *words], capture=True)
    train, val = Split.open(places.shards, "train"), Split.open(places.shards, "val")
    names = [described.words or described.name for described in train.manifest.classes]
    if len(names) < 2:
        raise UserError(f"{places.images}: one class, {names[0]}; expected a folder for each of two classes or more")
    if train.images < RANKS:
        raise UserError(f"{places.images}: {train.images} images to train on; expected {RANKS}, or better hundreds")
    for line in scarce_classes(names, counts(train), counts(val)):
        print(line, flush=True)
    return train, val


def train_net(places: Places, train: Split, recipe: list[str]) -> None:
    """Train under torchrun, by the demo's config and the recipe's words: two replicas of two towers, a thread each."""
    say(3, f"train 2 replicas x 2 linked towers = {RANKS} processes over gloo, on {train.images:,} images")
    words = [f"data.root={places.shards}", f"run.directory={places.run}", *recipe]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    execute("train", [*torchrun, str(ENTRY), "--config", str(CONFIG), *words])


def fitted(settings: config.Config, classes: int, train_images: int) -> list[str]:
    """Return the words that fit the demo's recipe, made for its own images, to others.

    About as many steps and evaluations, with the rate's drops at the same parts of the run.
    """
    batch = min(settings.data.global_batch, train_images)
    steps = settings.run.epochs * (TRAIN_IMAGES // settings.data.global_batch)
    epochs = max(1, round(steps / (train_images // batch)))
    drops = [epoch * epochs / settings.run.epochs for epoch in settings.optim.drop_epochs]
    return [
        f"model.classes={classes}",
        f"data.global_batch={batch}",
        f"run.epochs={epochs}",
        f"run.evaluate_every={max(1, epochs // settings.run.epochs)}",
        f"optim.drop_epochs={drops}",
    ]


def evaluate(places: Places, val: Split) -> float:
    """Return the top-1 error on the held-out images, as a fraction."""
    say(4, f"evaluate on the {val.images:,} held-out images")
    found = json.loads(execute("evaluate", ["-m", "alexnet_dist.evaluate", str(places.run), "--json"], capture=True))
    return float(found["top1_error"])


def draw_figures(places: Places) -> None:
    """Draw the pictures of the run."""
    say(5, f"draw pictures into {places.figures}")
    execute("figures", ["-m", "alexnet_dist.figures", str(places.run), str(places.figures)], capture=True)


def counts(split: Split) -> list[int]:
    """Return the number of images of each class."""
    return [int(count) for count in np.bincount(split.labels, minlength=len(split.manifest.classes))]


def say(step: int, text: str) -> None:
    """Print a step's headline."""
    print(f"[{step}/5] {text}", flush=True)


def execute(step: str, words: list[str], capture: bool = False) -> str:
    """Run Python on these words, one thread a process, and return what it printed if that is captured.

    Where it fails, say which step of the demo that was, and end with its exit code.
    """
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if done.returncode:
        code = done.returncode if done.returncode > 0 else 128 - done.returncode
        print(done.stdout or "", end="", file=sys.stderr)
        print(f"the demo ends: step {step} failed with exit code {code}; its output is above, of this command:\n"
              f"  {shlex.join([sys.executable, *words])}", file=sys.stderr)  # fmt: skip
        sys.exit(code)
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(run_command(main))
