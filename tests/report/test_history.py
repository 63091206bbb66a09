"""What a run's directory says: points of curves, speed without evaluations, and what happened to the run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.errors import UserError
from alexnet_dist.report.history import best_evaluation, data_wait_share, images_per_s, points, read_history
from alexnet_dist.runs.directory import EVALUATIONS, METRICS, POST_MORTEM, PREEMPTED, skip_batches
from support.histories import BATCH, STEP_S, evaluation_lines, metric_lines, write_recorded_run
from support.runs import write_run


def test_an_evaluation_is_no_slow_step() -> None:
    rates = images_per_s(metric_lines(), evaluation_lines())
    assert len(rates) == len(metric_lines()) - 1
    assert [rate for _, rate in rates] == pytest.approx([BATCH / STEP_S] * len(rates))
    assert min(rate for _, rate in images_per_s(metric_lines(), [])) < 3  # with the evaluations it would look so


def test_an_interval_with_an_evaluation_inside_is_measured_by_its_last_step() -> None:
    lines = [line for line in metric_lines() if line["step"] not in (50, 100)]
    rates = images_per_s(lines, evaluation_lines())
    assert [rate for _, rate in rates] == pytest.approx([BATCH / STEP_S] * len(rates))
    assert len(rates) == len(lines) - 1


@given(st.lists(st.floats() | st.none() | st.text(max_size=3), max_size=6))
def test_numbers_that_are_none_are_left_out(values: list[object]) -> None:
    lines = [{"step": n, "epoch": n / 2, "images": n, "time_s": value} for n, value in enumerate(values)]
    found = [value for _, value in points(lines, "time_s")]
    assert found == [float(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    assert all(math.isfinite(rate) and rate > 0 for _, rate in images_per_s(lines, []))


def test_the_share_of_waiting() -> None:
    assert data_wait_share(metric_lines()) == pytest.approx(0.25)
    assert data_wait_share([{"step_s": 0.0, "data_wait_s": 0.0}, {}]) is None


def test_what_happened_to_a_run(tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path)
    quiet = read_history(directory, "quiet")
    assert quiet.events == []
    assert {title for title, _ in quiet.times} == {"last start", "last line of metrics", "newest checkpoint, step 200"}
    best = best_evaluation(quiet)
    assert best is not None
    assert best["epoch"] == 4
    (directory / PREEMPTED).write_text("stopped and saved at step 200\n")
    (directory / POST_MORTEM).write_text("rank 3 failed first\n")
    skip_batches(directory, [41, 42], "loss not finite")
    (directory / "checkpoints" / "step-00000100.damaged").mkdir()
    assert [event.text.strip() for event in read_history(directory, "troubled").events] == [
        "stopped and saved at step 200",
        "rank 3 failed first",
        "steps 41, 42: loss not finite",
        "step-00000100.damaged",
    ]


def test_the_steps_that_changed_nothing_are_those_of_the_newest_checkpoint(tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path)
    assert read_history(directory, "run").unchanged is None  # this checkpoint's manifest does not say
    manifest = directory / "checkpoints" / "step-00000200" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"unchanged": 3}))
    assert read_history(directory, "run").unchanged == 3


def test_a_run_without_records_is_one(tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path, ())[0], "new")
    assert (history.record.steps, history.record.evaluations, history.unchanged) == ([], [], None)
    assert best_evaluation(history) is None


@pytest.mark.parametrize("name", [METRICS, EVALUATIONS])
def test_a_broken_line_is_named(name: str, tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path)
    with (directory / name).open("a") as file:
        file.write('{"step": 3, "epo\n')
    with pytest.raises(UserError, match=rf"{name}:\d+: not a line of JSON .*; remove the line"):
        read_history(directory, "broken")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run: there is no config\.yaml in it"):
        read_history(tmp_path, "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file, not a run"):
        read_history(tmp_path / "file", "none")
