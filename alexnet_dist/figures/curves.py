"""Curves of loss and error over epochs: of one run, or of several on the same axes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alexnet_dist.errors import UserError
from alexnet_dist.figures.page import (
    LABEL_POINTS,
    SUBTITLE_POINTS,
    TEXT_COLOUR,
    TRAINING,
    VALIDATION,
    Key,
    Line,
    clipped,
    marker,
    new_page,
)
from alexnet_dist.runs.directory import EVALUATIONS, METRICS, check_is_run, read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

PANELS = {"loss": "loss", "top1_error": "top-1 error"}
HEIGHT = 3.3  # inches
HEADROOM = 1.1  # of the vertical axis, by the largest value
LABEL_CHARACTERS = 40
# Distinct in print and for colour-blind readers (Okabe and Ito); later runs repeat them with other lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES: tuple[Line, ...] = ("-", "--", ":")


@dataclass(frozen=True)
class Record:
    """What a run logged: the objects of metrics.jsonl, one every few steps, and of evaluations.jsonl."""

    name: str
    steps: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]]


def read_record(directory: Path, name: str) -> Record:
    """Read what a run logged. Raises UserError if the directory is not a run, or a line is not one of a run's."""
    check_is_run(directory)
    return Record(name, _numbers(directory / METRICS), _numbers(directory / EVALUATIONS))


def _numbers(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record; UserError for one without the numbers that are drawn."""
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        for key in ("epoch", *PANELS):
            if not isinstance(line.get(key), int | float):
                raise UserError(f"{path}:{number}: {key} is {line.get(key)!r}, expected a number; remove the line")
    return lines


def run_names(directories: Sequence[Path]) -> list[str]:
    """Return a name for each run: its directory's, or the whole path as given where several directories share one."""
    names = [directory.resolve().name for directory in directories]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [str(directory) if name in shared else name for directory, name in zip(directories, names, strict=True)]


def smoothed(values: Floats, width: int) -> Floats:
    """Return the moving average over `width` values, over fewer at both ends; (n,) to (n,)."""
    counts = np.convolve(np.ones_like(values), np.ones(width), mode="same")
    mean: Floats = np.convolve(values, np.ones(width), mode="same") / counts
    return mean


def draw_curves(run: Record) -> Figure:
    """Draw one run's loss and error over epochs; it has at least one line of metrics."""
    keys = [Key("training batches, smoothed", TRAINING, "marked line" if marker(len(run.steps)) else "line")]
    if run.evaluations:
        keys.append(Key("held-out images", VALIDATION, "marked line"))
    last = run.steps[-1]
    caption = (
        "What to look for: whether the held-out error still falls, how far it is from the training error, and what a"
        " drop of the learning rate (dotted line) changes. Random crops and dropout can make the training error the"
        " higher one."
    )
    title = f"{clipped(run.name, LABEL_CHARACTERS)}: {int(last['step']):,} steps, {int(last['images']):,} images"
    figure = new_page(HEIGHT, title, caption, keys)
    for axes, key in _panels(figure, [run]):
        _plot_training(axes, run, key, TRAINING)
        if run.evaluations:
            _plot_evaluations(axes, run, key, VALIDATION)
            _label_last(axes, run, key)
        _set_limits(axes)
        _mark_drops(axes, run.steps)
    return figure


def draw_overlay(runs: Sequence[Record]) -> Figure:
    """Draw the loss and error of several runs over epochs on the same axes, one colour a run.

    Raises UserError for a run that has logged nothing yet.
    """
    for run in runs:
        if not run.steps:
            raise UserError(f"{run.name}: no line in {METRICS} yet; leave this run out, or wait for its first steps")
    styles = [
        (COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]) for number in range(len(runs))
    ]
    keys = [
        Key(_overlay_label(run), colour, "marked line", line) for run, (colour, line) in zip(runs, styles, strict=True)
    ]
    caption = (
        "What to look for: which run's held-out error (with markers; the last one is in the legend) is lower at the"
        " same epoch, and whether that changes later. Training batches are faint and smoothed."
    )
    figure = new_page(HEIGHT, f"{len(runs)} runs", caption, keys)
    for axes, key in _panels(figure, runs):
        for run, (colour, line) in zip(runs, styles, strict=True):
            _plot_training(axes, run, key, colour, faint=True)
            if run.evaluations:
                _plot_evaluations(axes, run, key, colour, line)
        _set_limits(axes)
    return figure


def _overlay_label(run: Record) -> str:
    error = f"{run.evaluations[-1]['top1_error']:.1%}" if run.evaluations else "no evaluation"
    return f"{clipped(run.name, LABEL_CHARACTERS)}: {error}"


def _panels(figure: Figure, runs: Sequence[Record]) -> list[tuple[Axes, str]]:
    """Return the axes of the loss and of the error, each with its key in the log lines."""
    panels = list(zip(figure.subplots(1, 2), PANELS, strict=True))
    for axes, key in panels:
        axes.set_title(PANELS[key], loc="left", fontsize=SUBTITLE_POINTS, color=TEXT_COLOUR)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch", color=TEXT_COLOUR, fontsize=SUBTITLE_POINTS)
        axes.tick_params(labelsize=LABEL_POINTS)
        axes.set_xlim(0, 1.03 * max(float(lines[-1]["epoch"]) for run in runs for lines in _lines(run)))
        if key == "top1_error":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return panels


def _lines(run: Record) -> list[Sequence[dict[str, Any]]]:
    return [lines for lines in (run.steps, run.evaluations) if lines]


def _column(lines: Sequence[dict[str, Any]], key: str) -> Floats:
    return np.array([line[key] for line in lines], dtype=np.float64)


def _plot_training(axes: Axes, run: Record, key: str, colour: str, faint: bool = False) -> None:
    """Plot a value of the training batches, smoothed; if it is not faint, the values as logged as well."""
    epochs, values = _column(run.steps, "epoch"), _column(run.steps, key)
    width = min(len(values), max(1, 2 * (len(values) // 50) + 1))
    mark = marker(len(values))
    if faint:
        axes.plot(epochs, smoothed(values, width), marker=mark, color=colour, alpha=0.3, linewidth=1.2, ms=3)
    else:
        axes.plot(epochs, values, marker=mark, color=colour, alpha=0.25, linewidth=0.8, ms=3)
        axes.plot(epochs, smoothed(values, width), marker=mark, color=colour, linewidth=1.8, ms=4)


def _set_limits(axes: Axes) -> None:
    """Begin the vertical axis at zero, and leave space above the largest value."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    largest = float(values[np.isfinite(values)].max(initial=0.0))
    axes.set_ylim(0, HEADROOM * largest if largest > 0 else 1.0)


def _plot_evaluations(axes: Axes, run: Record, key: str, colour: str, line: Line = "-") -> None:
    """Plot a value of the held-out images, with a marker for each evaluation, smaller if there are many."""
    epochs, values = _column(run.evaluations, "epoch"), _column(run.evaluations, key)
    size = 4 if marker(len(values)) else 2
    axes.plot(epochs, values, marker="o", linestyle=line, color=colour, ms=size, linewidth=1.5)


def _label_last(axes: Axes, run: Record, key: str) -> None:
    """Write the last value of the held-out images beside its marker."""
    last = run.evaluations[-1]
    text = f"{last[key]:.3f}" if key == "loss" else f"{last[key]:.1%}"
    style: dict[str, Any] = {"ha": "right", "va": "bottom", "color": VALIDATION, "fontsize": SUBTITLE_POINTS}
    axes.annotate(text, (last["epoch"], last[key]), xytext=(0, 6), textcoords="offset points", **style)


def _mark_drops(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    """Mark the epochs at which the learning rate drops; labels of neighbours stand in two rows."""
    drops = [pair for pair in itertools.pairwise(steps) if pair[1]["learning_rate"] < pair[0]["learning_rate"]]
    for number, (before, after) in enumerate(drops):
        epoch, note, height = before["epoch"], f"lr {after['learning_rate']:g} ", 0.98 - 0.05 * (number % 2)
        axes.axvline(epoch, color=TEXT_COLOUR, linewidth=0.8, linestyle=":")
        axes.text(epoch, height, note, transform=axes.get_xaxis_transform(), ha="right", va="top", fontsize=8)
