"""Durable writes and file locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_dist.system.files import lock_file, replace_durably, replace_file

HOLD = """
import pathlib, sys
from alexnet_dist.system.files import lock_file
lock = lock_file(pathlib.Path(sys.argv[1]))
print("held" if lock is not None else "not held", flush=True)
sys.stdin.read()
"""
# Prints the id of a forked worker that outlives the process which holds the lock.
HOLD_AND_FORK = """
import os, pathlib, sys, time
from alexnet_dist.system.files import lock_file
lock = lock_file(pathlib.Path(sys.argv[1]))
worker = os.fork()
if worker == 0:
    time.sleep(60)
    os._exit(0)
print(worker, flush=True)
sys.stdin.read()
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that locks `path` and then waits."""
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_write_overwrites_the_remains_of_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name("file.tmp").write_bytes(b"half of a longer content")
    replace_file(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_synced_before_the_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    inodes = {tmp_path.stat().st_ino: "folder"}
    real_replace = Path.replace

    def sync(descriptor: int) -> None:
        events.append(f"sync {inodes[os.fstat(descriptor).st_ino]}")

    def rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(path, target)

    temporary = tmp_path / "temporary"
    temporary.write_bytes(b"content")
    inodes[temporary.stat().st_ino] = "file"
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    replace_durably(temporary, tmp_path / "file")
    assert events == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.json"
    replace_file(target, b"old")

    def full(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        replace_file(target, b"new")
    assert target.read_text() == "old"


def test_only_one_process_holds_a_lock_and_a_kill_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start(HOLD, path) as holder:
        assert first_line(holder) == "held"
        assert lock_file(path) is None
        holder.send_signal(signal.SIGKILL)
    lock = lock_file(path)
    assert lock is not None
    with lock, start(HOLD, path) as other:
        assert first_line(other) == "not held"
        other.kill()
    with start(HOLD, path) as other:
        assert first_line(other) == "held"
        other.kill()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start(HOLD_AND_FORK, path) as holder:
        worker = int(first_line(holder))
        assert lock_file(path) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        try:
            os.kill(worker, 0)  # raises if the worker has ended
            lock = lock_file(path)
        finally:
            os.kill(worker, signal.SIGKILL)
    assert lock is not None
    lock.close()


def test_a_lock_file_keeps_its_text(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("process 1 on host\n")
    lock = lock_file(path)
    assert lock is not None
    with lock:
        assert path.read_text() == "process 1 on host\n"


def test_a_lock_in_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_file(tmp_path / "missing" / "lock")


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        lock_file(tmp_path / "lock")
    assert (tmp_path / "precious").read_text() == "content"
