"""torchrun's agent and the processes that it starts, and how far their run is."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from alexnet_dist.system.process import children as children
from support.ranks import free_port


def backends() -> dict[str, list[str]]:
    """Return torchrun's options for each of its rendezvous backends, as its users type them."""
    return {
        "standalone": ["--standalone"],
        "static": ["--rdzv-backend=static", f"--master-port={free_port()}"],
        "c10d": ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"],
    }


def rank_process(agent: int, rank: int) -> int:
    """Return the process id of a rank, once the agent has started it."""
    for _ in range(300):
        for process in children(agent):
            try:
                environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={rank}".encode() in environment:
                return process
        time.sleep(0.1)
    raise AssertionError(f"rank {rank} did not start")


def last_step(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_step(directory: Path, step: int, timeout_s: float = 90) -> float:
    """Wait until a step is logged and return for how long."""
    began_s = time.monotonic()
    while last_step(directory) < step:
        assert time.monotonic() - began_s < timeout_s, f"step {step} is not logged, only {last_step(directory)}"
        time.sleep(0.05)
    return time.monotonic() - began_s


def handles_signals(process: int) -> bool:
    """Return whether a process catches SIGTERM: a rank does so once Python has started."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)
