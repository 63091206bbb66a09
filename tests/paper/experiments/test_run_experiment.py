"""The command around an experiment: what is reported when it is stopped, and mistakes in --data and --out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.paper.experiments.arms import ABLATIONS, FIGURE1, Arm, Job
from alexnet_dist.paper.experiments.results import Result, fingerprint, shard_hashes, write_result
from alexnet_dist.paper.experiments.run import run_experiment
from alexnet_dist.paper.experiments.runner import Experiment


def finish(data: Path, out: Path, arms: tuple[Arm, ...], epochs_to_quarter: int | None = None) -> None:
    """Write results for the first seed of arms, as if they had been trained."""
    out.mkdir(exist_ok=True)
    for number, arm in enumerate(arms):
        job = Job(arm, 0)
        own = fingerprint(job.config(data, out), shard_hashes(data))
        write_result(out, Result(arm.name, 0, own, 0.3 + number / 100, 0.4, 5.0, epochs_to_quarter, 9.0))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("tanh/seed-0: training ended")])
def test_what_has_finished_is_reported_when_it_is_stopped(
    error: BaseException,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(Experiment, "run", stopped)
    finish(shards, tmp_path / "out", ABLATIONS[:2])
    with pytest.raises(type(error)):
        run_experiment("ablations", shards, tmp_path / "out", 1.0, 1, 1)
    printed = capsys.readouterr().out
    assert "half_net                  1        31.00%      40.0%   +1.00" in printed
    assert f"10 of {len(ABLATIONS)} runs are left" in printed
    assert (tmp_path / "out" / "ablations.txt").read_text() in printed
    assert (tmp_path / "out" / "ablations.png").exists()


@pytest.mark.parametrize(("name", "arms"), [("ablations", ABLATIONS), ("figure1", FIGURE1)])
def test_a_finished_experiment_is_reported_again(
    name: str, arms: tuple[Arm, ...], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(shards, tmp_path / "out", arms, epochs_to_quarter=7)
    run_experiment(name, shards, tmp_path / "out", 1.0, 1, 1)
    printed = capsys.readouterr().out
    assert f"{len(arms)} finished, 0 to train" in printed
    assert "runs are left" not in printed
    assert (tmp_path / "out" / f"{name}.png").exists()


def make_file_of_run(out: Path) -> None:
    out.mkdir()
    (out / ABLATIONS[0].name).touch()


BLOCKED: dict[str, Callable[[Path], object]] = {
    "a file": Path.touch,
    "below a file": lambda out: out.parent.touch(),
    "results are a folder": lambda out: (out / "results.jsonl").mkdir(parents=True),
    "a run is a file": make_file_of_run,
    "a log is a folder": lambda out: (out / f"{ABLATIONS[0].name}/seed-0.log").mkdir(parents=True),
    "the picture is a folder": lambda out: (out / "ablations.png").mkdir(parents=True),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_a_folder_that_cannot_be_written_is_one_sentence(name: str, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "above" / "out"
    if name != "below a file":
        out.parent.mkdir()
    BLOCKED[name](out)
    if name == "the picture is a folder":
        finish(shards, out, ABLATIONS)
    with pytest.raises(UserError, match=rf"{out.parent}.*; expected "):
        run_experiment("ablations", shards, out, 1.0, 1, 1)


def test_folders_without_a_packed_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no packed train split; expected the folder that alexnet_dist\.pack wrote"):
        run_experiment("figure1", tmp_path, tmp_path / "out", 1.0, 1, 1)
    assert not (tmp_path / "out").exists()
