"""Ablations: each arm's error beside the baseline's, with the paper's difference, as a table and a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_dist.figures.page import TEXT_COLOUR, TRAINING, VALIDATION, Key, new_page
from alexnet_dist.paper.experiments.arms import BASELINE, Arm, Job
from alexnet_dist.paper.experiments.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Student's t: 95 % of the means of n normal differences are within this many standard errors, by n - 1 from 1 on. From
# 10 on the value of 10 is taken, with which an interval is at most 14 % too wide.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
CAPTION = (
    "What to look for: whether a change costs about as much here as on ImageNet. Points are means over the seeds, with"
    " 95\u00a0% confidence intervals; an interval that contains zero shows no difference. If no change had any effect,"
    " four of ten such pictures would still have an interval without zero. A small net on small images is another"
    " problem: what helps a net of 61 million weights against overfitting may cost a net of a hundred thousand."
)
ONE_SEED = " One seed has no interval: nothing says how much of a difference is chance."


@dataclass(frozen=True)
class Row:
    """One arm's comparison with the baseline; errors and differences in points, None without enough runs.

    runs: with an error, of which the means are. pairs: those whose seed the baseline has too. diverged: further runs.
    training_error: of the last epoch, from the batches that the runs have logged. difference: mean over the pairs, arm
    minus baseline. interval: half of its 95 % confidence interval, None for one pair.
    """

    arm: Arm
    runs: int
    pairs: int
    diverged: int
    error: float | None
    training_error: float | None
    difference: float | None
    interval: float | None


def compare(arms: Sequence[Arm], results: Mapping[Job, Result]) -> list[Row]:
    """Return a row for each arm; differences are paired by seed, so that what the seed decides cancels."""
    errors: dict[str, dict[int, float]] = {arm.name: {} for arm in arms}
    training: dict[str, list[float]] = {arm.name: [] for arm in arms}
    diverged = dict.fromkeys(errors, 0)
    for job, result in results.items():
        diverged[job.arm.name] += result.diverged
        if result.top1_error is not None:
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
                pairs=len(pairs),
                diverged=diverged[arm.name],
                error=statistics.fmean(own.values()) if own else None,
                training_error=statistics.fmean(training[arm.name]) if training[arm.name] else None,
                difference=statistics.fmean(pairs) if pairs else None,
                interval=interval(pairs),
            )
        )
    return rows


def interval(values: Sequence[float]) -> float | None:
    """Return half of the 95 % confidence interval of the mean of a few values; None for less than two."""
    if len(values) < 2:
        return None
    return T_95[min(len(values) - 1, len(T_95)) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def table(rows: Sequence[Row]) -> str:
    """Return the comparison as text."""
    lines = [
        "                       runs   top-1 error   training   difference (points)   the paper, on ImageNet",
        *(_line(row) for row in rows),
        "",
        "difference: mean over the seeds of the arm's error minus the baseline's, +- its 95 % confidence interval;",
        "training: error of the last epoch, from the batches that are logged (run.log_every)",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    error = "-" if row.error is None else f"{row.error:.2f}%"
    training = "-" if row.training_error is None else f"{row.training_error:.1f}%"
    published = f"{_published(row.arm):<11} {row.arm.section}"
    runs = f"{row.runs}" + (f", {row.diverged} diverged" if row.diverged else "")
    return (
        f"{row.arm.name:<20} {runs:>6}   {error:>11}   {training:>8}   {_difference(row):<19}"
        f"   {'' if row.arm.name == BASELINE else published}"
    ).rstrip()


def _difference(row: Row) -> str:
    if row.arm.name == BASELINE:
        return ""
    if row.difference is None:
        return "-"
    spread = "" if row.interval is None else f" +- {row.interval:.2f}"
    return f"{row.difference:+.2f}{spread}" + (f" ({row.pairs} of them)" if row.pairs < row.runs else "")


def _published(arm: Arm) -> str:
    return "no number" if arm.published is None else f"{arm.qualifier} {arm.published:+.2f}".strip()


def draw(rows: Sequence[Row]) -> Figure | None:
    """Draw each arm's difference with its interval, and the paper's beside it; None if there is no difference yet.

    An arm without a difference has an empty line, which says why.
    """
    shown = [row for row in rows if row.arm.name != BASELINE]
    if all(row.difference is None for row in shown):
        return None
    keys = [
        Key("here, CIFAR-10", TRAINING, "marked line"),
        Key("the paper or its source, ImageNet", VALIDATION, "area"),
    ]
    caption = CAPTION + (ONE_SEED if all(row.interval is None for row in shown) else "")
    figure = new_page(0.4 * len(shown) + 0.8, "Ablations: change of the top-1 error, in points", caption, keys)
    axes = figure.subplots()
    for position, row in enumerate(shown):
        if row.arm.published is not None:
            axes.barh(position, row.arm.published, height=0.5, color=VALIDATION, alpha=0.45)
        if row.difference is None:
            why = "diverged" if row.diverged else "not finished"
            axes.text(0, position, f" {why}", va="center", color=TEXT_COLOUR, fontstyle="italic")
        else:
            axes.errorbar(row.difference, position, xerr=row.interval, fmt="o", color=TRAINING, capsize=3, markersize=5)
    axes.axvline(0, color=TEXT_COLOUR, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [_label(row.arm) for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("points more than the baseline")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure


def _label(arm: Arm) -> str:
    """Return an arm's name, with the paper's word for its number, where a bar alone would look exact."""
    name = arm.name.replace("_", " ")
    return f"{name}\n(paper: {_published(arm)})" if arm.qualifier else name
