"""A rank or loader process that is killed comes back by torchrun's own restarts, and the run is the same run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.agents import backends, children, rank_process, wait_for_step
from support.training import DETERMINISTIC, TRAIN, assert_same_run, finished, last_line, settings, torchrun

KILLED_AT_START = """
import os, time
from pathlib import Path
marker = Path('{marker}')
if os.environ["RANK"] == "0" and not marker.exists():
    marker.touch()
    time.sleep(4)  # until the others wait
    os.kill(os.getpid(), 9)
from alexnet_dist.train import run
run()
"""
TIMEOUT_S = 8  # of a stopped rank; a busy machine needs seconds for the first steps


def words(shards: Path, directory: Path) -> list[str]:
    return settings(shards, directory, *DETERMINISTIC, "topology.timeout_s=20", "metrics.port=null")


Victim = int | str
KILLED: list[Victim] = [0, 1, 2, 3, "loader"]
CASES = [
    ("standalone", [], 2),  # killed processes: tests/doctor/chaos/test_drill.py
    *(pytest.param(backend, KILLED, None, marks=pytest.mark.slow) for backend in backends()),
    *(pytest.param("c10d", [], stopped, marks=pytest.mark.slow) for stopped in range(4)),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("backend", "killed", "stopped"), CASES)
def test_killed_and_stopped_processes_come_back(
    backend: str, killed: list[Victim], stopped: int | None, undisturbed: Path, shards: Path, tmp_path: Path
) -> None:
    """Ranks and a loader are killed, one after the other, then a rank is stopped."""
    directory = tmp_path / "run"
    faults = [(victim, signal.SIGKILL) for victim in killed]
    arguments = words(shards, directory)
    if stopped is not None:
        faults.append((stopped, signal.SIGSTOP))
        arguments.append(f"topology.timeout_s={TIMEOUT_S}")
    agent = torchrun(4, arguments, *backends()[backend], f"--max-restarts={len(faults)}", "--monitor-interval=0.1")
    for number, (victim, fault) in enumerate(faults, start=1):
        wait_for_step(directory, 11 * number)
        rank = rank_process(agent.pid, 1 if victim == "loader" else int(victim))
        os.kill(next(children(rank)) if victim == "loader" else rank, fault)
        time.sleep(0.5)  # until the agent has ended the others; the records then grow again from a checkpoint on
    output = finished(agent, timeout_s=300)
    assert output.count("resuming from step") == len(faults)
    assert_same_run(directory, undisturbed)
    if stopped is not None:
        assert_named(stopped, output)
        assert f"failed first         rank {stopped} (" in (directory / "post-mortem.txt").read_text()


def assert_named(stopped: int, output: str) -> None:
    """Assert that the three other ranks have named the stopped one, and that one of them has killed it."""
    survivors = [line for line in output.splitlines() if f"rank {stopped} is stopped" in line and "error: rank" in line]
    named = f"lost rank {stopped} (replica {stopped // 2}, tower {stopped % 2}) at: "
    assert len(survivors) == 3
    assert all(line.startswith("error: rank ") and named in line for line in survivors)
    assert any(f" killed rank {stopped}, " in line for line in survivors)
    assert "Unable to shutdown process" not in output  # what torchrun reports after 30 s


def test_the_rank_that_was_killed_is_the_root_cause(shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    agent = torchrun(4, words(shards, directory), "--standalone", "--monitor-interval=0.1")
    wait_for_step(directory, 7)
    os.kill(rank_process(agent.pid, 2), signal.SIGKILL)
    output = finished(agent, code=1)
    assert "rank      : 2 (local_rank: 2)" in output[output.index("Root Cause") :]
    failures = output[output.index("Failures:") : output.index("Root Cause")]
    assert "traceback : rank 3 (replica 1, tower 1) lost rank 2 (replica 1, tower 0) at: " in failures
    last = last_line(output)
    assert last.startswith("error: rank ")
    assert " lost rank 2 (replica 1, tower 0) at: " in last
    assert "; rank 2 was killed by SIGKILL (kill -9, or the kernel because memory ran out); " in last
    assert last.endswith("; the same command resumes from the last checkpoint")
    assert "failed first         rank 2 (replica 1, tower 0) " in (directory / "post-mortem.txt").read_text()


def test_an_error_that_would_recur_is_reported_once_and_not_restarted(shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    words = settings(shards, directory, "optim.learning_rate=1e30", "metrics.port=null")
    output = finished(torchrun(2, words, "--standalone", "--max-restarts=3"), code=1)
    ours, _, report = output.partition("Root Cause")
    assert ours.count("error: step") == 1
    assert ours.count("training has diverged; lower optim.learning_rate") == 1
    assert "Traceback" not in output
    assert "rank      : 0 (local_rank: 0)" in report
    assert "at a learning rate of 1e+30: training has diverged; lower optim.learning_rate" in report
    assert "exitcode  : 2" in report
    post_mortem = (directory / "post-mortem.txt").read_text()
    assert "failed first: step 2: the loss is nan" in post_mortem
    assert "there is no checkpoint: it starts from step 0" in post_mortem


@pytest.mark.slow
def test_a_rank_that_is_killed_before_it_has_met_the_others_comes_back(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for it, and cannot know that torchrun's signal means a restart and not a stop, but by its end."""
    script = tmp_path / "train.py"
    script.write_text(KILLED_AT_START.format(marker=tmp_path / "marker"))
    monkeypatch.setattr("support.training.TRAIN", script)
    output = finished(torchrun(4, words(shards, tmp_path / "run"), "--standalone", "--max-restarts=1"), timeout_s=120)
    assert "finished: 60 steps" in output


@pytest.mark.slow
def test_damaged_shards_end_the_job_once(shards: Path, tmp_path: Path) -> None:
    own, directory = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, own)
    for shard in own.glob("train-*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    words = settings(own, directory, "metrics.port=null")
    output = finished(torchrun(4, words, "--standalone", "--max-restarts=3"), code=1)
    assert "samples in a row could not be read" in output.partition("Root Cause")[0]
    assert output.count(" parameters on 2 replicas") == 1


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_job_once(shards: Path, tmp_path: Path) -> None:
    """No file may have more than 16 KB, as the towers' files have."""
    words = settings(shards, tmp_path / "run", "run.save_every=5", "run.evaluate_every=0", "metrics.port=null")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3", "--nproc-per-node=4"]
    limited = ["sh", "-c", 'ulimit -f 32 && exec "$@"', "sh", *launcher, str(TRAIN), *words]
    process = subprocess.Popen(
        limited, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = finished(process, code=1)
    assert output.count("checkpoint of step 5 not written: File too large; training goes on, and tries again") == 1
    ours = output.partition("Root Cause")[0]
    assert last_line(output).endswith("checkpoint of step 10 not written: File too large")
    assert ours.count("error: /") == 1, output  # the other ranks say whom they have lost, and why
    assert "checkpoint of step 10 not written: File too large" in ours
    assert output.count(" parameters on 2 replicas") == 1
