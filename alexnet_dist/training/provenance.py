"""What a run records of its starts: where each comes from, and what each rank has counted by its end."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

import alexnet_dist
from alexnet_dist.config.loading import DEFAULT
from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.distributed.control import Control
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import PHASES
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.system import resources
from alexnet_dist.system.checkout import commit
from alexnet_dist.training.context import RunContext


def start_facts(run: RunContext, step: int, control: Control, origins: Mapping[str, str]) -> dict[str, object]:
    """Return where a start comes from, on every rank: when, from which step, on which ranks, by which software.

    origins: of the values of the configuration, by key; those of the defaults are left out.
    """
    hosts = control.gather(resources.host_name())
    topology = run.topology
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "step": step,
        "world_size": topology.world_size,
        "replicas": topology.replicas,
        "layout": topology.layout,
        "device": topology.device.type,
        "ranks_by_host": dict(Counter(hosts)),
        "alexnet_dist": alexnet_dist.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(Path(alexnet_dist.__file__).parents[1]) if topology.is_rank0 else None,
        "command": sys.orig_argv,
        "origins": {key: origin for key, origin in origins.items() if origin != DEFAULT},
    }


def note_ranks(run: RunContext, metrics: Metrics, control: Control, step: int) -> None:
    """Record what all ranks have counted in this start, which ends at a step; an unwritten file is a warning."""
    own = {
        "rank": run.topology.rank,
        "host": resources.host_name(),
        "step": step,
        "steps": int(metrics.total("steps_total")),
        "phase_s": {phase: round(metrics.total("phase_seconds_total", phase=phase), 6) for phase in PHASES},
        "bad_samples": {kind: int(metrics.total("bad_samples_total", reason=kind)) for kind in BAD_KINDS},
        "skipped_batches": int(metrics.total("skipped_batches_total")),
        "checkpoint_failures": int(metrics.total("checkpoint_failures_total")),
    }
    by_rank = [json.loads(text) for text in control.gather(json.dumps(own))]
    if run.topology.is_rank0:
        try:
            run_directory.note_ranks(run.directory, by_rank)
        except OSError as error:
            path = run.directory / run_directory.RANKS
            print(f"warning: {path}: not written: {error.strerror}", file=sys.stderr, flush=True)
