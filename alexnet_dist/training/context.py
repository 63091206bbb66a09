"""The run context: what one start of a run is given, resolved once and passed down unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet_dist.config import Config
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import folder
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.system.environment import LaunchInfo
from alexnet_dist.training.run_plan import RunPlan
from alexnet_dist.training.schedule import reached

WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class RunContext:
    """One rank's view of the run that it trains; `inputs.open_run` makes it.

    launched: the environment that torchrun has set. splits: the open shards, "train" and, if the run evaluates, "val".
    plan: the order of all batches. net: the geometry that the config describes.
    """

    config: Config
    launched: LaunchInfo
    topology: Topology
    splits: Mapping[str, Split]
    plan: RunPlan
    net: Geometry

    @property
    def directory(self) -> Path:
        """The run directory, with ~ expanded as in data.root; UserError if there is no such user."""
        return folder("run.directory", self.config.run.directory)

    def position(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint of `step` completed steps stores: the order of samples, and the events so far."""
        past = reached(self.config.run.events, step, self.plan.steps_per_epoch)
        return {
            **self.plan.position(step, self.splits["train"].manifest.sha256),
            "events": [event.changes() for event in past],
            "skipped": sorted(number for number in self.plan.skipped if number < step),
        }

    def log(self, text: str) -> None:
        """Print a line, on rank 0 only."""
        if self.topology.is_rank0:
            print(text, flush=True)


def memory_format_of(config: Config) -> torch.memory_format:
    """Return how maps lie in memory."""
    return torch.channels_last if config.train.channels_last else torch.contiguous_format
