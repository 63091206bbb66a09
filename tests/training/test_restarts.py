"""A rank or loader process that is killed comes back by torchrun's own restarts, and the run is the same run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from support.agents import backends, children, rank_process, wait_for_step
from support.training import DETERMINISTIC, assert_same_run, finished, settings, torchrun

TIMEOUT_S = 8  # of a stopped rank; a busy machine needs seconds for the first steps


def words(shards: Path, directory: Path) -> list[str]:
    return settings(shards, directory, *DETERMINISTIC, "topology.timeout_s=20", "metrics.port=null")


CASES = [
    ("standalone", [0, "loader"]),
    pytest.param("standalone", [0, 1, 2, 3, "loader"], marks=pytest.mark.slow),
    pytest.param("static", [0, 1, 2, 3, "loader"], marks=pytest.mark.slow),
    pytest.param("c10d", [0, 1, 2, 3, "loader"], marks=pytest.mark.slow),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("backend", "victims"), CASES)
def test_killed_ranks_and_loaders_come_back(
    backend: str, victims: list[int | str], undisturbed: Path, shards: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    agent = torchrun(4, words(shards, directory), *backends()[backend], "--max-restarts=5", "--monitor-interval=0.1")
    for number, victim in enumerate(victims, start=1):
        wait_for_step(directory, 11 * number)
        rank = rank_process(agent.pid, 1 if victim == "loader" else int(victim))
        os.kill(next(children(rank)) if victim == "loader" else rank, signal.SIGKILL)
        time.sleep(0.5)  # until the agent has ended the others; the records then grow again from a checkpoint on
    output = finished(agent, timeout_s=300)
    assert output.count("resuming from step") == len(victims)
    assert_same_run(directory, undisturbed)


STOPPED = [("standalone", 2), *(pytest.param("c10d", rank, marks=pytest.mark.slow) for rank in range(4))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("backend", "victim"), STOPPED)
def test_a_stopped_rank_is_named_killed_and_comes_back(
    backend: str, victim: int, undisturbed: Path, shards: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    arguments = [*words(shards, directory), f"topology.timeout_s={TIMEOUT_S}"]
    agent = torchrun(4, arguments, *backends()[backend], "--max-restarts=1", "--monitor-interval=0.1")
    wait_for_step(directory, 13)
    os.kill(rank_process(agent.pid, victim), signal.SIGSTOP)
    output = finished(agent, timeout_s=120)
    survivors = [line for line in output.splitlines() if line.startswith("error: rank ")]
    named = f"lost rank {victim} (replica {victim // 2}, tower {victim % 2}) at: "
    assert len(survivors) == 3
    assert all(named in line and f"rank {victim} is stopped" in line for line in survivors)
    assert any(f" killed rank {victim}, " in line for line in survivors)
    assert "Unable to shutdown process" not in output  # what torchrun reports after 30 s
    post_mortem = (directory / "post-mortem.txt").read_text()
    assert f"failed first         rank {victim} (" in post_mortem
    assert output.count("resuming from step") == 1
    assert_same_run(directory, undisturbed)


def test_the_rank_that_was_killed_is_the_root_cause(shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    agent = torchrun(4, words(shards, directory), "--standalone", "--monitor-interval=0.1")
    wait_for_step(directory, 7)
    os.kill(rank_process(agent.pid, 2), signal.SIGKILL)
    output = finished(agent, code=1)
    assert "rank      : 2 (local_rank: 2)" in output[output.index("Root Cause") :]
    failures = output[output.index("Failures:") : output.index("Root Cause")]
    assert "traceback : rank 3 (replica 1, tower 1) lost rank 2 (replica 1, tower 0) at: " in failures
    assert "failed first         rank 2 (replica 1, tower 0) " in (directory / "post-mortem.txt").read_text()


def test_an_error_that_would_recur_is_not_restarted(shards: Path, tmp_path: Path) -> None:
    words = settings(shards, tmp_path / "run", "optim.learning_rate=1e9", "metrics.port=null")
    output = finished(torchrun(2, words, "--standalone", "--max-restarts=3"), code=1)
    assert output.count("error: step") == 1
    root_cause = output[output.index("Root Cause") :]
    assert "rank      : 0 (local_rank: 0)" in root_cause
    assert "training has diverged; lower optim.learning_rate" in root_cause
