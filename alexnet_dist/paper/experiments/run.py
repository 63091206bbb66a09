"""Running an experiment to its table and picture, within a budget of hours."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.figures.page import blank_figure
from alexnet_dist.paper.experiments import ablations, figure1
from alexnet_dist.paper.experiments.arms import ABLATIONS, FIGURE1, Job, jobs_of
from alexnet_dist.paper.experiments.results import Result, shard_hashes
from alexnet_dist.paper.experiments.runner import Experiment
from alexnet_dist.system import resources

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_experiment(name: str, data: Path, directory: Path, budget_h: float, seeds: int, parallel: int | None) -> None:
    """Train what an experiment lacks, then print its table and draw its picture, also if it is stopped or a run fails.

    Raises UserError without packed shards in `data`, without matplotlib, or if `directory` cannot be written, before
    anything is trained.
    """
    blank_figure(1.0, 1.0)
    shard_hashes(data)
    jobs = jobs_of(ABLATIONS if name == "ablations" else FIGURE1, seeds)
    is_decided = figure1.is_decided if name == "figure1" else None
    experiment = Experiment(data.absolute(), directory.absolute(), parallel or resources.cores(), is_decided)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trainings save before this process ends
    try:
        try:
            results = experiment.run(jobs, time.monotonic() + 3600 * budget_h)
        except (KeyboardInterrupt, RunError):
            _report(name, directory, jobs, experiment.results(jobs))
            raise
        _report(name, directory, jobs, results)
    except OSError as error:
        raise UserError(
            f"{error.filename or directory}: {error.strerror}; expected --out to be a folder that can be written, with"
            " nothing in the way of its files"
        ) from None


def _report(name: str, directory: Path, jobs: Sequence[Job], results: Mapping[Job, Result]) -> None:
    """Print and write the table of what has finished, and draw it if there is something to draw."""
    figure: Figure | None
    if name == "ablations":
        rows = ablations.compare(ABLATIONS, results)
        text, figure = ablations.table(rows), ablations.draw(rows)
    else:
        text, figure = figure1.table(jobs, results), figure1.draw(directory, jobs, results)
    print(f"\n{text}\n")
    (directory / f"{name}.txt").write_text(text + "\n")
    if figure is not None:
        picture = directory / f"{name}.png"
        figure.savefig(picture, facecolor="white")
        print(picture)
    missing = len(jobs) - len(results)
    if missing:
        print(f"{missing} of {len(jobs)} runs are left; the same command continues", flush=True)
