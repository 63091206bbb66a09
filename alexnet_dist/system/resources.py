"""What the machine offers a process: its name, its cores, its memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
from contextlib import suppress
from pathlib import Path

from alexnet_dist.errors import PermanentError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def host_name() -> str:
    """Return the host name of this machine."""
    return socket.gethostname()


def boot_id() -> str:
    """Return the kernel's boot id, which distinguishes machines with the same host name; empty if it is unreadable."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning them to the kernel after each use.

    Training on a CPU frees and allocates the same large blocks every step. With the default thresholds each block is
    mapped and page-faulted again, which costs up to half of a step. Without glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 256 << 20)


def available_memory_bytes() -> int | None:
    """Return the memory that this process may still use, within its control group's limit; None if it is unknown."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return None
    with suppress(OSError, ValueError):  # no control group, or no limit: "max"
        available = min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return available


def check_room_for_locks(locks: int) -> None:
    """Create and release a number of locks as processes share them, to report a full /dev/shm in one sentence.

    Raises PermanentError. Torch and concurrent.futures would fail halfway through and print tracebacks.
    """
    try:
        held = [multiprocessing.get_context("fork").Lock() for _ in range(locks)]
    except OSError as error:
        raise PermanentError(
            f"/dev/shm has no room for {locks} locks of worker processes: {error.strerror}; free space in it"
            " (df /dev/shm shows how much there is), or give a container more (docker run --shm-size=1g)"
        ) from None
    del held
