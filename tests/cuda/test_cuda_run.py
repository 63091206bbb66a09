"""Whole runs on one CUDA device: a run that continues on the CPU, and the same bits twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.ranks import Ranks
from support.training import TRAIN, evaluations, losses, settings, train_here, weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"


def run_train(arguments: list[str]) -> None:
    """Train in one process, by the command line."""
    process = subprocess.run([sys.executable, str(TRAIN), *arguments], capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("change", ["train.channels_last=false", "train.channels_last=true", "train.dtype=bfloat16"])
def test_a_deterministic_run_has_the_same_bits_twice(
    change: str, shards: Path, tmp_path: Path, run_ranks: Ranks
) -> None:
    for name in ("first", "second"):
        arguments = settings(
            shards, tmp_path / name, f"train.device={DEVICE}", "train.deterministic=true", "topology.layout=fused",
            "run.steps=10", change,
        )  # fmt: skip
        run_ranks(1, train_here, [Path(arguments[1])], arguments[2:])
    assert weights(tmp_path / "first", 10) == weights(tmp_path / "second", 10)
    assert losses(tmp_path / "first") == losses(tmp_path / "second")


def test_a_run_on_a_device_continues_on_the_cpu(shards: Path, tmp_path: Path) -> None:
    """13 float64 steps on the device and 13 on the CPU, with an evaluation in each, equal 26 on the CPU."""
    on_cpu, moved = tmp_path / "cpu", tmp_path / "moved"
    exact = ("train.dtype=float64", "run.evaluate_every=1", "run.save_every=13")
    run_train(settings(shards, on_cpu, "train.device=cpu", "run.steps=26", *exact))
    run_train(settings(shards, moved, f"train.device={DEVICE}", "run.steps=13", *exact))
    run_train(settings(shards, moved, "train.device=cpu", "run.steps=26", *exact))
    assert losses(moved) == pytest.approx(losses(on_cpu), rel=0, abs=1e-9)
    assert len(losses(moved)) == 26
    for actual, expected in zip(evaluations(moved), evaluations(on_cpu), strict=True):
        assert actual == pytest.approx(expected, rel=1e-9)
