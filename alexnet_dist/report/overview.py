"""The upper part of the page: where each run stands, its curves, and where its time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alexnet_dist.figures.curves import smoothed
from alexnet_dist.figures.page import clipped
from alexnet_dist.report.chart import Bar, Series, bar_chart, key, line_chart
from alexnet_dist.report.history import (
    History,
    Line,
    Points,
    best_evaluation,
    data_wait_share,
    images_per_s,
    number,
    points,
    typical_rate,
)
from alexnet_dist.report.markup import figure, paragraph, table
from alexnet_dist.report.ranks import COUNTS, RankMetrics, Ranks

UNKNOWN = "–"
LABEL_CHARACTERS = 20  # of a run at the left of a bar
PHASE_COLOURS = {
    "data_wait": 3,
    "forward": 0,
    "link_wait": 1,
    "backward": 5,
    "allreduce_wait": 4,
    "optimizer": 2,
    "graph": 0,
    "other": 6,
}
COLUMNS = (
    "run",
    "epoch",
    "step",
    "training loss",
    "validation top-1 error",
    "top-5 error",
    "best top-1 error",
    "images/s, median",
    "time",
)


def title(runs: Sequence[History]) -> str:
    """Return the title of a page of runs."""
    return f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"


def standing(runs: Sequence[History]) -> str:
    """Return where each run stands, as a table."""
    return table(COLUMNS, [_standing_row(run) for run in runs])


def _standing_row(run: History) -> list[str]:
    last: Line = run.record.steps[-1] if run.record.steps else {}
    evaluation: Line = run.record.evaluations[-1] if run.record.evaluations else {}
    best, rate = best_evaluation(run), typical_rate(run)
    at = "" if best is None else f" (epoch {number(best, 'epoch'):g})"
    return [
        run.name,
        f"{number(last, 'epoch'):.2f} of {run.planned_epochs}" if last else "no step logged yet",
        _amount(number(last, "step"), ",.0f"),
        _amount(number(last, "loss"), ".4f"),
        error_text(number(evaluation, "top1_error")),
        error_text(number(evaluation, "top5_error")),
        UNKNOWN if best is None else error_text(number(best, "top1_error")) + at,
        UNKNOWN if rate is None else f"{rate:,.0f}",
        duration(number(last, "time_s")),
    ]


def _amount(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else UNKNOWN


def error_text(value: float) -> str:
    """Return an error, a fraction, as a percentage."""
    return f"{value:.2%}".replace("%", " %") if math.isfinite(value) else UNKNOWN


def duration(seconds: float) -> str:
    """Return a duration in the two largest units that it has."""
    if not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def curves(runs: Sequence[History]) -> str:
    """Return the curves of loss, error and speed over epochs, of several runs on the same axes, with a legend."""
    drawn = [
        figure(name, line_chart(name, unit, _series(runs, value), percent))
        for name, unit, value, percent in (
            ("Loss", "nats an image", "loss", False),
            ("Top-1 error", "percent of the images", "top1_error", True),
        )
    ]
    speed = [
        Series(run.name, images_per_s(run.record.steps, run.record.evaluations), colour)
        for colour, run in enumerate(runs)
    ]
    drawn.append(figure("Images per second", line_chart("Images per second", "images/s", speed)))
    note = "The speed is that of training: evaluations are left out of it."
    return f'{_keys(runs)}<div class="charts">{"".join(drawn)}</div>{paragraph(note, "soft")}'


def _series(runs: Sequence[History], value: str) -> list[Series]:
    """Return the lines of a chart: of one run also its training batches as logged, behind their moving average."""
    several, found = len(runs) > 1, []
    for colour, run in enumerate(runs):
        training = points(run.record.steps, value)
        name = f"{run.name}, " if several else ""
        if not several:
            found.append(Series("training batches", training, 0, faint=True))
        found.append(Series(f"{name}training batches, smoothed", _smooth(training), colour, faint=several))
        held_out = points(run.record.evaluations, value)
        found.append(Series(f"{name}validation images", held_out, colour if several else 1, marked=True))
    return found


def _smooth(found: Points) -> Points:
    if not found:
        return []
    width = min(len(found), max(1, 2 * (len(found) // 50) + 1))
    values = smoothed(np.array([value for _, value in found]), width)
    return [(epoch, float(value)) for (epoch, _), value in zip(found, values, strict=True)]


def _keys(runs: Sequence[History]) -> str:
    if len(runs) == 1:
        entries = [key("training batches, smoothed", "c0"), key("validation images", "c1", "marked")]
    else:
        entries = [key(run.name, Series("", (), colour).classes, "marked") for colour, run in enumerate(runs)]
        entries.append('<span class="soft">with markers: validation images; pale: training batches, smoothed</span>')
    return f'<div class="keys">{"".join(entries)}</div>'


def data_waits(runs: Sequence[History]) -> str:
    """Return how much of a step rank 0 of each run waited for samples, as bars."""
    bars = []
    for run in runs:
        share = data_wait_share(run.record.steps)
        if share is not None:
            name = "waiting for samples" if len(runs) == 1 else clipped(run.name, LABEL_CHARACTERS)
            parts = [("waiting for samples", share, PHASE_COLOURS["data_wait"]), ("the rest", 1 - share, 0)]
            bars.append(Bar(name, parts, f"{share:.1%}".replace("%", " %")))
    if not bars:
        return paragraph("No durations of steps are recorded yet.", "soft")
    waiting = f"c{PHASE_COLOURS['data_wait']}"
    keys = key("waiting for samples", waiting, "area") + key("the rest of the step", "c0", "area")
    note = (
        "Share of the logged steps, on rank 0. While a run is active, --live shows all phases by rank; a start records"
        " them when it ends."
    )
    drawn = bar_chart("Waiting for samples, share of a step", bars, 1.0)
    return f'<div class="keys">{keys}</div>{drawn}{paragraph(note, "soft")}'


def phases_by_rank(name: str, ranks: Ranks | str) -> str:
    """Return the seconds of a step by phase and rank, as bars, and what the ranks have counted."""
    if isinstance(ranks, str):
        return figure(name, paragraph(ranks, "soft"))
    stepping = [each for each in ranks.answered if each.steps > 0]
    said = _phase_bars(stepping)
    if not stepping:
        said = paragraph("No rank has finished a step yet." if ranks.answered else "No rank answers.", "soft")
    if ranks.problem:
        said += paragraph(f"Metrics are not read: {ranks.problem}.", "error")
    if ranks.silent:
        said += paragraph(f"No metrics from {', '.join(ranks.silent)}.", "error")
    if ranks.not_shown:
        said += paragraph(f"{ranks.not_shown:,} more ranks are not shown.", "soft")
    counts = [count for count in COUNTS if any(count in each.counts for each in ranks.answered)]
    counted = ", ".join(
        f"{COUNTS[count]}: {sum(e.counts.get(count, 0) for e in ranks.answered):,.0f}" for count in counts
    )
    nodes = sorted({f"{each.node} ({each.software})" if each.software else each.node for each in ranks.answered})
    number = len(ranks.answered)
    about = f"Since the ranks began: {counted}. {number} {'rank' if number == 1 else 'ranks'} on {', '.join(nodes)}."
    return figure(name, said + (paragraph(about, "soft") if ranks.answered else ""))


def _phase_bars(ranks: Sequence[RankMetrics]) -> str:
    """Return the mean duration of a step by phase, a bar for each rank, with a legend; empty without ranks."""
    if not ranks:
        return ""
    means = {each.rank: {phase: s / each.steps for phase, s in each.phase_s.items()} for each in ranks}
    bars = [
        Bar(
            f"rank {rank}",
            [(f"{phase}: {s:.4f} s", s, PHASE_COLOURS.get(phase, 6)) for phase, s in found.items()],
            f"{1e3 * sum(found.values()):,.1f} ms",
        )
        for rank, found in means.items()
    ]
    used = [phase for phase in PHASE_COLOURS if any(found.get(phase) for found in means.values())]
    keys = "".join(key(phase, f"c{PHASE_COLOURS[phase]}", "area") for phase in used)
    largest = max(sum(found.values()) for found in means.values())
    return f'<div class="keys">{keys}</div>{bar_chart("Mean duration of a step by phase", bars, largest)}'
