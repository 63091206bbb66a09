"""Running an experiment to its table and picture, within a budget of hours."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from alexnet_dist.data.manifest import manifest_path
from alexnet_dist.errors import UserError
from alexnet_dist.figures.page import blank_figure
from alexnet_dist.paper.experiments import ablations, figure1
from alexnet_dist.paper.experiments.arms import ABLATIONS, FIGURE1, jobs_of
from alexnet_dist.paper.experiments.runner import Experiment
from alexnet_dist.system import resources


def run_experiment(name: str, data: Path, directory: Path, budget_h: float, seeds: int, parallel: int | None) -> None:
    """Train what an experiment lacks, then print its table and draw its picture.

    Raises UserError without packed shards in `data` or without matplotlib, before anything is trained.
    """
    blank_figure(1.0, 1.0)
    if not manifest_path(data, "train").exists():
        raise UserError(f"{data}: no packed shards; expected the folder that alexnet_dist.pack wrote CIFAR-10 to")
    jobs = jobs_of(ABLATIONS if name == "ablations" else FIGURE1, seeds)
    is_decided = figure1.is_decided if name == "figure1" else None
    experiment = Experiment(data.absolute(), directory.absolute(), parallel or resources.cores(), is_decided)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trainings save before this process ends
    results = experiment.run(jobs, time.monotonic() + 3600 * budget_h)
    if name == "ablations":
        rows = ablations.compare(ABLATIONS, results)
        text, figure = ablations.table(rows), ablations.draw(rows)
    else:
        text, figure = figure1.table(jobs, results), figure1.draw(directory, results)
    picture = directory / f"{name}.png"
    figure.savefig(picture, facecolor="white")
    (directory / f"{name}.txt").write_text(text + "\n")
    print(f"\n{text}\n\n{picture}")
    missing = len(jobs) - len(results)
    if missing:
        print(f"{missing} of {len(jobs)} runs are left; the same command continues")
