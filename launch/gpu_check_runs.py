"""The trainings of gpu_check: a run that is stopped and resumed, and a pair on one device that loses a rank."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_dist.benchmark import synthetic
from alexnet_dist.benchmark.contenders.packing import run_pack
from alexnet_dist.doctor.chaos.job import Job
from alexnet_dist.system import resources

ROOT = Path(__file__).parents[1]
STOP_AFTER, STEPS = 40, 400  # steps
SLOW_STEPS = 60  # of a start: they compile, choose algorithms and wait for the first batches
TIMEOUT_S = 400.0

Figures = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large the check is: on a GPU, or, with --dry-run, on a CPU. width_divisor: of the net in `speed`."""

    device: str
    batches: tuple[int, ...]
    timed_steps: int
    width_divisor: int
    threads: int
    dtype: str
    images: int
    steps: int
    run_words: tuple[str, ...]


GPU = Scale(
    "cuda", (128, 1024), 30, 1, min(8, resources.cores()), "bfloat16", 4096, STEPS,
    ("train.dtype=bfloat16", "train.channels_last=true", "data.workers=auto", "data.global_batch=128"),
)  # fmt: skip
CPU = Scale(
    "cpu", (4,), 2, 8, resources.cores(), "float32", 64, 100,
    (
        *(f"model.layers.conv{layer}.channels=16" for layer in (1, 2, 3, 4, 5)),
        "model.layers.fc6.channels=64", "model.layers.fc7.channels=64", "data.crop=64", "data.global_batch=4",
        "data.workers=1", "optim.learning_rate=0.001",
    ),
)  # fmt: skip


def data(scale: Scale, folder: Path) -> Path:
    """Return a packed set of generated images."""
    synthetic.write(folder / "images", scale.images, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST)
    run_pack(folder / "images", folder / "shards", resources.cores(), 512)
    return folder / "shards"


def job(scale: Scale, folder: Path, name: str, ranks: int, *words: str) -> Job:
    """Return a training of `ranks` ranks under torchrun, not yet started."""
    common = (
        "--config", str(ROOT / "configs" / "paper.yaml"), f"data.root={folder / 'shards'}", "model.classes=20",
        f"run.directory={folder / name}", f"run.steps={scale.steps}", "run.evaluate_every=0", "run.log_every=1",
        "metrics.port=null", f"train.device={scale.device}", "train.deterministic=true", *scale.run_words,
    )  # fmt: skip
    return Job([*common, *words], ranks, folder / f"{name}.log", restarts=0)


def losses(folder: Path, name: str) -> list[float]:
    """Return a run's losses by step."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def runs(scale: Scale, folder: Path) -> Figures:
    """Return whether a run that is stopped by SIGTERM and resumed is, bit for bit, the run that is not."""
    graph = [f"train.cuda_graph={'true' if scale.device == 'cuda' else 'false'}", "topology.layout=fused"]
    whole = job(scale, folder, "whole", 1, *graph, "--profile", "5")
    parts = job(scale, folder, "parts", 1, *graph)
    try:
        whole.start()
        parts.start()
        wait_for(lambda: parts.last_step() >= STOP_AFTER or parts.has_ended(), "step 40 of a run")
        if parts.has_ended():
            return {"failure": parts.printed()[-1500:], "holds": False}
        os.kill(parts.agent, signal.SIGTERM)
        wait_for(parts.has_ended, "the end of a run that was asked to stop")
        stopped_at = len(losses(folder, "parts"))
        wait_for(whole.has_ended, "the end of a run")
        parts.start()
        wait_for(parts.has_ended, "the end of a resumed run")
    finally:
        whole.stop()
        parts.stop()
    first, second = losses(folder, "whole"), losses(folder, "parts")
    return {
        "steps": len(first),
        "stopped_at": stopped_at,
        "images_per_second": images_per_second(folder, "parts", stopped_at + SLOW_STEPS),
        "profile": (folder / "whole" / "profile" / "rank-0.json").exists(),
        "same_losses": first == second,
        "log": whole.printed()[-1500:],
        "holds": first == second and len(first) == scale.steps and stopped_at < scale.steps,
    }


def images_per_second(folder: Path, name: str, first: int) -> float | None:
    """Return the rate of a run after a step, loader included; None if it has too few steps."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()][first:]
    if len(lines) < 2:
        return None
    images, seconds = (float(lines[-1][key] - lines[0][key]) for key in ("images", "time_s"))
    return images / seconds


def lost_rank(scale: Scale, folder: Path) -> Figures:
    """Return how a pair on one device ends when a rank is killed: with a sentence, and soon."""
    words = ("topology.layout=paired", "topology.share_device=true", "topology.timeout_s=60", "run.steps=100000")
    pair = job(scale, folder, "pair", 2, *words)
    try:
        pair.start()
        wait_for(lambda: pair.last_step() >= STOP_AFTER or pair.has_ended(), "step 40 of a pair")
        steps, rank = pair.last_step(), None if pair.has_ended() else pair.rank_process(1)
        if rank is None:
            return {"failure": pair.printed()[-1500:], "holds": False}
        began_s = time.monotonic()
        os.kill(rank, signal.SIGKILL)
        wait_for(pair.has_ended, "the end of a pair that has lost a rank")
        seconds = round(time.monotonic() - began_s, 1)
    finally:
        pair.stop()
    sentence = next((line for line in pair.printed().splitlines() if line.startswith("error: ")), "")
    return {
        "steps": steps,
        "seconds_to_the_end": seconds,
        "sentence": sentence,
        "holds": "rank 1" in sentence,
        "log": pair.printed()[-1500:],
    }


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; TimeoutError if it takes too long."""
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} has not come within {TIMEOUT_S:.0f} s")
        time.sleep(0.05)
