"""A drill of some faults on a tiny run, and what its report makes of losses and leaks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_dist.doctor.chaos import aftermath, command
from alexnet_dist.doctor.chaos.aftermath import Outcome
from alexnet_dist.doctor.chaos.drill import Record, describe
from alexnet_dist.doctor.chaos.faults import KINDS
from alexnet_dist.doctor.chaos.job import MARK, Job, run_to_its_end
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS
from support.training import settings

STEPS = 300
RECORDS = [Record("kill-rank", "rank 1", 41, 1, 6.5), Record("full-disk", "all ranks", 90, 0, 2.0)]


def drilled(out: Path, shards: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = settings(shards, out / "unused", f"run.steps={STEPS}", "run.save_every=5", "run.evaluate_every=0")
    command = [sys.executable, "-m", "alexnet_dist.doctor", "chaos", "--out", str(out), "--json", *options, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.timeout(420)
def test_a_run_survives_five_random_faults(shards: Path, tmp_path: Path) -> None:
    # One of each; the others take up to half a minute each, but for `terminate`, which other tests inject.
    kinds = ["kill-rank", "kill-loader", "kill-agent", "full-disk", "torn-checkpoint"]
    assert set(kinds) < set(KINDS)
    options = ["--faults=5", "--mean-s=0.4", "--seed=5", "--nproc-per-node=2", f"--kinds={','.join(kinds)}"]
    done = drilled(tmp_path / "out", shards, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["passed"]
    assert outcome["difference"] == 0
    assert outcome["leaked"] == []
    assert [record["recovery_s"] < 60 for record in outcome["records"]] == [True] * 5
    assert sorted(record["kind"] for record in outcome["records"]) == sorted(kinds)
    assert [record["started_again"] for record in outcome["records"] if record["kind"] != "full-disk"].count(True) == 1
    assert max(record["lost_steps"] for record in outcome["records"]) <= 10
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == outcome


def test_a_report_names_what_was_lost() -> None:
    passed = Outcome(RECORDS, 2, True, [], 0.0, 1)
    assert passed.passed
    text = passed.text()
    assert describe(RECORDS[0]) == "kill-rank (rank 1) at step 41: trains again after 6.5 s, 1 step lost"
    assert "recovery         4.2 s on average, 6.5 s at most" in text
    assert text.splitlines()[-1] == "result           passed"
    failures = {
        "no recovery": Outcome([Record("stop-rank", "rank 0", 3, 0, None)], 1, False, [], 0.0, 1),
        "process 12; run/x.tmp": Outcome(RECORDS, 2, True, ["process 12", "run/x.tmp"], 0.0, 1),
        "no: weights differ by up to 0.002": Outcome(RECORDS, 2, True, [], 0.002, 1),
        "not compared": Outcome(RECORDS, 2, True, [], None, 1),
        "faults           2 of 3": Outcome(RECORDS, 3, True, [], 0.0, 1),
        "finished         no": Outcome(RECORDS, 2, False, [], 0.0, 1),
        "lost, started again": Outcome([Record("kill-rank", "rank 0", 3, 0, 8.0, True)], 1, True, [], 0.0, 2),
    }
    for expected, outcome in failures.items():
        assert not outcome.passed
        assert expected in outcome.text()
        assert outcome.text().endswith("failed")


def save(run: Path, step: int, value: float) -> None:
    (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    for tower in range(2):
        tensors = {"conv1.weight": torch.full((3,), 4.0), "fc8.bias": torch.tensor([1.0, value])}
        checkpoint.write_tower(run / CHECKPOINTS, step, tower, tensors)
    checkpoint.commit(run / CHECKPOINTS, step, {})


def test_runs_are_compared_by_their_last_checkpoints(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("reference", "same", "other", "shorter")]
    for run, step, value in zip(runs, (9, 9, 9, 8), (2.0, 2.0, 2.5, 2.0), strict=True):
        save(run, step, value)
    assert [aftermath.difference(run, runs[0]) for run in runs] == [0, 0, 0.25, None]


def test_what_a_job_leaves_is_found(tmp_path: Path) -> None:
    run, before = tmp_path / "run", aftermath.files_outside()
    save(run, 5, 1.0)
    job = Job([f"run.directory={run}"], 2, tmp_path / "log")
    assert aftermath.leaks(job, run, before) == []
    (run / "config.yaml.tmp").touch()
    (run / CHECKPOINTS / "step-00000006").mkdir()
    waits = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, env={**os.environ, MARK: str(run)}) as left:
        found = aftermath.leaks(job, run, before)
        left.kill()
    assert found[0] == f"process {left.pid}"
    assert found[1:] == [f"{run}/config.yaml.tmp", f"{run}/{CHECKPOINTS}/step-00000006 without a manifest"]


def test_a_job_that_cannot_train_is_told_with_its_last_line(tmp_path: Path) -> None:
    job = Job([f"run.directory={tmp_path / 'run'}", "data.root=/nowhere/at/all"], 2, tmp_path / "log", restarts=0)
    expected = r"the run without faults has not finished: /nowhere/at/all.*; see .*log"
    with pytest.raises(RunError, match=expected):
        run_to_its_end(job, 60)


def test_what_cannot_be_drilled_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"--kinds: earthquake; expected some of kill-rank,"):
        command.main(["--out", str(tmp_path / "new"), "--kinds", "earthquake"])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match=r"used is not empty; choose a new folder"):
        command.main(["--out", str(tmp_path / "used")])
    with pytest.raises(UserError, match=r"cut-shard is not possible: https://host/set is no folder"):
        command.main(["--out", str(tmp_path / "new"), "--kinds", "cut-shard", "data.root=https://host/set"])
    with pytest.raises(UserError, match=r"--out: .*: Not a directory; choose a folder that can be made"):
        command.main(["--out", str(tmp_path / "used" / "file" / "below")])
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "new"), "--faults", "0"])
    assert "--faults: found '0', expected a whole number above 0" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
