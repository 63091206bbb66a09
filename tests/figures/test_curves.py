"""Curves: smoothing, markers, drops of the learning rate, limits, and several runs on the same axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from alexnet_dist.errors import UserError
from alexnet_dist.figures.curves import COLOURS, Record, draw_curves, draw_overlay, read_record, run_names, smoothed


def record(name: str, lines: int, evaluations: int, loss: float = 2.0) -> Record:
    """Return what a run of an epoch a line might have logged."""
    steps = [
        {"step": 10 * line, "images": 60 * line, "epoch": line, "loss": loss / line, "top1_error": 0.9 / line}
        | {"learning_rate": 0.01 if line < 4 else 0.001}
        for line in range(1, lines + 1)
    ]
    return Record(
        name, steps, [{"epoch": epoch, "loss": loss, "top1_error": 0.5 / epoch} for epoch in range(1, evaluations + 1)]
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(0, 5))
def test_smoothing_is_the_mean_of_the_values_around(values: list[float], reach: int) -> None:
    width = min(len(values), 2 * reach + 1)
    width -= 1 - width % 2
    result = smoothed(np.array(values), width)
    windows = [values[max(0, index - width // 2) : index + width // 2 + 1] for index in range(len(values))]
    assert np.allclose(result, [np.mean(window) for window in windows], atol=1e-9)


def test_one_runs_curves_have_the_logged_values_and_mark_drops() -> None:
    run = record("a", 40, 3)
    figure = draw_curves(run)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "training batches, smoothed",
        "held-out images",
    ]
    for axes, key in zip(figure.axes, ("loss", "top1_error"), strict=True):
        drops = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert [list(np.asarray(line.get_xdata())) for line in drops] == [[3, 3]]
        assert np.allclose(np.asarray(axes.lines[0].get_ydata()), [line[key] for line in run.steps])
        assert np.allclose(np.asarray(axes.lines[2].get_ydata()), [line[key] for line in run.evaluations])
    assert "50.0%" not in [text.get_text() for text in figure.axes[1].texts]
    assert "16.7%" in [text.get_text() for text in figure.axes[1].texts]  # the last evaluation
    assert "What to look for" in figure.texts[1].get_text()


@pytest.mark.parametrize(("lines", "mark"), [(1, "o"), (29, "o"), (30, "")])
def test_few_points_are_marked_and_inside_the_axes(lines: int, mark: str) -> None:
    run = record("a", lines, 0)
    for axes in draw_curves(run).axes:
        assert [line.get_marker() for line in axes.lines[:2]] == [mark, mark]
        values = np.asarray(axes.lines[0].get_ydata())
        low, high = axes.get_ylim()
        assert low == 0
        assert values.max() < high


def test_runs_are_overlaid_in_colours_of_their_own() -> None:
    runs = [record("one", 40, 3), record("two", 40, 4), record("new", 2, 0)]
    figure = draw_overlay(runs)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["one: 16.7%", "two: 12.5%", "new: no evaluation"]
    for axes in figure.axes:
        curves = [(to_hex(line.get_color()), line.get_marker(), line.get_alpha()) for line in axes.lines]
        first, second, third = COLOURS[:3]
        faint = 0.3
        assert curves == [
            (first, "", faint),
            (first, "o", None),
            (second, "", faint),
            (second, "o", None),
            (third, "o", faint),
        ]
    lines = {line.get_linestyle() for line in draw_overlay([record("a", 3, 2)] * 8).axes[0].lines}
    assert lines == {"-", "--"}  # the eighth run has the first one's colour


def test_runs_of_the_same_name_are_named_by_their_paths(tmp_path: Path) -> None:
    directories = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    assert run_names(directories) == [str(directories[0]), str(directories[1]), "other"]


def test_what_is_not_a_run_or_has_logged_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run: there is no config\.yaml in it"):
        read_record(tmp_path, "a")
    with pytest.raises(UserError, match=r"new: no line in metrics\.jsonl yet; leave this run out"):
        draw_overlay([record("one", 3, 0), record("new", 0, 0)])
