"""A run's directory: who holds it, which records are truncated, what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from support.runs import write_shards

# Holds a run's directory, and forks a child that keeps all its files open, as a loader's workers do.
HOLDER = """
import os, sys, time
from pathlib import Path
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
directory, shards = map(Path, sys.argv[1:])
lock = run_directory.open_directory(directory)
run_directory.begin(directory, 0, 0, "", {path.name: path.read_bytes() for path in shards.iterdir()})
child = os.fork()
if child == 0:
    time.sleep(120)
print(child, flush=True)
time.sleep(120)
"""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_new_run_holds_its_config_classes_and_mean(tmp_path: Path, shards: Path) -> None:
    directory = tmp_path / "deep" / "run"
    with run_directory.open_directory(directory):
        run_directory.begin(directory, 0, 0, "config: text\n", files(shards))
        found = files(directory)
    assert found.pop(".lock").decode().startswith(f"process {os.getpid()} on ")
    assert found == files(shards) | {"config.yaml": b"config: text\n"}


def test_a_run_is_opened_again_with_a_new_config(tmp_path: Path, shards: Path) -> None:
    directory = tmp_path / "run"
    run_directory.open_directory(directory).close()
    run_directory.begin(directory, 0, 0, "old", files(shards))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (directory / name).write_text('{"step": 1}\n{"step": 2}\n')
    (directory / "PREEMPTED").write_text("")
    before = files(directory)
    run_directory.open_directory(directory).close()
    assert files(directory) == before  # it can still be refused
    run_directory.begin(directory, 2, 1, "new", {"train.mean.npy": b"mean"})
    assert (directory / "config.yaml").read_text() == "new"
    assert (directory / "train.mean.npy").read_bytes() == b"mean"
    assert run_directory.read_lines(directory / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert run_directory.read_lines(directory / "evaluations.jsonl") == [{"step": 1}]
    assert not (directory / "PREEMPTED").exists()
    assert len((directory / ".lock").read_text().splitlines()) == 1


def test_starts_after_a_stop_by_a_signal_are_counted(tmp_path: Path) -> None:
    directory, counts = tmp_path / "run", []
    run_directory.open_directory(directory).close()
    for stopped in (False, True, True, False, True):
        if stopped:
            run_directory.mark_preempted(directory, 3)
        run_directory.begin(directory, 0, 0, "", {})
        counts.append(run_directory.preemptions(directory))
    assert counts == [0, 1, 2, 2, 3]
    (directory / "config.yaml").unlink()  # another run begins
    assert run_directory.preemptions(directory) == 0
    run_directory.begin(directory, 0, 0, "", {})
    assert run_directory.preemptions(directory) == 0


def test_starts_are_counted_until_the_directory_is_emptied(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    counts = [run_directory.starts(directory)]
    run_directory.open_directory(directory).close()
    for step in (0, 0, 5):  # it may have ended before its first checkpoint
        run_directory.begin(directory, step, 0, "config", {})
        run_directory.note_start(directory, {"step": step})
        counts.append(run_directory.starts(directory))
    assert counts == [0, 1, 2, 3]
    lines = run_directory.read_lines(directory / "starts.jsonl")
    assert lines == [{"start": 1, "step": 0}, {"start": 2, "step": 0}, {"start": 3, "step": 5}]
    run_directory.note_ranks(directory, [{"rank": 0}, {"rank": 1}])
    assert run_directory.read_lines(directory / "ranks.jsonl") == [{"start": 3, "rank": 0}, {"start": 3, "rank": 1}]
    (directory / "starts.jsonl").unlink()  # as after rm -r RUN/*
    run_directory.note_start(directory, {})
    assert run_directory.starts(directory) == 1


def test_the_first_checkpoint_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert run_directory.first_saved(tmp_path) is None
    run_directory.mark_saved(tmp_path, 40)
    run_directory.mark_saved(tmp_path, 80)
    assert run_directory.first_saved(tmp_path) == "40"
    (tmp_path / "config.yaml").unlink()  # as after rm -r RUN/*
    assert run_directory.first_saved(tmp_path) is None


def test_a_run_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.write_tower(tmp_path / "removed" / "checkpoints", 3, 0, {})
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_nothing_but_a_lock_is_new(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("process 1 on elsewhere\n")
    run_directory.open_directory(tmp_path / "run").close()


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(
        UserError, match=r"photos is not a run: it holds 'cat\.jpg' but no config\.yaml; choose another"
    ):
        run_directory.open_directory(tmp_path / "photos")
    assert files(tmp_path / "photos") == {"cat.jpg": b"cat"}


@pytest.mark.parametrize("name", ["file", "file/run", "taken"])
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, shards: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "config.yaml").mkdir(parents=True)

    def taken() -> None:
        run_directory.open_directory(tmp_path / name).close()
        run_directory.begin(tmp_path / name, 0, 0, "", files(shards))

    with pytest.raises(UserError, match=rf"run\.directory: {tmp_path / name} cannot be written: \w+.*; choose another"):
        taken()


@pytest.fixture
def holder(tmp_path: Path, shards: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process that holds the run's directory, and its child's id."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), str(shards)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


def test_a_directory_belongs_to_one_process_until_it_is_gone(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], int]
) -> None:
    process, child = holder
    for _ in range(2):  # being refused does not free it
        with pytest.raises(
            UserError, match=rf"run is in use by another run \(process {process.pid} on .+\); stop that"
        ):
            run_directory.open_directory(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_text() == ""
    process.kill()
    process.wait()
    os.kill(child, 0)  # a forked child that still has the lock's file open does not hold it
    with run_directory.open_directory(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_truncation_drops_later_steps_and_half_written_lines(tmp_path: Path) -> None:
    line = '{"step": %d, "loss": 1.0}'
    kept = f"{line % 1}\n{line % 10}\n"
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples-rank-0.jsonl", "samples-rank-11.jsonl"):
        (tmp_path / name).write_text(f'{kept}{line % 11}\n7\n[]\n{{"loss": 2}}\n{{"step": null}}\n{{"step": 5, "lo')
    (tmp_path / "other.jsonl").write_text(line % 11)
    run_directory.truncate_records(tmp_path, 10, 10)
    found = {name: content.decode() for name, content in files(tmp_path).items()}
    assert found.pop("other.jsonl") == line % 11
    assert list(found.values()) == [kept] * 4


def test_truncation_ends_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}')
    run_directory.truncate_records(tmp_path, 1, 1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    assert run_directory.read_lines(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    run_directory.truncate_records(tmp_path, 0, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_nothing_is_truncated_where_nothing_is(tmp_path: Path) -> None:
    run_directory.truncate_records(tmp_path, 0, 0)
    assert files(tmp_path) == {}
    assert run_directory.read_lines(tmp_path / "metrics.jsonl") == []
