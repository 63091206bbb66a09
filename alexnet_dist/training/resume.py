"""Where a run stands, and how a start continues from there: the newest checkpoint that verifies, or the beginning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from alexnet_dist import config as configs
from alexnet_dist.distributed.control import Control
from alexnet_dist.errors import UserError
from alexnet_dist.nn.model import Tower
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG
from alexnet_dist.runs.load import differences, geometry_state
from alexnet_dist.runs.weights import restore
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.inputs import NODE_KEYS
from alexnet_dist.training.optim import Progress
from alexnet_dist.training.step import Engine


@dataclass(frozen=True)
class Start:
    """Where a run stands: completed steps, the step of the last evaluation, the schedule's state, training seconds."""

    step: int = 0
    evaluated_step: int = 0
    progress: Progress = field(default_factory=Progress)
    time_s: float = 0.0

    def state(self) -> dict[str, object]:
        """Return what a checkpoint stores of it besides the position."""
        return {"evaluated_step": self.evaluated_step, "progress": asdict(self.progress), "time_s": self.time_s}


def resume(run: RunContext, engine: Engine, control: Control) -> Start:
    """Restore the newest checkpoint that verifies into the engine and return where it stands; else the beginning.

    Rank 0 searches and shares the step, and every rank opens that checkpoint. Nothing in the directory is changed.
    Raises UserError if the checkpoint does not belong to this run.
    """
    home = run.directory / CHECKPOINTS

    def newest_step() -> int | None:
        newest, complaints = checkpoint.find(home)
        for complaint in complaints:
            print(f"checkpoint skipped: {complaint}", file=sys.stderr, flush=True)
        if newest is None and complaints:
            raise UserError(
                f"{home}: no checkpoint verifies; restore one, or remove the directory to start from step 0"
            )
        return None if newest is None else newest.step

    step = control.run_on_rank0(newest_step)
    if step is None:
        engine.broadcast_weights()
        return Start()
    saved, _ = checkpoint.find(home, step)
    assert saved is not None
    check_resumable(saved, geometry_state(run.net), run.position(step))
    for tower in engine.model.modules():
        if isinstance(tower, Tower):
            restore(tower, checkpoint.read_tower(saved, tower.index), engine.velocities[tower.index])
    state = saved.state
    return Start(step, int(state["evaluated_step"]), Progress(**state["progress"]), float(state["time_s"]))


def check_resumable(saved: Checkpoint, net_state: Mapping[str, Any], position: Mapping[str, Any]) -> None:
    """Raise UserError for a checkpoint of another net (its `geometry_state`) or of another order of samples."""
    lines = differences(saved.state["geometry"], net_state, "model")
    if lines:
        raise UserError(
            f"{saved.directory}: a checkpoint of another architecture: {'; '.join(lines[:4])};"
            " choose another run.directory, or the config it was made with"
        )
    keys = {"seed": "run.seed", "global_batch": "data.global_batch", "lanes": "data.lanes", "window": "data.window"}
    lines = [
        f"{keys.get(key, key)}: {value!r} in the checkpoint, {position[key]!r} now"
        for key, value in saved.state["position"].items()
        if key != "step" and value != position[key]
    ]
    if lines:
        raise UserError(
            f"{saved.directory}: resuming would change the order of samples: {'; '.join(lines)};"
            " set them back, or choose another run.directory"
        )


def config_changes(run: RunContext) -> list[str]:
    """Return how the configuration differs from the run's last start: `key: before, now`, without node-local keys."""
    try:
        previous = configs.flat(configs.load([run.directory / CONFIG], []).config)
    except UserError:  # written by a version with other keys
        return []
    current = configs.flat(run.config)
    keys = [key for key in {**previous, **current} if key not in NODE_KEYS and previous.get(key) != current.get(key)]
    return [f"{key}: {previous.get(key)} before, {current.get(key)} now" for key in keys]
