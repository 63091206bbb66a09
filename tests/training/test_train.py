"""Whole runs on tiny shards: any number of replicas, layouts, workers and restarts give the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.agents import wait_for_step
from support.ranks import free_port
from support.training import (
    DETERMINISTIC,
    assert_same_run,
    evaluations,
    finished,
    last_line,
    losses,
    samples,
    settings,
    torchrun,
    train_here,
)

VARIANTS = {
    "1x2 without workers": (2, ["data.workers=0"]),
    "1x2 with three workers": (2, ["data.workers=3"]),
    "3x2": (6, []),
    "one process": (1, ["topology.layout=fused"]),
    "two fused, accumulated": (2, ["topology.layout=fused", "train.accumulate=2"]),
}


@pytest.fixture(scope="module")
def two_replicas(shards: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> Path:
    """Fifty float64 steps of 2 x 2 ranks."""
    directory = tmp_path_factory.mktemp("runs") / "2x2"
    words = settings(shards, directory, "train.dtype=float64")
    run_ranks(4, train_here, [Path(words[1])], words[2:])
    return directory


@pytest.mark.parametrize("name", VARIANTS)
def test_the_world_does_not_change_the_run(
    name: str, two_replicas: Path, shards: Path, tmp_path: Path, run_ranks: Any
) -> None:
    ranks, changes = VARIANTS[name]
    words = settings(shards, tmp_path / "run", "train.dtype=float64", *changes)
    run_ranks(ranks, train_here, [Path(words[1])], words[2:])
    assert samples(tmp_path / "run") == samples(two_replicas)
    assert losses(tmp_path / "run") == pytest.approx(losses(two_replicas), rel=0, abs=1e-9)
    assert len(losses(two_replicas)) == 50
    assert len(set(losses(two_replicas))) == 50


def test_each_sample_of_an_epoch_is_used_once(two_replicas: Path) -> None:
    by_step = samples(two_replicas)
    assert all(len(ids) == 7 for ids in by_step.values())
    for epoch in range(4):
        ids = [one for step in range(12 * epoch + 1, 12 * epoch + 13) for one in by_step[step]]
        assert sorted(ids) == list(range(84))


def test_a_run_goes_on_with_another_number_of_replicas(
    two_replicas: Path, shards: Path, tmp_path: Path, run_ranks: Any
) -> None:
    directory = tmp_path / "run"
    for ranks, steps in ((4, 20), (2, 33), (6, 50)):
        words = settings(shards, directory, "train.dtype=float64", f"run.steps={steps}")
        run_ranks(ranks, train_here, [Path(words[1])], words[2:])
    assert samples(directory) == samples(two_replicas)
    assert losses(directory) == pytest.approx(losses(two_replicas), rel=0, abs=1e-9)
    assert [one["step"] for one in evaluations(directory)] == [12, 24, 36, 48]


def test_stopped_it_goes_on_bit_equal_by_the_same_command(undisturbed: Path, shards: Path, tmp_path: Path) -> None:
    """Killed, too: tests/doctor/chaos/test_drill.py."""
    directory = tmp_path / "run"
    words = settings(shards, directory, *DETERMINISTIC)
    process = torchrun(4, words)
    wait_for_step(directory, 17)
    process.terminate()
    output = finished(process, 1)  # torchrun's own exit code after a signal
    assert "asked to stop: saved at step" in output
    assert last_line(output) == "torchrun: ended by SIGTERM"
    assert "Traceback" not in output
    assert (directory / "PREEMPTED").exists()
    stopped_at = len(losses(directory))
    assert 17 <= stopped_at < 35
    assert (directory / "checkpoints" / f"step-{stopped_at:08d}").exists()
    assert f"resuming from step {stopped_at}" in finished(torchrun(4, words))
    assert not (directory / "PREEMPTED").exists()
    assert_same_run(directory, undisturbed)


def test_three_replicas_too(shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    """With three, a sum depends on its order: other buckets after a resume would show, with two not."""
    for name, starts in (("undisturbed", (30,)), ("resumed", (10, 30))):
        for steps in starts:
            words = settings(shards, tmp_path / name, "train.deterministic=true", f"run.steps={steps}")
            run_ranks(6, train_here, [Path(words[1])], words[2:])
    assert_same_run(tmp_path / "resumed", tmp_path / "undisturbed", 30)


def test_two_agents_train_like_one(two_replicas: Path, shards: Path, tmp_path: Path) -> None:
    """They resume, too: tests/training/test_two_nodes.py."""
    directory, port = tmp_path / "run", free_port()
    words = settings(shards, directory, "train.dtype=float64", "run.steps=50")
    options = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    for agent in [torchrun(2, words, *options, f"--node-rank={node}") for node in (0, 1)]:
        finished(agent)
    assert samples(directory) == samples(two_replicas)
    assert losses(directory) == pytest.approx(losses(two_replicas), rel=0, abs=1e-9)
