"""The demo's steps, from images to pictures of a trained net.

Every step except drawing images runs the command that a user would type, in its own process.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from alexnet_dist import config
from alexnet_dist.data.reader import Split
from alexnet_dist.demo import images
from alexnet_dist.demo.paths import DemoPaths, discard, example_image, prepare
from alexnet_dist.demo.summary import DemoResult, few_image_notes
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.split_folders import has_held_out
from alexnet_dist.runs.directory import METRICS, REPORT
from alexnet_dist.system import environment, resources

REPOSITORY = Path(__file__).parents[2]
CONFIG, TRAIN_SCRIPT = REPOSITORY / "configs" / "demo.yaml", REPOSITORY / "launch" / "train.py"
RANKS = 4
SEED = 0
TRAIN_IMAGES, VAL_IMAGES = 4000, 600
SIZE = 64  # pixels per side of a packed image
HOLDOUT = 0.1


def run_demo(run: Path, data: Path | None) -> DemoResult:
    """Draw images if `data` is None, pack, train, evaluate, draw figures and write the report.

    Raises UserError outside a checkout.
    """
    for file in (CONFIG, TRAIN_SCRIPT):
        if not file.exists():
            raise UserError(f"{file}: not found; the demo needs a checkout: git clone, then run make demo in it")
    started_s = time.monotonic()
    paths = prepare(run, data)
    drawn = data is None
    try:
        if drawn:
            draw(paths)
        else:
            print_step(1, f"use the images in {paths.images}; nothing is written there")
        train, val = pack(paths, None if drawn or has_held_out(paths.images) else HOLDOUT)
    except BaseException:
        discard(paths)
        raise
    overrides: list[str] = []
    if not drawn:
        overrides = recipe_overrides(config.load([CONFIG], []).config, len(train.manifest.classes), train.images)
    train_net(paths, train, overrides)
    top1_error = evaluate(paths, val)
    draw_figures(paths)
    logged = [json.loads(line) for line in (paths.run / METRICS).read_text().splitlines()]
    last = logged[-1]
    errors = [line["top1_error"] for line in logged if line["epoch"] > last["epoch"] - 1]
    return DemoResult(
        paths=paths,
        drawn=drawn,
        overrides=overrides,
        example=example_image(paths.images),
        classes=len(train.manifest.classes),
        train_images=train.images,
        val_images=val.images,
        training_error=sum(errors) / len(errors),
        top1_error=top1_error,
        chance_error=1 - max(class_counts(val)) / val.images,
        steps=last["step"],
        images_seen=last["images"],
        training_s=last["time_s"],
        total_s=time.monotonic() - started_s,
    )


def draw(paths: DemoPaths) -> None:
    """Draw the demo's images."""
    classes = len(images.CLASSES)
    print_step(1, f"draw {TRAIN_IMAGES:,} images to train on and {VAL_IMAGES:,} held-out images, {classes} classes")
    processes = resources.cores()
    images.write(paths.images, SEED, "train", TRAIN_IMAGES, processes)
    images.write(paths.images, SEED, "val", VAL_IMAGES, processes)


def pack(paths: DemoPaths, holdout: float | None) -> tuple[Split, Split]:
    """Pack both splits, print a note for classes with few images, and return the train and val splits.

    Raises UserError for fewer than two classes, or fewer training images than ranks.
    """
    print_step(2, f"pack {paths.images} into shards of {SIZE} x {SIZE} JPEGs")
    options = [] if holdout is None else ["--holdout", str(holdout)]
    for name in ("train", "val"):
        arguments = [str(paths.images), str(paths.shards), "--split", name, "--size", str(SIZE), *options]
        run_step("pack", ["-m", "alexnet_dist.pack", *arguments], capture=True)
    train, val = Split.open(paths.shards, "train"), Split.open(paths.shards, "val")
    names = [class_.words or class_.name for class_ in train.manifest.classes]
    if len(names) < 2:
        raise UserError(f"{paths.images}: one class, {names[0]}; expected two or more folders, one per class")
    if train.images < RANKS:
        raise UserError(
            f"{paths.images}: {train.images} training images; expected at least {RANKS}, preferably hundreds"
        )
    for note in few_image_notes(names, class_counts(train), class_counts(val)):
        print(note, flush=True)
    return train, val


def train_net(paths: DemoPaths, train: Split, overrides: list[str]) -> None:
    """Train under torchrun with the demo's config and the overrides: two replicas of two towers, a thread each."""
    print_step(3, f"train 2 replicas x 2 linked towers = {RANKS} processes over gloo, on {train.images:,} images")
    # The report is written when there are predictions for it.
    arguments = [f"data.root={paths.shards}", f"run.directory={paths.run}", "run.report=false", *overrides]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    run_step("train", [*torchrun, str(TRAIN_SCRIPT), "--config", str(CONFIG), *arguments])


def recipe_overrides(settings: config.Config, classes: int, train_images: int) -> list[str]:
    """Return the config overrides that adapt the demo's recipe to another data set.

    They keep about the same number of steps and evaluations, and the same relative positions of the learning rate
    drops.
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


def evaluate(paths: DemoPaths, val: Split) -> float:
    """Return the top-1 error on the held-out images, as a fraction."""
    print_step(4, f"evaluate on the {val.images:,} held-out images")
    output = run_step("evaluate", ["-m", "alexnet_dist.evaluate", str(paths.run), "--json"], capture=True)
    return float(json.loads(output)["top1_error"])


def draw_figures(paths: DemoPaths) -> None:
    """Draw the pictures of the run and write its report."""
    print_step(5, f"draw figures into {paths.figures}, and write {paths.run / REPORT}")
    run_step("figures", ["-m", "alexnet_dist.figures", str(paths.run), str(paths.figures)], capture=True)
    run_step("report", ["-m", "alexnet_dist.report", str(paths.run)], capture=True)


def class_counts(split: Split) -> list[int]:
    """Return the number of images of each class."""
    return [int(count) for count in np.bincount(split.labels, minlength=len(split.manifest.classes))]


def print_step(number: int, text: str) -> None:
    """Print a step's headline."""
    print(f"[{number}/5] {text}", flush=True)


def run_step(step: str, arguments: list[str], capture: bool = False) -> str:
    """Run Python with these arguments, one thread per process, and return its standard output if captured.

    On failure, print the step, its exit code and its command, and exit with that code.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment.child_environment(threads=1),
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if done.returncode:
        code = done.returncode if done.returncode > 0 else 128 - done.returncode
        print(done.stdout or "", end="", file=sys.stderr)
        print(
            f"demo stopped: step {step} failed with exit code {code}; its output is above. The command was:\n"
            f"  {shlex.join([sys.executable, *arguments])}",
            file=sys.stderr,
        )
        sys.exit(code)
    return done.stdout or ""
