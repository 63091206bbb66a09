"""A full /dev/shm, in which the locks of worker processes are kept, is reported in one sentence that names it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.synchronize import SemLock
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.errors import RunError
from alexnet_dist.system import resources
from support.training import settings

SENTENCE = "/dev/shm has no room for {} locks of worker processes: No space left on device; free space in it"
# In a mount namespace of its own, a file system of a given size in place of /dev/shm.
SMALL = 'mount -t tmpfs -o size="$1" tmpfs /dev/shm && shift && exec "$@"'


def run_small(size: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose /dev/shm has a size, such as 8k; each lock needs 4 KiB while it is created."""
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", SMALL, "sh", size, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def can_mount() -> bool:
    try:
        return run_small("8k", "true").returncode == 0
    except FileNotFoundError:
        return False


def test_there_is_room_for_locks_here() -> None:
    resources.check_room_for_locks(20)


def test_what_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SemLock, "__init__", full)
    with pytest.raises(RunError, match=SENTENCE.format(7)):
        resources.check_room_for_locks(7)


COMMANDS: dict[str, tuple[int, Callable[[Path, Path], list[str]]]] = {
    "train": (
        11,
        lambda shards, home: ["alexnet_dist.train", *settings(shards, home / "run", "metrics.port=null")],
    ),
    "pack": (
        8,
        lambda shards, home: ["alexnet_dist.pack", str(shards.parent / "source"), str(home), "--processes", "2"],
    ),
}


@pytest.mark.skipif(not can_mount(), reason="this user cannot mount file systems")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("size", ["8k", "28k"])
def test_a_command_ends_with_one_sentence(size: str, command: str, shards: Path, tmp_path: Path) -> None:
    locks, arguments = COMMANDS[command]
    done = run_small(size, sys.executable, "-m", *arguments(shards, tmp_path))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("train is read from ")]
    assert line.startswith(f"error: {SENTENCE.format(locks)} (df /dev/shm")
