"""Contenders of several processes: ranks under torchrun on this machine.

Torch is not imported here: this process only waits for the ranks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial

from alexnet_dist.errors import RunError
from alexnet_dist.system import process

ERROR_LINES = 12  # of the ranks' output


def measure(task: str, ranks: int, settings: Mapping[str, object]) -> dict[str, float]:
    """Run a task in `ranks` ranks, which all print the same figures, and return them; raises RunError if one fails."""
    # A free port on this machine, and an address that needs no name lookup.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *torchrun, "-m", "alexnet_dist.benchmark.contenders", task, json.dumps(settings)]
    # If this process is killed, the kernel kills torchrun as well, and the ranks when torchrun has ended.
    die_with_parent = partial(process.die_with_parent, os.getpid())
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=die_with_parent)
    if done.returncode:
        # The error of the rank comes first, then torchrun's report on how it stopped the other ranks.
        error = done.stderr.partition("torch/distributed/elastic")[0] or done.stderr
        raise RunError(f"{ranks} ranks of {task} failed:\n" + "\n".join(error.strip().splitlines()[-ERROR_LINES:]))
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
