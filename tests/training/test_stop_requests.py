"""A request to stop is obeyed in every phase, also under --max-restarts: no rank trains on, and no step is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from support.agents import handles_signals, rank_process, wait_for_step
from support.training import finished, losses, settings, torchrun

START_S = 10.0  # within which a rank is out that was asked to stop before the first step


def words(shards: Path, directory: Path, *more: str) -> list[str]:
    return settings(shards, directory, "run.steps=100000", "run.save_every=100000", "metrics.port=null", *more)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("victim", "delay_s"),
    [(1, 0.0), *(pytest.param(victim, delay_s, marks=pytest.mark.slow) for victim in (0, 3) for delay_s in (0, 2, 4))],
)
def test_one_rank_that_is_asked_before_the_first_step_stops_all(
    victim: int, delay_s: float, shards: Path, tmp_path: Path
) -> None:
    agent = torchrun(2 if victim < 2 else 4, words(shards, tmp_path / "run"), "--standalone", "--max-restarts=3")
    rank = rank_process(agent.pid, victim)
    while not handles_signals(rank):
        time.sleep(0.01)
    time.sleep(delay_s)
    os.kill(rank, signal.SIGTERM)
    began_s = time.monotonic()
    output, _ = agent.communicate(timeout=90)
    # On a busy machine the ranks do not get as far as to agree: then the job ends with the request as its error.
    if agent.returncode:
        assert "traceback : asked to stop before the first step" in output
    else:
        assert "asked to stop" in output
        assert time.monotonic() - began_s < 2 * START_S
    assert output.count("training ") <= 1
    assert "resuming" not in output


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("victim", ["agent", 0, 3])
def test_a_run_that_is_asked_in_training_saves_its_last_step(
    victim: int | str, number: signal.Signals, shards: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    agent = torchrun(4, words(shards, directory), "--standalone", "--max-restarts=3")
    wait_for_step(directory, 7)
    os.kill(agent.pid if victim == "agent" else rank_process(agent.pid, int(victim)), number)
    began_s = time.monotonic()
    output, _ = agent.communicate(timeout=90)
    assert time.monotonic() - began_s < 10
    assert (agent.returncode == 0) == (victim != "agent")
    step = len(losses(directory))
    assert (directory / "PREEMPTED").read_text() == f"stopped and saved at step {step}\n"
    assert (directory / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()
    assert f"asked to stop: saved at step {step}" in output


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("phase", ["saving", "evaluating"])
@pytest.mark.parametrize("victims", ["agent", "rank 1", "agent and all ranks"])
def test_a_run_that_is_asked_in_any_phase_is_out_soon(victims: str, phase: str, shards: Path, tmp_path: Path) -> None:
    """A run that saves, or evaluates the images one by one, after each step, does little else."""
    directory = tmp_path / "run"
    busy = "run.save_every=1" if phase == "saving" else "data.global_batch=84"
    arguments = settings(shards, directory, "run.steps=100000", "metrics.port=null", "data.eval_rows=1", busy)
    agent = torchrun(4, arguments, "--standalone", "--max-restarts=3")
    wait_for_step(directory, 9)
    ranks = [rank_process(agent.pid, rank) for rank in range(4)]
    for process in {"agent": [agent.pid], "rank 1": ranks[1:2]}.get(victims, [agent.pid, *ranks]):
        os.kill(process, signal.SIGTERM)
    began_s = time.monotonic()
    output, _ = agent.communicate(timeout=90)
    assert time.monotonic() - began_s < 10
    step = len(losses(directory))
    assert (directory / "PREEMPTED").read_text() == f"stopped and saved at step {step}\n", output
    assert (directory / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_start_from_a_checkpoint_that_is_asked_to_stop_can_be_requeued(shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    finished(torchrun(2, words(shards, directory, "run.steps=5"), "--standalone"))
    agent = torchrun(2, words(shards, directory), "--standalone", "--max-restarts=3")
    rank = rank_process(agent.pid, 1)
    while (
        "libtorch_python" not in Path(f"/proc/{rank}/maps").read_text()
    ):  # the slowest part of a start, on a busy machine
        time.sleep(0.01)
    os.kill(rank, signal.SIGTERM)
    output = finished(agent)
    assert "asked to stop before the first step: the same command resumes from step 5" in output
    assert (directory / "PREEMPTED").read_text() == "stopped and saved at step 5\n"
