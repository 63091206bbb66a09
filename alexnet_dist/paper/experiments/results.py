"""The results of an experiment: one line a finished run, which is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.errors import UserError
from alexnet_dist.paper.experiments.arms import Job
from alexnet_dist.runs.directory import EVALUATIONS, METRICS, append, read_lines
from alexnet_dist.training.inputs import NODE_KEYS

RESULTS = "results.jsonl"
TRAINING_ERROR = 0.25  # of figure 1


@dataclass(frozen=True)
class Result:
    """A finished run. Errors are fractions; seconds are of training.

    config: a hash of its configuration. top1_error: on the validation split at the end, None if the run diverged.
    epochs_to_quarter: epochs until an epoch's mean training error was at most 25 %, None if it never was.
    """

    arm: str
    seed: int
    config: str
    top1_error: float | None
    training_error: float | None
    epochs: float
    epochs_to_quarter: int | None
    seconds: float


def fingerprint(settings: Config) -> str:
    """Return a hash of all that determines what a run computes.

    Of what differs from the defaults: a later version's new keys do not change it.
    """
    usual = config.flat(Config())
    values = {
        key: value
        for key, value in config.flat(settings).items()
        if key not in NODE_KEYS and (key not in usual or value != usual[key])
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_results(directory: Path, fingerprints: Mapping[Job, str]) -> tuple[dict[Job, Result], int]:
    """Return the results of these jobs, and how many lines are of other jobs or configurations.

    Raises UserError for a line that is not a result.
    """
    path, found, others = directory / RESULTS, dict[Job, Result](), 0
    jobs = {(job.arm.name, job.seed, value): job for job, value in fingerprints.items()}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a result ({error}); remove the line, and its run is read again"
            ) from None
        job = jobs.get((result.arm, result.seed, result.config))
        if job is None:
            others += 1
        else:
            found[job] = result
    return found, others


def write_result(directory: Path, result: Result) -> None:
    """Append a result."""
    append(directory / RESULTS, asdict(result))


def result_of(job: Job, run: Path, settings: Config, diverged: bool) -> Result:
    """Return the result of a run that has ended, from its files."""
    lines, evaluations = (read_lines(run / name) if (run / name).exists() else [] for name in (METRICS, EVALUATIONS))
    errors = training_errors(lines)
    return Result(
        arm=job.arm.name,
        seed=job.seed,
        config=fingerprint(settings),
        top1_error=None if diverged or not evaluations else evaluations[-1]["top1_error"],
        training_error=None if diverged or not errors else errors[-1],
        epochs=lines[-1]["epoch"] if lines else 0.0,
        epochs_to_quarter=epochs_to(errors, TRAINING_ERROR),
        seconds=lines[-1]["time_s"] if lines else 0.0,
    )


def training_errors(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the mean training error of each complete epoch, from the lines of metrics.jsonl."""
    by_epoch: dict[int, list[float]] = {}
    for line in lines:
        by_epoch.setdefault(max(0, -int(-line["epoch"] // 1) - 1), []).append(line["top1_error"])
    complete = int(lines[-1]["epoch"]) if lines else 0
    return [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in range(complete) if epoch in by_epoch]


def epochs_to(errors: Sequence[float], limit: float) -> int | None:
    """Return the first epoch, from 1, whose mean error is at most `limit`."""
    return next((number for number, error in enumerate(errors, 1) if error <= limit), None)
