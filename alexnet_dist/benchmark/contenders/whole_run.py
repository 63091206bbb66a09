"""A whole run of ours as a contender: the command that a user starts, in a process of its own, and its own records.

Torch is not imported before the run has ended: until then this process only waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system import environment, process

ERROR_LINES = 5  # of the run's output


def measure(words: Sequence[str], warm_up: int, threads: int, folder: str | None = None) -> dict[str, float]:
    """Train with the words of a command line, and return the figures of the steps after the uncounted ones.

    warm_up: uncounted steps, at least one. threads: of the arithmetic. folder: where the run's directory is while it
    lasts; None: the folder for temporary files. Raises UserError or RunError with the run's last lines if it fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        directory = Path(name, "run")
        train([*words, f"run.directory={directory}"], threads)
        from alexnet_dist.runs.directory import METRICS, read_lines  # imports torch

        return figures(read_lines(directory / METRICS), warm_up)


def train(words: Sequence[str], threads: int) -> None:
    """Run the command to its end; raises UserError if it has found a user's mistake, RunError for any other failure."""
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_dist.train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment.child_environment(threads),
        # If this process is killed, the kernel kills the run as well.
        preexec_fn=partial(process.die_with_parent, os.getpid()),
    )
    if done.returncode:
        last_lines = "\n".join(done.stdout.strip().splitlines()[-ERROR_LINES:])
        error = UserError if done.returncode == 2 else RunError
        raise error(f"the run ended with exit code {done.returncode}:\n{last_lines}")


def figures(records: Sequence[Mapping[str, Any]], warm_up: int) -> dict[str, float]:
    """Return the figures of the steps after the uncounted ones; records: of every step, as a run writes them.

    data_wait_share: of the counted steps' time, the part for which the run waited for samples.
    """
    before, counted = records[warm_up - 1 : warm_up], records[warm_up:]
    if not (before and counted):
        raise RunError(f"the run recorded {len(records)} steps; expected more than the {warm_up} that are not counted")
    seconds = counted[-1]["time_s"] - before[0]["time_s"]
    return {
        "images_per_second": (counted[-1]["images"] - before[0]["images"]) / seconds,
        "step_ms": 1000 * seconds / len(counted),
        "data_wait_share": sum(record["data_wait_s"] for record in counted) / seconds,
    }
