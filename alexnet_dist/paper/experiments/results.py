"""The results of an experiment: one line a finished run, which is not run again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import manifest_path
from alexnet_dist.errors import UserError
from alexnet_dist.paper.experiments.arms import Job
from alexnet_dist.runs.directory import CONFIG, EVALUATIONS, METRICS, read_lines
from alexnet_dist.system.files import replace_file
from alexnet_dist.training.inputs import NODE_KEYS

RESULTS = "results.jsonl"
TRAINING_ERROR = 0.25  # of figure 1
RECORD_KEYS = ("run.log_every",)  # what they change is how much is recorded of the same run


@dataclass(frozen=True)
class Result:
    """A finished run. Errors are fractions; seconds are of training.

    config: a hash of its configuration and shards. top1_error: of the last evaluation on the validation split, None if
    there was none or the run diverged. training_error: of the last whole epoch, as training_errors has it.
    epochs_to_quarter: epochs until that was at most 25 %, None if it never was.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    arm: str
    seed: int
    config: str
    top1_error: float | None
    training_error: float | None
    epochs: float
    epochs_to_quarter: int | None
    seconds: float
    diverged: bool = False


_LINE = TypeAdapter(Result)


def shard_hashes(data: Path) -> tuple[str, str]:
    """Return the hashes of the training and the validation split; UserError if one is missing or damaged."""
    for split in ("train", "val"):
        if not manifest_path(data, split).exists():
            raise UserError(
                f"{data}: no packed {split} split; expected the folder that alexnet_dist.pack wrote CIFAR-10 to"
            )
    return manifest.load(manifest_path(data, "train")).sha256, manifest.load(manifest_path(data, "val")).sha256


def fingerprint(settings: Config, shards: tuple[str, str]) -> str:
    """Return a hash of all that determines what a run computes: of its configuration, and of its shards.

    Of what differs from the defaults: a later version's new keys do not change it.
    """
    usual = config.flat(Config())
    values = {
        key: value
        for key, value in config.flat(settings).items()
        if key not in (*NODE_KEYS, *RECORD_KEYS) and (key not in usual or value != usual[key])
    }
    return hashlib.sha256(json.dumps([values, shards], sort_keys=True).encode()).hexdigest()[:16]


def check_own(run: Path, settings: Config, shards: tuple[str, str]) -> None:
    """Raise UserError if a run directory has a training with another configuration or on other shards.

    Training would resume it, or call it finished, if only its net and the order of its samples are the same.
    """
    if not (run / CONFIG).exists():
        return
    differs = []
    if fingerprint(config.load([run / CONFIG], []).config, shards) != fingerprint(settings, shards):
        differs.append("another configuration")
    copy = manifest_path(run, "train")
    if copy.exists() and manifest.load(copy).sha256 != shards[0]:
        differs.append("other shards")
    if differs:
        raise UserError(
            f"{run}: was trained with {' and '.join(differs)}; move it away to have it trained again, or choose"
            " another --out"
        )


def read_results(directory: Path, fingerprints: Mapping[Job, str]) -> tuple[dict[Job, Result], int]:
    """Return the results of these jobs, and how many lines are of other jobs, configurations or shards.

    Raises UserError for a line that is not a result.
    """
    path, found, others = directory / RESULTS, dict[Job, Result](), 0
    jobs = {(job.arm.name, job.seed, value): job for job, value in fingerprints.items()}
    for number, line in enumerate(read_lines(path), 1):
        try:
            result = _LINE.validate_json(json.dumps(line))  # strict: in JSON a float may be written as an integer
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{path}:{number}: not a result: {key}: {first['msg']}; remove the line, and its run is read again"
            ) from None
        job = jobs.get((result.arm, result.seed, result.config))
        if job is None:
            others += 1
        else:
            found[job] = result
    return found, others


def write_result(directory: Path, result: Result) -> None:
    """Append a result durably; a last line without its end, of a process that was killed, is left out."""
    path = directory / RESULTS
    before = path.read_bytes() if path.exists() else b""
    replace_file(path, before[: before.rfind(b"\n") + 1] + json.dumps(asdict(result)).encode() + b"\n")


def result_of(job: Job, run: Path, config_hash: str, diverged: bool) -> Result:
    """Return the result of a run that has ended, from its files."""
    lines, evaluations = read_lines(run / METRICS), read_lines(run / EVALUATIONS)
    errors = training_errors(lines)
    return Result(
        arm=job.arm.name,
        seed=job.seed,
        config=config_hash,
        top1_error=None if diverged or not evaluations else evaluations[-1]["top1_error"],
        training_error=None if diverged or not errors else errors[max(errors)],
        epochs=float(lines[-1]["epoch"]) if lines else 0.0,
        epochs_to_quarter=epochs_to(errors, TRAINING_ERROR),
        seconds=float(lines[-1]["time_s"]) if lines else 0.0,
        diverged=diverged,
    )


def training_errors(lines: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the training error of each complete epoch, from 1: the mean over its lines of metrics.jsonl.

    A line is one batch; run.log_every says how many of an epoch have one. An epoch without a line has no error.
    """
    by_epoch: dict[int, list[float]] = {}
    for line in lines:
        by_epoch.setdefault(max(1, math.ceil(line["epoch"])), []).append(line["top1_error"])
    complete = int(lines[-1]["epoch"]) if lines else 0
    return {epoch: sum(errors) / len(errors) for epoch, errors in sorted(by_epoch.items()) if epoch <= complete}


def epochs_to(errors: Mapping[int, float], limit: float) -> int | None:
    """Return the first epoch whose error is at most `limit`; None if none is."""
    return next((epoch for epoch, error in errors.items() if error <= limit), None)
