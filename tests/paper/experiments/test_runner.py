"""The runner, with real trainings on tiny shards: runs end, diverge, or are decided, and are not run again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.paper.experiments.arms import Arm, Job
from alexnet_dist.paper.experiments.runner import Experiment
from support.programs import read_line, running

TINY = str(Path(__file__).parents[2] / "support" / "tiny.yaml")
SHORT = ("run.steps=12", "data.workers=0", "topology.timeout_s=30")
GOOD = Job(Arm("good", (TINY,), SHORT), 0)
DIVERGING = Job(Arm("diverging", (TINY,), (*SHORT, "optim.learning_rate=1e18")), 0)
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""
ENDLESS = Job(Arm("endless", (TINY,), (*SHORT, "run.steps=1000000", "run.save_every=1000000")), 0)


def steps_of(log: Path) -> list[int]:
    """Return the steps in metrics.jsonl, whose last line may still be incomplete."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def is_decided(job: Job, run: Path) -> bool:
    return job == ENDLESS and len(steps_of(run / "metrics.jsonl")) >= 3


def test_runs_end_diverge_or_are_decided_and_are_not_run_again(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment(shards, tmp_path / "out", 3, is_decided)
    results = experiment.run([GOOD, DIVERGING, ENDLESS], time.monotonic() + 100)
    assert results[GOOD].top1_error == pytest.approx(
        json.loads((tmp_path / "out" / GOOD.name / "evaluations.jsonl").read_text())["top1_error"]
    )
    assert (results[GOOD].epochs, results[GOOD].training_error is None) == (1.0, False)
    assert results[DIVERGING].top1_error is None
    assert 0.2 < results[ENDLESS].epochs < 100
    assert "good/seed-0: training error" in capsys.readouterr().out
    assert experiment.run([GOOD, DIVERGING, ENDLESS], time.monotonic() + 100) == results
    assert capsys.readouterr().out == "3 runs: 3 finished, 0 to train\n"


def test_an_interrupted_run_is_saved_and_resumed(shards: Path, tmp_path: Path) -> None:
    log = tmp_path / "out" / ENDLESS.name / "metrics.jsonl"

    def interrupt() -> None:
        while len(steps_of(log)) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        Experiment(shards, tmp_path / "out", 1).run([ENDLESS], time.monotonic() + 100)
    saved = len(steps_of(log))
    later = Experiment(shards, tmp_path / "out", 1, lambda _, __: len(steps_of(log)) >= saved + 3)
    results = later.run([ENDLESS], time.monotonic() + 100)
    assert ENDLESS in results
    steps = steps_of(log)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= saved + 3


def test_a_run_that_is_decided_before_it_starts_is_not_started(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "out" / ENDLESS.name
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"epoch": 1.0, "top1_error": 0.2, "time_s": 3.0}\n')
    results = Experiment(shards, tmp_path / "out", 1, lambda _, __: True).run([ENDLESS], time.monotonic() + 100)
    assert (results[ENDLESS].epochs_to_quarter, results[ENDLESS].top1_error) == (1, None)
    assert not run.with_name("seed-0.log").exists()


def test_one_process_runs_an_experiment(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with running(HOLD, str(tmp_path / "out" / ".lock")) as holder:
        assert read_line(holder) == "held"
        with pytest.raises(UserError, match=r"out: another process runs an experiment there"):
            Experiment(shards, tmp_path / "out", 1).run([GOOD], time.monotonic() + 100)


def test_an_error_ends_all_and_an_old_log_is_not_read_again(shards: Path, tmp_path: Path) -> None:
    """A divergence of an earlier start is in the log; this start fails for another reason, with the same exit code."""
    broken = Job(Arm("broken", (TINY,), (*SHORT, "model.classes=3")), 0)
    log = tmp_path / "out" / "broken" / "seed-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("training has diverged\n")
    with pytest.raises(RunError, match=r"broken/seed-0: training ended with exit code 2: .*model\.classes: 3"):
        Experiment(shards, tmp_path / "out", 1).run([broken], time.monotonic() + 100)


def test_nothing_begins_without_time(shards: Path, tmp_path: Path) -> None:
    assert Experiment(shards, tmp_path / "out", 1).run([GOOD], time.monotonic()) == {}
    assert not (tmp_path / "out" / "good").exists()
