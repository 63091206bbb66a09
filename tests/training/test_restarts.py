"""A rank or loader process that is killed comes back by torchrun's own restarts, and the run is the same run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ranks import free_port
from support.training import evaluations, finished, losses, settings, torchrun, weights

STEPS, SAVE_EVERY = 60, 5


def backends() -> dict[str, list[str]]:
    """Return torchrun's options for each of its rendezvous backends, as its users type them."""
    return {
        "standalone": ["--standalone"],
        "static": ["--rdzv-backend=static", f"--master-port={free_port()}"],
        "c10d": ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"],
    }


def words(shards: Path, directory: Path) -> list[str]:
    return settings(
        shards, directory, f"run.steps={STEPS}", f"run.save_every={SAVE_EVERY}", "train.deterministic=true",
        "topology.timeout_s=20", "metrics.port=null",
    )  # fmt: skip


def children(parent: int) -> Iterator[int]:
    """Yield the process ids of a process's children."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            yield int(status.parent.name)


def rank_process(agent: int, rank: int) -> int:
    """Return the process id of a rank, once the agent has started it."""
    for _ in range(300):
        for process in children(agent):
            try:
                environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={rank}".encode() in environment:
                return process
        time.sleep(0.1)
    raise AssertionError(f"rank {rank} did not start")


def last_step(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_step(directory: Path, step: int, timeout_s: float = 90) -> float:
    """Wait until a step is logged and return for how long."""
    began_s = time.monotonic()
    while last_step(directory) < step:
        assert time.monotonic() - began_s < timeout_s, f"step {step} is not logged, only {last_step(directory)}"
        time.sleep(0.05)
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(torchrun(4, words(shards, directory)))
    return directory


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
    assert losses(directory) == losses(undisturbed)
    assert evaluations(directory) == evaluations(undisturbed)
    assert weights(directory, STEPS) == weights(undisturbed, STEPS)


def test_an_error_that_would_recur_is_not_restarted(shards: Path, tmp_path: Path) -> None:
    words = settings(shards, tmp_path / "run", "optim.learning_rate=1e9", "metrics.port=null")
    output = finished(torchrun(2, words, "--standalone", "--max-restarts=3"), code=1)
    assert output.count("error: step") == 1
    root_cause = output[output.index("Root Cause") :]
    assert "rank      : 0 (local_rank: 0)" in root_cause
    assert "training has diverged; lower optim.learning_rate" in root_cause
