"""Ablations: each arm's error beside the baseline's, with the paper's difference, as a table and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_dist.figures.page import TEXT_COLOUR, TRAINING, VALIDATION, Key, new_page
from alexnet_dist.paper.experiments.arms import BASELINE, Arm, Job
from alexnet_dist.paper.experiments.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "What to look for: whether a change costs about as much here as on ImageNet. Points are means over the seeds, with"
    " bars of two standard errors; a bar that crosses zero shows no difference. A small net on small images is another"
    " problem: what helps a net of 61 million weights against overfitting may cost a net of a hundred thousand."
)


@dataclass(frozen=True)
class Row:
    """One arm's comparison with the baseline; errors and differences in points, None without enough runs.

    error: mean top-1 error over the finished seeds. difference: mean over the seeds that both have, arm minus baseline.
    standard_error: of that mean, None for one seed. diverged: runs without an error.
    """

    arm: Arm
    runs: int
    diverged: int
    error: float | None
    training_error: float | None
    difference: float | None
    standard_error: float | None


def compare(arms: Sequence[Arm], results: Mapping[Job, Result]) -> list[Row]:
    """Return a row for each arm; differences are paired by seed, so that what the seed decides cancels."""
    errors: dict[str, dict[int, float]] = {arm.name: {} for arm in arms}
    training: dict[str, list[float]] = {arm.name: [] for arm in arms}
    diverged = dict.fromkeys(errors, 0)
    for job, result in results.items():
        if result.top1_error is None:
            diverged[job.arm.name] += 1
        else:
            errors[job.arm.name][job.seed] = 100 * result.top1_error
            training[job.arm.name] += [] if result.training_error is None else [100 * result.training_error]
    base = errors[BASELINE]
    rows = []
    for arm in arms:
        own = errors[arm.name]
        pairs = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())] if arm.name != BASELINE else []
        rows.append(
            Row(
                arm=arm,
                runs=len(own),
                diverged=diverged[arm.name],
                error=statistics.fmean(own.values()) if own else None,
                training_error=statistics.fmean(training[arm.name]) if training[arm.name] else None,
                difference=statistics.fmean(pairs) if pairs else None,
                standard_error=statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else None,
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the comparison as text."""
    lines = [
        "                       runs   top-1 error   training   difference (points)   the paper, on ImageNet",
        *(_line(row) for row in rows),
        "",
        "difference: mean over the seeds of the arm's error minus the baseline's, +- its standard error",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    error = "-" if row.error is None else f"{row.error:.2f} %"
    training = "-" if row.training_error is None else f"{row.training_error:.1f} %"
    spread = "" if row.standard_error is None else f" +- {row.standard_error:.2f}"
    difference = "" if row.arm.name == BASELINE else "-" if row.difference is None else f"{row.difference:+.2f}{spread}"
    published = "no number" if row.arm.published is None else f"{row.arm.qualifier} {row.arm.published:+.2f}".strip()
    source = "" if row.arm.name == BASELINE else f"{published:<11} {row.arm.section}"
    runs = f"{row.runs}" + (f", {row.diverged} diverged" if row.diverged else "")
    return f"{row.arm.name:<20} {runs:>6}   {error:>11}   {training:>8}   {difference:<19}   {source}".rstrip()


def draw(rows: Sequence[Row]) -> Figure:
    """Draw each arm's difference with error bars, and the paper's beside it."""
    shown = [row for row in rows if row.difference is not None]
    keys = [
        Key("here, CIFAR-10", TRAINING, "marked line"),
        Key("the paper or its source, ImageNet", VALIDATION, "area"),
    ]
    figure = new_page(0.4 * len(shown) + 0.8, "Ablations: change of the top-1 error, in points", CAPTION, keys)
    axes = figure.subplots()
    for position, row in enumerate(shown):
        assert row.difference is not None
        if row.arm.published is not None:
            axes.barh(position, row.arm.published, height=0.5, color=VALIDATION, alpha=0.45)
        bar = None if row.standard_error is None else 2 * row.standard_error
        axes.errorbar(row.difference, position, xerr=bar, fmt="o", color=TRAINING, capsize=3, markersize=5)
    axes.axvline(0, color=TEXT_COLOUR, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row.arm.name.replace("_", " ") for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("points more than the baseline")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure
