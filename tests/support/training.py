"""Whole runs on tiny shards: started as a user does or in this process, and what they have written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist import config
from alexnet_dist.errors import run_command
from alexnet_dist.train import main_once
from support.ranks import Ranks

REPOSITORY = Path(__file__).parents[2]
TRAIN = REPOSITORY / "launch" / "train.py"
STEPS = 60
# What the 2012 source did at given epochs, of which a run has five: what a resumed run must do at the same steps.
EVENTS = (
    "run.events=[{epoch: 1.5, colour_noise: 0.05, bias_learning_rate: 0.03}, {epoch: 2.5, colour_noise: 0,"
    " layer_learning_rates: {conv1: 0.00001}}, {epoch: 3.5, layer_learning_rates: {conv1: 0}}]"
)
SOURCE_NET = ("data.train_divisor=1.1", "model.layers.conv1.activate=last", "model.layers.conv2.spatial_norm=true")
DETERMINISTIC = (f"run.steps={STEPS}", "run.save_every=5", "train.deterministic=true", *SOURCE_NET, EVENTS)


def settings(shards: Path, directory: Path, *words: str) -> list[str]:
    """Return the words of a tiny run's command line."""
    return [
        "--config",
        str(Path(__file__).with_name("tiny.yaml")),
        f"data.root={shards}",
        f"run.directory={directory}",
        *words,
    ]


def train_here(files: list[Path], words: list[str]) -> None:
    """Train in this process, which is one rank."""
    from alexnet_dist.training.train import train

    train(config.load(files, words).config)


def torchrun(ranks: int, words: list[str], *options: str) -> subprocess.Popen[str]:
    """Start torchrun as a user does, in a session of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", *(options or ("--standalone",))]
    command = [*launcher, f"--nproc-per-node={ranks}", str(TRAIN), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished(process: subprocess.Popen[str], code: int = 0, timeout_s: float = 120) -> str:
    """Wait for a process and return what it has printed; the test fails when it ends with another code."""
    said, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == code, said
    return said


def last_line(said: str) -> str:
    """Return the last line that a user sees of a run that has ended; the last ten have no part of a traceback."""
    lines = said.rstrip().splitlines()[-10:]
    assert not [line for line in lines if line.startswith(("Traceback", "  File", "frame #"))], said
    return lines[-1]


@pytest.fixture(scope="session", name="undisturbed")
def undisturbed_fixture(shards: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Ranks) -> Path:
    """Make a deterministic run of 2 x 2 ranks to its end."""
    directory = tmp_path_factory.mktemp("runs") / "undisturbed"
    words = settings(shards, directory, *DETERMINISTIC)
    run_ranks(4, train_here, [Path(words[1])], words[2:])
    return directory


def losses(directory: Path) -> list[float]:
    """Return the losses by step, each step once."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def samples(directory: Path) -> dict[int, list[int]]:
    """Return the sorted ids of each step, over all ranks."""
    steps: dict[int, list[int]] = {}
    for path in directory.glob("samples-rank-*.jsonl"):
        for line in path.read_text().splitlines():
            value = json.loads(line)
            steps.setdefault(value["step"], []).extend(value["ids"])
    return {step: sorted(ids) for step, ids in sorted(steps.items())}


def weights(directory: Path, step: int) -> list[bytes]:
    home = directory / "checkpoints" / f"step-{step:08d}"
    return [(home / f"tower-{tower}.safetensors").read_bytes() for tower in (0, 1)]


def evaluations(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "evaluations.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time_s"} for line in lines]


def assert_same_run(directory: Path, expected: Path, steps: int = STEPS) -> None:
    """Assert that two runs have used the same samples, and have the same losses and weights, bit for bit."""
    assert losses(directory) == losses(expected)
    assert samples(directory) == samples(expected)
    assert evaluations(directory) == evaluations(expected)
    assert weights(directory, steps) == weights(expected, steps)


def train_refused(words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Return the exit code and the message of a training that is refused; for a process that joins nobody."""
    os.environ.update(environment)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run_command(main_once, words)
    return code, said.getvalue()


ONE: dict[str, str] = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
FOUR = ONE | {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
