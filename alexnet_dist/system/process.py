"""This process and its relatives: starting again, dying with a parent, what siblings and children do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from alexnet_dist.system.signals import GROUP_SIGNALS, ignore_signals

PR_SET_PDEATHSIG = 1


def run_again() -> NoReturn:
    """Replace this process's program by the same command, from its beginning: it stays the process that it is.

    What started it, such as torchrun's agent, sees no end. Files, sockets and memory are released.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; parent is the parent's process id.

    The signal is SIGKILL because a stopped process does not react to SIGTERM. If the parent died before the call, this
    process exits at once with 1.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def sibling_state(process: int) -> str:
    """Return what another child of this process's parent is doing: "running", "stopped", or how it has ended.

    The end is "signal 9" or "exit code 1" while the parent has not read it, afterwards "gone". A process of another
    parent is "gone" too: its number has been used again.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    state, parent, status = fields[0], int(fields[1]), int(fields[-1])
    if parent != os.getppid():
        return "gone"
    if state in "ZX":
        if not status:  # also where the kernel hides it
            return "gone"
        return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    return "stopped" if state in "Tt" else "running"


def children(parent: int) -> Iterator[int]:
    """Yield the process ids of a process's children."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(status.parent.name)


def has_lost_sibling(local_world_size: int) -> bool:
    """Return whether one of the ranks that torchrun has started beside this one is gone, ended or killed."""
    alive = 0
    for child in children(os.getppid()):
        with suppress(OSError):
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")  # none of one that has ended
            alive += any(variable.startswith(b"LOCAL_RANK=") for variable in variables)
    return alive < local_world_size


def init_worker(rank_pid: int) -> None:
    """Make a worker process forked by a rank ignore signals to the process group, and die with the rank.

    rank_pid: process id of the rank, which must fork with GROUP_SIGNALS blocked, so that none arrives before this call.
    """
    die_with_parent(rank_pid)
    ignore_signals(GROUP_SIGNALS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
