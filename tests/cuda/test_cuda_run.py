"""Whole runs on one CUDA device: the CPU's run, continued there, and the same bits twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.training import TRAIN, evaluations, losses, settings, train_here, weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"


def run_train(words: list[str]) -> None:
    """Train as a user does, in one process."""
    done = subprocess.run([sys.executable, str(TRAIN), *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("change", ["train.channels_last=false", "train.channels_last=true", "train.dtype=bfloat16"])
def test_a_deterministic_run_has_the_same_bits_twice(change: str, shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    for name in ("first", "second"):
        words = settings(
            shards, tmp_path / name, f"train.device={DEVICE}", "train.deterministic=true", "topology.layout=fused",
            "run.steps=10", change,
        )  # fmt: skip
        run_ranks(1, train_here, [Path(words[1])], words[2:])
    assert weights(tmp_path / "first", 10) == weights(tmp_path / "second", 10)
    assert losses(tmp_path / "first") == losses(tmp_path / "second")


def test_a_run_on_a_device_goes_on_on_the_cpu(shards: Path, tmp_path: Path) -> None:
    """Ten float64 steps there and ten here, with an evaluation in each, are twenty here."""
    here, moved = tmp_path / "here", tmp_path / "moved"
    exact = ("train.dtype=float64", "run.evaluate_every=1", "run.save_every=13")
    run_train(settings(shards, here, "train.device=cpu", "run.steps=26", *exact))
    run_train(settings(shards, moved, f"train.device={DEVICE}", "run.steps=13", *exact))
    run_train(settings(shards, moved, "train.device=cpu", "run.steps=26", *exact))
    assert losses(moved) == pytest.approx(losses(here), rel=0, abs=1e-9)
    assert len(losses(moved)) == 26
    for found, wanted in zip(evaluations(moved), evaluations(here), strict=True):
        assert found == pytest.approx(wanted, rel=1e-9)
