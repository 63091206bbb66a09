"""The error after which a restart is of no use, passed from a rank to the agent that would restart it.

The agent names a file in its environment, which its ranks inherit. The first rank that ends with such an error writes
it.
"""

from __future__ import annotations

import atexit
import json
import os
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from alexnet_dist.system import environment
from alexnet_dist.system.environment import LaunchInfo

JOINED = "alexnet_dist"  # the name of an agent's file in memory, which /proc shows


@dataclass(frozen=True)
class FinalError:
    """Which rank ended, how, and its message; with `timestamp`, in seconds, a file as torchrun reads it."""

    message: str
    timestamp: int
    rank: int
    local_rank: int
    pid: int
    exit_code: int


def announce() -> Path:
    """Name the file to the ranks that this agent is about to start, and have it removed at the agent's end."""
    path = Path(tempfile.gettempdir()) / f"alexnet_dist-{uuid.uuid4().hex}.json"
    environment.set_final_error_file(path)
    atexit.register(path.unlink, missing_ok=True)
    return path


def join() -> None:
    """Tell this rank's agent that its ranks run this package, if it has named a file for that."""
    path = environment.joined_file()
    if path is not None:
        # Another user's, or another file by now, of an agent that has ended: this one ends as for other programs.
        with suppress(OSError):
            if f"memfd:{JOINED}" in str(path.readlink()):
                path.write_text("joined")


def report(message: str, launched: LaunchInfo, exit_code: int) -> None:
    """Leave the error for this rank's agent, unless another rank has; without such an agent, do nothing."""
    path = environment.final_error_file()
    if path is None:
        return
    error = FinalError(message, int(time.time()), launched.rank, launched.local_rank, os.getpid(), exit_code)
    written = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        written.write_text(json.dumps(asdict(error)))
        os.link(written, path)
    except OSError:  # another rank was first, or there is no space: then torchrun restarts the run
        pass
    finally:
        written.unlink(missing_ok=True)


def is_reported() -> bool:
    """Return whether a rank of this rank's agent has left such an error."""
    path = environment.final_error_file()
    return path is not None and path.exists()


def read(path: Path) -> FinalError | None:
    """Return the error that a rank of this agent has left, if one has."""
    try:
        return FinalError(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
