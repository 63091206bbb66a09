"""What a process asks of its surroundings: who torchrun says it is, memory, a death with its parent, signals.

The only reader of the environment.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from alexnet_dist.errors import UserError

PR_SET_PDEATHSIG = 1
# torchrun sends these to a rank's whole process group, just when the rank wants its last batch to save and stop.
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


@dataclass(frozen=True)
class Launched:
    """What torchrun has told this process; without torchrun, the only one of its run.

    node_rank: the number of this process's node. nccl_multi_rank: whether NCCL was told to take ranks that share a GPU.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    under_torchrun: bool
    node_rank: int = 0
    nccl_multi_rank: bool = False


def launched(environment: Mapping[str, str] | None = None) -> Launched:
    """Read what torchrun has set; UserError where it is not what torchrun sets."""
    values = os.environ if environment is None else environment

    def number(name: str, default: int) -> int:
        found = values.get(name, str(default))
        if not (found.isascii() and found.isdigit()):
            raise UserError(f"environment: {name}={found!r}; expected a whole number, as torchrun sets it")
        return int(found)

    world_size = number("WORLD_SIZE", 1)
    return Launched(
        rank=number("RANK", 0),
        world_size=world_size,
        local_rank=number("LOCAL_RANK", 0),
        local_world_size=number("LOCAL_WORLD_SIZE", world_size),
        under_torchrun="RANK" in values and "WORLD_SIZE" in values,
        node_rank=number("GROUP_RANK", 0),
        nccl_multi_rank=values.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1",
    )


def host_name() -> str:
    """Return what this machine calls itself."""
    return socket.gethostname()


def boot_id() -> str:
    """Return what tells this machine, since it was started, from others of the same name; empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def prepare_cuda() -> None:
    """Set what CUDA's libraries read of the environment when they start, unless the user has set it.

    NCCL: kernels of several communicators in the host's order on every device (2.26 and newer), which makes it safe to
    use the pair's and the replicas' in turn. cuBLAS: the workspace that its reproducible algorithms need.
    """
    os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning them to the kernel after each use.

    Training on a CPU frees and allocates the same large blocks every step; with the stock thresholds each is mapped
    and faulted in anew, which costs up to half of a step. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 256 << 20)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, whose process id is given, ends.

    SIGKILL and not SIGTERM: a stopped process does not act on SIGTERM. A parent that died before the call is seen by
    its process id, and ends this process at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def ignore(signals: Iterable[signal.Signals]) -> None:
    """Ignore signals in this process: torchrun sends them to a rank's whole process group, its loaders included."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def serve(rank: int) -> None:
    """Make this process, forked by a rank, outlive the signals to its process group, and never the rank itself.

    rank: its process id. The rank forks with GROUP_SIGNALS blocked, so that none comes in between.
    """
    die_with_parent(rank)
    ignore(GROUP_SIGNALS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def _arrived(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the byte that the C-level handler writes into the socket is what counts."""


class StopRequest:
    """Whether somebody has asked this process to stop, watched by a thread and never by a Python signal handler.

    Python runs its handlers between bytecodes of the main thread, so one that waits inside a collective would not act
    for as long as the collective lasts. Until `arm` and after `disarm` there is nothing to save, and the thread ends
    the process at once with `128 + signal`; in between only when it has not ended by itself within `grace_s`, before
    torchrun kills it after 30 s.
    """

    def __init__(self, signals: Iterable[signal.Signals], grace_s: float = 25.0) -> None:
        """Install the watch; call from the main thread, once in a process."""
        self._event = threading.Event()
        self._armed = threading.Event()
        self._grace_s = grace_s
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, _arrived)
        self._watched = frozenset(int(number) for number in signals)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        while True:
            arrived = [number for number in self._read.recv(64) if number in self._watched]
            if arrived:
                self._event.set()
                if self._armed.is_set():
                    time.sleep(self._grace_s)
                    print(f"not stopped {self._grace_s:.0f} s after signal {arrived[0]}: leaving", file=sys.stderr)
                os._exit(128 + arrived[0])

    def arm(self) -> None:
        """Announce that from now on the process looks at this flag and ends by itself."""
        self._armed.set()

    def disarm(self) -> None:
        """Announce that there is nothing to save any more: a signal that comes now ends the process at once."""
        self._armed.clear()

    def __bool__(self) -> bool:
        """Return whether a signal has arrived."""
        return self._event.is_set()
