"""A run's directory as the trainer writes it: opened and locked by rank 0, appended to, truncated on resume."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.system.files import lock_file, replace_file
from alexnet_dist.system.wording import counted

CONFIG, METRICS, EVALUATIONS, TARGETS, PREEMPTED = (
    "config.yaml",
    "metrics.jsonl",
    "evaluations.jsonl",
    "targets.json",
    "PREEMPTED",
)
LOCK, MEAN, CHECKPOINTS, PROFILE = ".lock", "train.mean.npy", "checkpoints", "profile"
SAVED = ".saved"  # names the step of the first checkpoint: a run that has it never starts from step 0 again
STARTS = "starts.jsonl"  # where each start comes from
RANKS = "ranks.jsonl"  # what each rank has counted by the end of a start
PREEMPTIONS = ".preemptions"  # after how many of its stops by a signal it was started again
POST_MORTEM, REPORT = "post-mortem.txt", "report.html"
SKIPPED = "skipped.jsonl"  # batches that are left out after a rollback, by the number of steps completed before them


def samples_file(rank: int) -> str:
    """Return the name of the file in which a rank records the samples it decoded."""
    return f"samples-rank-{rank}.jsonl"


def open_directory(directory: Path) -> TextIO:
    """Make or reopen a run's directory (rank 0 only) and return its lock, held until it is closed or the process ends.

    Nothing else in it is changed. Raises UserError if the directory cannot be written, is not a run, or is in use.
    """
    with _os_error_as_user_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(path.name for path in directory.iterdir() if path.name[0] != ".")
        if entries and CONFIG not in entries:
            raise UserError(
                f"run.directory: {directory} is not a run: it holds {entries[0]!r} but no {CONFIG};"
                " choose another directory"
            )
        return _lock(directory / LOCK)


def begin(directory: Path, step: int, evaluated_step: int, config_yaml: str, inputs: Mapping[str, bytes]) -> list[str]:
    """Restore a run's directory to what it was at a step, and write the files of this start (rank 0 only).

    Return notes on what was damaged: checkpoints are removed or set aside, lines of records dropped. Before this call a
    start may still be rejected, and leaves the directory unchanged. evaluated_step: of the last evaluation by then.
    inputs: name to content of the files that make the run self-contained, class names and mean image, as Split.to_keep
    returns them. Raises UserError if the directory cannot be written.
    """
    with _os_error_as_user_error(directory):
        removed = checkpoint.remove_unfinished(directory / CHECKPOINTS)
        notes = [f"unfinished checkpoint, without a manifest, removed: {path}" for path in removed]
        aside = checkpoint.set_aside(directory / CHECKPOINTS, step)
        notes += [f"damaged checkpoint set aside: {path}" for path in aside]
        notes += truncate_records(directory, step, evaluated_step)
        # Counted before the mark is removed, as a start may end in between.
        stopped = preemptions(directory) + (directory / PREEMPTED).exists()
        if stopped:
            replace_file(directory / PREEMPTIONS, f"{stopped}\n".encode())
        else:  # that of another run, which was emptied
            (directory / PREEMPTIONS).unlink(missing_ok=True)
        (directory / PREEMPTED).unlink(missing_ok=True)
        # The config first: a directory with other files and without a config is not a run.
        replace_file(directory / CONFIG, config_yaml.encode())
        for name, content in inputs.items():
            replace_file(directory / name, content)
        if step:
            mark_saved(directory, step)  # a run of an earlier version has no mark yet
        else:
            (directory / SAVED).unlink(missing_ok=True)
    return notes


def note_start(directory: Path, facts: Mapping[str, Any]) -> None:
    """Add a line on this start, after `begin` (rank 0 only). Raises UserError if the directory cannot be written."""
    with _os_error_as_user_error(directory):
        _add_lines(directory / STARTS, [{"start": starts(directory) + 1, **facts}])


def starts(directory: Path) -> int:
    """Return how often a run was started; 0 if that is not known."""
    try:
        return len((directory / STARTS).read_bytes().splitlines())
    except OSError:
        return 0


def preemptions(directory: Path) -> int:
    """Return how often a run was started after it was asked to stop and was saved; 0 if that is not known."""
    try:
        # A directory without a configuration was emptied: another run begins.
        return int((directory / PREEMPTIONS).read_text()) if (directory / CONFIG).exists() else 0
    except (OSError, ValueError):
        return 0


def note_ranks(directory: Path, facts: Sequence[Mapping[str, Any]]) -> None:
    """Add a line on each rank at the end of this start (rank 0 only). Raises OSError."""
    _add_lines(directory / RANKS, [{"start": starts(directory), **of_rank} for of_rank in facts])


def _add_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a short file, which is never half-written. Raises OSError."""
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):  # edited by hand
        before += b"\n"
    replace_file(path, before + "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def skip_batches(directory: Path, steps: Sequence[int], reason: str) -> None:
    """Add batches to those that later starts leave out (rank 0 only). Raises OSError."""
    _add_lines(directory / SKIPPED, [{"steps": steps, "reason": reason}])


def skipped_batches(directory: Path) -> list[int]:
    """Return the batches that a start leaves out; UserError if the file is not readable."""
    try:
        return sorted({int(step) for line in read_lines(directory / SKIPPED) for step in line["steps"]})
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory / SKIPPED}: not a list of skipped batches ({error}); expected lines such as"
            ' {"steps": [41, 42], "reason": "..."}; restore it, or remove it to train on all batches'
        ) from None


def mark_saved(directory: Path, step: int) -> None:
    """Note, once a run's first checkpoint is durable, that there is one (rank 0 only). Raises OSError."""
    if not (directory / SAVED).exists():
        replace_file(directory / SAVED, f"{step}\n".encode())


def first_saved(directory: Path) -> str | None:
    """Return the step of the first checkpoint that was ever saved; None before, or if the directory was emptied."""
    path = directory / SAVED
    if not (path.exists() and (directory / CONFIG).exists()):
        return None
    return path.read_text(errors="replace").strip()


def mark_preempted(directory: Path, step: int) -> None:
    """Leave the file that says that the run was asked to stop and is saved at a step (rank 0 only)."""
    replace_file(directory / PREEMPTED, f"stopped and saved at step {step}\n".encode())


@contextmanager
def _os_error_as_user_error(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run.directory: {directory} cannot be written: {error.strerror or error};"
            " choose another directory or change its permissions"
        ) from None


def _lock(path: Path) -> TextIO:
    lock = lock_file(path)
    if lock is None:
        holder = path.read_text(errors="replace").strip()
        raise UserError(
            f"run.directory: {path.parent} is in use by another run ({holder}); stop that one or choose another"
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def truncate_records(directory: Path, step: int, evaluated_step: int) -> list[str]:
    """Drop the records after a step, which the run is about to repeat, and a last line that was not written whole.

    Return a note for each file in which other lines cannot be read: they are dropped too. evaluated_step: the step of
    the last evaluation that is not repeated.
    """
    notes: list[str] = []
    last_steps = {directory / METRICS: step, directory / EVALUATIONS: evaluated_step}
    for path, last in (last_steps | dict.fromkeys(directory.glob("samples-rank-*.jsonl"), step)).items():
        if path.exists():
            *whole, rest = path.read_bytes().split(b"\n")
            steps = [_step(line) for line in whole]
            kept = [line for line, number in zip([*whole, rest], [*steps, _step(rest)], strict=True) if number <= last]
            replace_file(path, b"".join(line + b"\n" for line in kept))
            if unreadable := steps.count(float("inf")):
                notes.append(f"{path}: dropped {counted(unreadable, 'line')} without JSON or a step")
    return notes


def _step(line: bytes) -> float:
    """Return a record's step, infinity if the line is not a record."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")


def check_is_run(directory: Path) -> None:
    """Raise UserError if a path is not the directory of a run."""
    expected = "expected the run.directory of a training"
    if directory.is_file():
        raise UserError(f"{directory}: a file, not a run; {expected}")
    if not directory.is_dir():
        raise UserError(f"{directory}: not a run: there is no such folder; {expected}")
    if not (directory / CONFIG).exists():
        raise UserError(f"{directory}: not a run: there is no {CONFIG} in it; {expected}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; an empty list if there is no file.

    A last line without its end, which a live or killed run leaves, is ignored. Raises UserError for any other line
    that is no object, and for a file that cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a file of JSON lines") from None
    return [_object(path, number, line) for number, line in enumerate(lines, 1)]


def best_step(directory: Path, steps: Iterable[int]) -> int | None:
    """Return which of some steps was evaluated with the lowest top-1 error, the first of equals; None if none was.

    Raises UserError for evaluations that cannot be read.
    """
    path, errors = directory / EVALUATIONS, {}
    for number, line in enumerate(read_lines(path), 1):
        step, error = line.get("step"), line.get("top1_error")
        if not isinstance(step, int) or not isinstance(error, int | float):
            raise UserError(f"{path}:{number}: expected numbers as step and top1_error; remove the line")
        errors[step] = error
    return min((step for step in sorted(steps) if step in errors), key=errors.__getitem__, default=None)


def evaluated_best(directory: Path, steps: Sequence[int]) -> int:
    """Return which of a run's checkpoints has the lowest top-1 error; UserError if none of them was evaluated."""
    best = best_step(directory, steps)
    if best is None:
        found = f"steps {', '.join(map(str, sorted(steps)))}" if steps else "there is none yet"
        raise UserError(f"{directory}: none of its checkpoints was evaluated ({found}); expected the number of a step")
    return best


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return the object of a line of a file; UserError if it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not a line of JSON ({error}); remove the line") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}:{number}: {line[:40]!r} is not a JSON object; remove the line")
    return value
