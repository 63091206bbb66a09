"""`--profile N`: the trace of each rank has the named regions, and its summary the operators that took longest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.profiler import check_room, profiled
from support.training import finished, settings, torchrun

REGIONS = {
    "stage 0: conv1-conv2", "stage 1: conv3-conv4-conv5", "stage 4: fc8", "post: conv3 forward", "wait: conv3 forward",
    "post: conv3 backward", "wait: conv3 backward", "wait: logits", "post: pixels", "input", "averaging", "optimizer",
}  # fmt: skip


def test_a_profile_of_two_steps_names_what_a_step_does(shards: Path, tmp_path: Path) -> None:
    arguments = settings(shards, tmp_path / "run", "run.steps=8", "run.evaluate_every=0", "--profile=2")
    output = finished(torchrun(2, arguments))
    assert "finished: 8 steps" in output
    for rank in (0, 1):
        trace = json.loads((tmp_path / "run" / "profile" / f"rank-{rank}.json").read_text())
        names = [event.get("name", "") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
        assert set(names) >= REGIONS
        assert names.count("optimizer") == 2
        summary = (tmp_path / "run" / "profile" / f"rank-{rank}.txt").read_text()
        assert summary.startswith("2 steps")
        assert "aten::mkldnn_convolution" in summary


def test_without_a_profile_there_is_nothing(tmp_path: Path) -> None:
    with profiled(0, tmp_path / "profile", 0, "cpu") as after_step:
        after_step()
    assert not (tmp_path / "profile").exists()


def test_a_profile_of_more_steps_than_remain_is_refused() -> None:
    check_room(5, 8)
    check_room(0, 0)
    with pytest.raises(UserError, match=r"--profile: 5 steps after the first 3, but only 7 remain; raise run\.steps"):
        check_room(5, 7)


@pytest.mark.parametrize("steps", ["-1", "two"])
def test_a_wrong_number_is_refused(steps: str, shards: Path, tmp_path: Path) -> None:
    output = finished(torchrun(2, settings(shards, tmp_path / "run", f"--profile={steps}")), 1)
    assert "--profile" in output
    assert not (tmp_path / "run").exists()


def test_a_profile_that_cannot_be_written_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with profiled(1, Path("/proc/nowhere"), 3, "cpu") as after_step:
        for _ in range(4):
            after_step()
    assert "warning: rank 3: /proc/nowhere not written: No such file or directory" in capsys.readouterr().err
