"""The processes of packing end with the command, and one that was killed is told of."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.pack.pool import results, ticking


def fail_or_sleep(piece: int) -> None:
    if piece == 0:
        raise UserError("a piece cannot be read")
    time.sleep(60)


def test_no_process_outlives_an_interrupt() -> None:
    began_s, before = time.monotonic(), set(multiprocessing.active_children())  # other tests' servers
    for _ in ticking(time.sleep, [60, 60], 2, 0.1):
        break
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - began_s < 30


def test_an_error_of_one_piece_does_not_wait_for_the_others() -> None:
    began_s, before = time.monotonic(), set(multiprocessing.active_children())
    with pytest.raises(UserError, match="cannot be read"):
        list(results(fail_or_sleep, [1, 0], 2))
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - began_s < 30


def test_a_killed_process_is_no_fault_of_ours() -> None:
    with pytest.raises(RunError, match="a packing process was killed"):
        list(results(os._exit, [3, 3], 2))


def test_ctrl_c_ends_the_command_at_once() -> None:
    """As a whole command, which must not wait for its processes on the way out either."""
    code = (
        "import os, signal, sys, time\nfrom alexnet_dist.errors import run_command\n"
        "from alexnet_dist.pack.pool import ticking\n"
        "def command(_arguments):\n"
        "    for _ in ticking(time.sleep, [60, 60], 2, 0.5):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "if __name__ == '__main__':\n    sys.exit(run_command(command))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C\n")
