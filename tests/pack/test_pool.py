"""The worker processes of packing end with the command, and a killed one is reported."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.pack.pool import map_unordered, poll_unordered


def fail_or_sleep(item: int) -> None:
    if item == 0:
        raise UserError("an item cannot be read")
    time.sleep(60)


def test_no_process_outlives_an_interrupt() -> None:
    began_s, before = time.monotonic(), set(multiprocessing.active_children())  # other tests' servers
    for _ in poll_unordered(time.sleep, [60, 60], 2, 0.1):
        break
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - began_s < 30


def test_an_error_of_one_piece_does_not_wait_for_the_others() -> None:
    began_s, before = time.monotonic(), set(multiprocessing.active_children())
    with pytest.raises(UserError, match="cannot be read"):
        list(map_unordered(fail_or_sleep, [1, 0], 2))
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - began_s < 30


def test_a_killed_process_is_no_fault_of_ours() -> None:
    with pytest.raises(RunError, match="a packing process was killed"):
        list(map_unordered(os._exit, [3, 3], 2))


def test_ctrl_c_ends_the_command_at_once() -> None:
    """In a whole command, which must not wait for its processes when it exits."""
    code = (
        "import os, signal, sys, time\nfrom alexnet_dist.errors import run_command\n"
        "from alexnet_dist.pack.pool import poll_unordered\n"
        "def command(_arguments):\n"
        "    for _ in poll_unordered(time.sleep, [60, 60], 2, 0.5):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "if __name__ == '__main__':\n    sys.exit(run_command(command))"
    )
    completed = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=40)
    assert (completed.returncode, completed.stderr) == (130, "stopped by Ctrl-C\n")
