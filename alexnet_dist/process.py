"""What a process needs of the operating system: its torchrun environment, memory settings, other processes.

This is the only module that reads environment variables.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from alexnet_dist.errors import PermanentError, UserError
from alexnet_dist.signals import GROUP_SIGNALS, ignore_signals

PR_SET_PDEATHSIG = 1
FINAL_ERROR = "ALEXNET_DIST_FINAL_ERROR"  # the environment variable by which an agent passes a path to its ranks
AGENT_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


@dataclass(frozen=True)
class LaunchInfo:
    """The rank and world size of this process, from torchrun's environment; rank 0 of 1 without torchrun.

    node_rank: index of this process's node. nccl_multi_rank: whether NCCL is set to accept ranks that share a GPU.
    agent_store: whether torchrun's agent serves the rendezvous' store; otherwise rank 0 does.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    under_torchrun: bool
    node_rank: int = 0
    nccl_multi_rank: bool = False
    agent_store: bool = False

    @property
    def spans_nodes(self) -> bool:
        """Whether the run has ranks on other nodes."""
        return self.local_world_size < self.world_size


def launch_info(environment: Mapping[str, str] | None = None) -> LaunchInfo:
    """Read torchrun's variables from the environment (default: os.environ). Raises UserError if one is not a number."""
    variables = os.environ if environment is None else environment

    def number(name: str, default: int) -> int:
        value = variables.get(name, str(default))
        if not (value.isascii() and value.isdigit()):
            raise UserError(f"environment: {name}={value!r}; expected a whole number, as torchrun sets it")
        return int(value)

    world_size = number("WORLD_SIZE", 1)
    return LaunchInfo(
        rank=number("RANK", 0),
        world_size=world_size,
        local_rank=number("LOCAL_RANK", 0),
        local_world_size=number("LOCAL_WORLD_SIZE", world_size),
        under_torchrun="RANK" in variables and "WORLD_SIZE" in variables,
        node_rank=number("GROUP_RANK", 0),
        nccl_multi_rank=variables.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1",
        agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def run_again() -> NoReturn:
    """Replace this process's program by the same command, from its beginning: it stays the process that it is.

    What started it, such as torchrun's agent, sees no end. Files, sockets and memory are released.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def most_restarts() -> int | None:
    """Return how often torchrun may restart this process, None if torchrun has not started it."""
    text = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "")
    return int(text) if text.isdecimal() else None


def write_error_file(message: str, time_s: float) -> None:
    """Write why this rank ends into the file whose text torchrun repeats in its report, if torchrun has named one.

    time_s: of the failure, since the epoch; torchrun reports the rank with the earliest one as the root cause.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": message, "timestamp": int(time_s)}))


def rendezvous_address() -> tuple[str, int]:
    """Return the host, a name or an address, and the port of the rendezvous; UserError if the environment has none."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise UserError(
            f"environment: MASTER_ADDR={host!r}, MASTER_PORT={port!r}; expected both, as torchrun sets them"
        )
    return host, int(port)


def chosen_interface() -> str:
    """Return the network interface that the user has chosen for gloo, or an empty string."""
    return os.environ.get("GLOO_SOCKET_IFNAME", "")


def child_environment(threads: int) -> dict[str, str]:
    """Return this process's environment for a process that it starts, with the number of threads of its arithmetic."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def use_interface(name: str) -> None:
    """Let the process groups to come use a network interface, unless the user has chosen one."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # =: this one, not all whose names begin so


def host_name() -> str:
    """Return the host name of this machine."""
    return socket.gethostname()


def boot_id() -> str:
    """Return the kernel's boot id, which distinguishes machines with the same host name; empty if it is unreadable."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def prepare_cuda() -> None:
    """Set the environment variables that CUDA's libraries read at start, unless the user has set them.

    NCCL (2.26 and newer) then launches kernels of several communicators in the host's order on every device, so the
    tower pair's and the data-parallel group's can be used in turn. cuBLAS gets the workspace that its reproducible
    algorithms need.
    """
    os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def unshare_agent_store() -> None:
    """Have torchrun's agent not keep one store of its ranks for all rounds; to be called in the agent."""
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


def have_agent_handle(number: signal.Signals) -> None:
    """Have torchrun's agent, in which this is called, pass a signal on to its ranks instead of being killed by it."""
    names = os.environ.get(AGENT_SIGNALS, "")
    if names and number.name not in names.split(","):
        os.environ[AGENT_SIGNALS] = f"{names},{number.name}"


def set_final_error_file(path: Path) -> None:
    """Pass the path of distributed.final_error to the processes that this one starts."""
    os.environ[FINAL_ERROR] = str(path)


def final_error_file() -> Path | None:
    """Return the path that this process's agent has set, None without such an agent."""
    path = os.environ.get(FINAL_ERROR)
    return None if path is None else Path(path)


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
