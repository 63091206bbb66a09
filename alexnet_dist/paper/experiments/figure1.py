"""Figure 1: training error by epoch with ReLU and with tanh, each at the best of several learning rates."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.figures.page import TEXT_COLOUR, TRAINING, VALIDATION, Key, Line, marker, new_page
from alexnet_dist.paper.experiments.arms import RATES, Job
from alexnet_dist.paper.experiments.results import TRAINING_ERROR, Result, epochs_to, training_errors
from alexnet_dist.runs.directory import METRICS, read_lines
from alexnet_dist.system.wording import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES: Mapping[str, tuple[str, Line]] = {"relu": (TRAINING, "-"), "tanh": (VALIDATION, "--")}  # as in the paper
PAPER_RATIO = 6.0  # §3.1: "six times faster"

Best = Mapping[tuple[str, int], Job]  # by activation and seed


def errors_of(run: Path) -> dict[int, float]:
    """Return a run's training error by epoch so far."""
    return training_errors(read_lines(run / METRICS))


def is_decided(job: Job, run: Path) -> bool:
    """Return whether a run has reached 25 % training error, or needs more epochs than another rate of its arm."""
    errors = errors_of(run)
    if epochs_to(errors, TRAINING_ERROR) is not None:
        return True
    others = run.parent.parent.glob(f"{_activation(job)}-*/{run.name}")
    reached = [number for other in others if other != run and (number := epochs_to(errors_of(other), TRAINING_ERROR))]
    return bool(reached) and len(errors) >= min(reached)


def best(results: Mapping[Job, Result]) -> Best:
    """Return, for each seed, the run of each activation that reached 25 % training error first; none if none did."""
    found: dict[tuple[str, int], tuple[int, str, Job]] = {}
    for job, result in results.items():
        if result.epochs_to_quarter is not None:
            key, candidate = (_activation(job), job.seed), (result.epochs_to_quarter, job.name, job)
            found[key] = min(found.get(key, candidate), candidate, key=lambda each: each[:2])
    return {key: job for key, (_, _, job) in found.items()}


def table(jobs: Sequence[Job], results: Mapping[Job, Result]) -> str:
    """Return the epochs that each run took to 25 % training error, and the ratio of the best ones of each seed."""
    lines = ["                        epochs to 25 % training error"]
    lines += [
        f"{job.name:<21} {_epochs(results.get(job)):>12}"
        for job in sorted(jobs, key=lambda job: (_activation(job), _rate(job), job.seed))
    ]
    return "\n".join([*lines, conclusion(jobs, results), *_at_the_edge(best(results))])


def conclusion(jobs: Sequence[Job], results: Mapping[Job, Result]) -> str:
    """Return the ratio that the results show, as a sentence; it says so if runs that could change it are left."""
    chosen, ratios = best(results), []
    for seed in sorted({job.seed for job in jobs}):
        epochs = [_quarter(results, chosen.get((activation, seed))) for activation in STYLES]
        relu, tanh = epochs
        if relu is not None and tanh is not None:
            ratios.append(tanh / relu)
    left = len(jobs) - len(results)
    so_far = f" so far, with {left} of {len(jobs)} runs left" if left else ""
    if not ratios:
        missing = " and ".join(name for name in STYLES if name not in {activation for activation, _ in chosen})
        reached = f"{missing} has not reached 25 % training error" if missing else "no seed has both activations"
        return f"no ratio{so_far}: {reached}"
    over = f" ({len(ratios)} seeds: {', '.join(f'{ratio:.1f}' for ratio in ratios)})" if len(ratios) > 1 else ""
    mean = statistics.fmean(ratios)
    return f"tanh takes {mean:.1f} times as many epochs as ReLU{over}{so_far}; the paper: {PAPER_RATIO:g} times"


def draw(directory: Path, jobs: Sequence[Job], results: Mapping[Job, Result]) -> Figure | None:
    """Draw the training error of each activation's best run of each seed by epoch; None if no run has reached 25 %.

    ReLU is solid and tanh dashed, as in the paper.
    """
    chosen = best(results)
    if not chosen:
        return None
    keys = [
        Key(f"{name}, learning rate {_rates(chosen, name)}", colour, "line", line)
        for name, (colour, line) in STYLES.items()
        if _rates(chosen, name)
    ]
    caption = (
        "What to look for: how many epochs each net needs to the dotted line, 25 % training error. The paper's"
        f" figure 1 has a ratio of about six. Here {conclusion(jobs, results)}. Each arm has the best of"
        f" {len(RATES)} learning rates."
    )
    figure = new_page(3.6, "Figure 1: training error on CIFAR-10", caption, keys)
    axes = figure.subplots()
    for (name, _), job in sorted(chosen.items()):
        colour, line = STYLES[name]
        errors = errors_of(directory / job.name)
        axes.plot(list(errors), list(errors.values()), line, color=colour, marker=marker(len(errors)), markersize=3.5)
    axes.axhline(TRAINING_ERROR, color=TEXT_COLOUR, linestyle=":", linewidth=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training error")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    return figure


def _activation(job: Job) -> str:
    return job.arm.name.partition("-")[0]


def _rate(job: Job) -> float:
    return float(job.arm.name.partition("-")[2])


def _rates(chosen: Best, name: str) -> str:
    """Return the learning rates of an activation's best runs, as text."""
    rates = sorted({_rate(job) for (activation, _), job in chosen.items() if activation == name})
    return " or ".join(f"{learning_rate:g}" for learning_rate in rates)


def _quarter(results: Mapping[Job, Result], job: Job | None) -> int | None:
    return None if job is None else results[job].epochs_to_quarter


def _epochs(result: Result | None) -> str:
    if result is None:
        return "not finished"
    if result.diverged:
        return "diverged"
    if result.epochs_to_quarter is not None:
        return f"{result.epochs_to_quarter}"
    at = "" if result.training_error is None else f", {percent(result.training_error)} by then"
    return f"more than {int(result.epochs)}{at}"


def _at_the_edge(chosen: Best) -> list[str]:
    """Return a line for each best rate that is the smallest or the largest tried: a better one may be beyond it."""
    return [
        f"{job.name} has the {'smallest' if _rate(job) == min(RATES) else 'largest'} rate that was tried; the best one"
        " may be beyond it"
        for _, job in sorted(chosen.items())
        if _rate(job) in (min(RATES), max(RATES))
    ]
