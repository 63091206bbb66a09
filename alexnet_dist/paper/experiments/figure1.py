"""Figure 1: training error by epoch with ReLU and with tanh, each at the best of several learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.figures.page import TEXT_COLOUR, TRAINING, VALIDATION, Key, Line, marker, new_page
from alexnet_dist.paper.experiments.arms import Job
from alexnet_dist.paper.experiments.results import TRAINING_ERROR, Result, epochs_to, training_errors
from alexnet_dist.runs.directory import METRICS, read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES: Mapping[str, tuple[str, Line]] = {"relu": (TRAINING, "-"), "tanh": (VALIDATION, "--")}  # as in the paper
PAPER_RATIO = 6.0  # §3.1: "six times faster"


def errors_of(run: Path) -> list[float]:
    """Return a run's mean training error by epoch so far."""
    path = run / METRICS
    return training_errors(read_lines(path)) if path.exists() else []


def is_decided(job: Job, run: Path) -> bool:
    """Return whether a run has reached 25 % training error, or needs more epochs than another rate of its arm."""
    errors = errors_of(run)
    if epochs_to(errors, TRAINING_ERROR) is not None:
        return True
    arm = job.arm.name.partition("-")[0]
    others = run.parent.parent.glob(f"{arm}-*/{run.name}")
    reached = [number for other in others if other != run and (number := epochs_to(errors_of(other), TRAINING_ERROR))]
    return bool(reached) and len(errors) >= min(reached)


def best(results: Mapping[Job, Result]) -> dict[str, Job]:
    """Return, by activation, the run that reached 25 % training error first; none for an arm that never did."""
    found: dict[str, Job] = {}
    for activation in STYLES:
        runs = [
            (result.epochs_to_quarter, job.seed, job.name, job)
            for job, result in results.items()
            if job.arm.name.partition("-")[0] == activation and result.epochs_to_quarter is not None
        ]
        if runs:
            found[activation] = min(runs, key=lambda run: run[:3])[3]
    return found


def table(jobs: Sequence[Job], results: Mapping[Job, Result]) -> str:
    """Return the epochs that each run took to 25 % training error, and the ratio of the best ones."""
    lines = ["                 epochs to 25 % training error"]
    for job in sorted(jobs, key=lambda job: (job.arm.name.partition("-")[0], float(job.arm.name.partition("-")[2]))):
        result = results.get(job)
        if result is None:
            text = "not finished"
        elif result.epochs_to_quarter is None:
            at = "" if result.training_error is None else f", {result.training_error:.1%} by then"
            text = f"more than {int(result.epochs)}{at}" if result.training_error is not None else "diverged"
        else:
            text = f"{result.epochs_to_quarter}"
        lines.append(f"{job.arm.name:<14} {text:>12}")
    chosen = best(results)
    if len(chosen) == len(STYLES):
        relu, tanh = (results[chosen[name]].epochs_to_quarter for name in STYLES)
        assert relu is not None
        assert tanh is not None
        lines.append(f"tanh takes {tanh / relu:.1f} times as many epochs as ReLU; the paper: {PAPER_RATIO:g} times")
    else:
        missing = " and ".join(name for name in STYLES if name not in chosen)
        lines.append(f"no ratio: {missing} has not reached 25 % training error")
    return "\n".join(lines)


def draw(directory: Path, results: Mapping[Job, Result]) -> Figure:
    """Draw the training error of each arm's best run by epoch, ReLU solid and tanh dashed, as in the paper."""
    chosen = best(results)
    rates = {name: job.arm.name.partition("-")[2] for name, job in chosen.items()}
    keys = [
        Key(f"{name}, learning rate {rates[name]}", colour, "line", line)
        for name, (colour, line) in STYLES.items()
        if name in chosen
    ]
    caption = (
        "What to look for: how many epochs each net needs to the dotted line, 25 % training error. The paper's"
        " figure 1 has a ratio of about six; each arm has the best of its own learning rates."
    )
    figure = new_page(3.6, "Figure 1: training error on CIFAR-10", caption, keys)
    axes = figure.subplots()
    for name, (colour, line) in STYLES.items():
        if name in chosen:
            errors = errors_of(directory / chosen[name].name)
            axes.plot(range(1, len(errors) + 1), errors, line, color=colour, marker=marker(len(errors)), markersize=3.5)
    axes.axhline(TRAINING_ERROR, color=TEXT_COLOUR, linestyle=":", linewidth=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training error")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    return figure
