"""Contenders of several processes: ranks under torchrun on this machine, which end together.

Torch is not imported here: this process only waits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial

from alexnet_dist import process
from alexnet_dist.errors import RunError

LAST_LINES = 12


def measure(task: str, ranks: int, settings: Mapping[str, object]) -> dict[str, float]:
    """Run a task of `contender` in so many ranks, which all print the same figures, and return them."""
    # A free port of this machine's own, and no name to be looked up.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    words = [*torchrun, "-m", "alexnet_dist.benchmark.contenders", task, json.dumps(settings)]
    # Where this process is killed, torchrun dies with it and the ranks with torchrun, each by the kernel's hand.
    tied = partial(process.die_with_parent, os.getpid())
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, preexec_fn=tied)
    if done.returncode:
        # A rank's own words come first, then a page of torchrun's on how it ended the others.
        said = done.stderr.partition("torch/distributed/elastic")[0] or done.stderr
        raise RunError(f"{ranks} ranks of {task} failed:\n" + "\n".join(said.strip().splitlines()[-LAST_LINES:]))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
