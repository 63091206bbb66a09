"""The records of a run, as a training leaves them in its directory, and shards with held-out images for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_dist.pack.__main__ import main as pack
from alexnet_dist.runs.directory import EVALUATIONS, METRICS
from support.runs import CLASSES, SIZE, write_run

STEPS, LOG_EVERY, PER_EPOCH, BATCH = 200, 10, 50, 6
STEP_S, EVALUATION_S = 0.1, 30.0


def metric_lines() -> list[dict[str, Any]]:
    """Return the lines of a run of four epochs, whose evaluations take much longer than its steps."""
    return [
        {"step": step, "epoch": step / PER_EPOCH, "images": step * BATCH, "loss": 3 / step, "top1_error": 5 / step}
        | {"learning_rate": 0.01, "step_s": STEP_S, "data_wait_s": STEP_S / 4}
        | {"time_s": step * STEP_S + (step - 1) // PER_EPOCH * EVALUATION_S}
        for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY)
    ]


def evaluation_lines() -> list[dict[str, Any]]:
    """Return the evaluations of that run, one after each epoch."""
    return [
        {"step": epoch * PER_EPOCH, "epoch": float(epoch), "images": 14, "loss": 1 / epoch, "top1_error": 0.5 / epoch}
        | {"top5_error": 0.25 / epoch, "time_s": epoch * (PER_EPOCH * STEP_S + EVALUATION_S)}
        for epoch in range(1, STEPS // PER_EPOCH + 1)
    ]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_recorded_run(home: Path) -> Path:
    """Write a run with a checkpoint and records; return its directory."""
    directory, _ = write_run(home, (STEPS,))
    write_lines(directory / METRICS, metric_lines())
    write_lines(directory / EVALUATIONS, evaluation_lines())
    return directory


def write_held_out(home: Path) -> Path:
    """Pack two held-out images of each class for a run of `write_run`; return the folder of the shards."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(CLASSES):
            folder = home / "images" / split / f"class-{label}"
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}-{number}.png")
    for split in ("train", "val"):
        pack([str(home / "images"), str(home / "packed"), "--split", split, "--size", str(SIZE), "--processes", "1"])
    return home / "packed"
