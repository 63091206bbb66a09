"""The environment variables of this process, above all torchrun's; no other module reads or sets its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.errors import UserError

FINAL_ERROR = "ALEXNET_DIST_FINAL_ERROR"  # by which an agent passes a path to its ranks
JOINED = "ALEXNET_DIST_JOINED"  # likewise
AGENT_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"


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


def use_interface(name: str) -> None:
    """Let the process groups to come use a network interface, unless the user has chosen one."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # =: this one, not all whose names begin so


def prepare_cuda() -> None:
    """Set the environment variables that CUDA's libraries read at start, unless the user has set them.

    NCCL (2.26 and newer) then launches kernels of several communicators in the host's order on every device, so the
    tower pair's and the data-parallel group's can be used in turn. cuBLAS gets the workspace that its reproducible
    algorithms need.
    """
    os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def spin_briefly() -> None:
    """Let idle threads of an arithmetic operation give up their core soon, unless the user has chosen how they wait.

    To be called before torch is imported: GNU's OpenMP reads it when it is loaded. By default a thread spins for
    milliseconds until the others are there; with another process on its core, those never come in time.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


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


def set_joined_file(path: Path) -> None:
    """Pass the path of distributed.agent_ending to the processes that this one starts."""
    os.environ[JOINED] = str(path)


def joined_file() -> Path | None:
    """Return the path that this process's agent has set, None without such an agent."""
    path = os.environ.get(JOINED)
    return None if path is None else Path(path)


def final_error_file() -> Path | None:
    """Return the path that this process's agent has set, None without such an agent."""
    path = os.environ.get(FINAL_ERROR)
    return None if path is None else Path(path)
