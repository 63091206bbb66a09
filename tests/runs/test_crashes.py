"""A save that ends at any of its writes, as by kill -9 or a power cut: a checkpoint that loads is always there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_dist.runs import checkpoint

CRASHED, KEPT = 9, torch.arange(6.0)
# Everything by which a save changes the disk, or makes a change durable.
CALLS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"), (Path, "mkdir"), (Path, "replace"), (Path, "unlink"), (Path, "open"), (shutil, "rmtree"),
    (checkpoint, "save_file"),
)  # fmt: skip


def save(directory: Path, step: int) -> None:
    for tower in (0, 1):
        checkpoint.write_tower(directory, step, tower, {"weight": KEPT + step + tower})
    checkpoint.commit(directory, step, {})
    checkpoint.delete_old(directory, step, 1)


def crashing(function: Callable[..., Any], at: int, is_after: bool, calls: list[int]) -> Callable[..., Any]:
    """Return a function that ends the process at the call of this number, before or after its effect."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        here = len(calls) == at
        if here and not is_after:
            os._exit(CRASHED)
        result = function(*arguments, **options)
        if here:
            os._exit(CRASHED)
        return result

    return call


def crashes(directory: Path, at: int, is_after: bool) -> bool:
    """Save in a process that ends at one call; return whether it had so many."""
    child = os.fork()
    if child == 0:
        calls: list[int] = []
        for owner, name in CALLS:
            setattr(owner, name, crashing(getattr(owner, name), at, is_after, calls))
        try:
            save(directory, 2)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == CRASHED


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_leaves_a_checkpoint_that_loads(is_after: bool, tmp_path: Path) -> None:
    found_steps: list[int] = []
    for at in range(1, 100):
        directory = tmp_path / str(at)
        directory.mkdir()
        save(directory, 1)
        if not crashes(directory, at, is_after):
            break
        found, complaints = checkpoint.find(directory)
        assert found is not None, (at, complaints)
        assert complaints == []
        for tower in (0, 1):
            assert checkpoint.read_tower(found, tower)["weight"].equal(KEPT + found.step + tower)
        found_steps.append(found.step)
        checkpoint.remove_unfinished(directory)
        save(directory, 3)
        assert sorted(path.name for path in directory.iterdir()) == ["step-00000003"]
    assert len(found_steps) >= 15
    assert found_steps == sorted(found_steps)
    assert set(found_steps) == {1, 2}
