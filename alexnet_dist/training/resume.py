"""What must be open before the first step, each from the config: data, programme, net, and the point to go on from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import UserError
from alexnet_dist.nn.model import Tower
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training.optim import Progress
from alexnet_dist.training.step import Engine


@dataclass(frozen=True)
class Start:
    """Where a run stands: completed steps, the step of the last evaluation, the schedule's memory, training seconds."""

    step: int = 0
    evaluated_step: int = 0
    progress: Progress = field(default_factory=Progress)
    time_s: float = 0.0

    def state(self) -> dict[str, object]:
        """Return what a checkpoint stores of it besides the position."""
        return {"evaluated_step": self.evaluated_step, "progress": asdict(self.progress), "time_s": self.time_s}


def resume(
    directory: Path,
    trainer: Engine,
    net_state: dict[str, object],
    position: dict[str, int | str],
    control: Control,
    place: Topology,
) -> Start:
    """Restore the newest whole checkpoint into the engine and return where it stands; the beginning if there is none.

    The chief looks, tells the step to all, and every rank opens that one. Nothing in the directory is changed.
    Raises UserError where it is not this run's to go on from.
    """
    home = directory / run_directory.CHECKPOINTS

    def newest_step() -> int:
        newest, complaints = checkpoint.find(home)
        for complaint in complaints:
            print(f"checkpoint passed over: {complaint}", file=sys.stderr, flush=True)
        if newest is None and complaints:
            raise UserError(f"{home}: no checkpoint is whole; restore one, or remove the directory to start anew")
        return NOTHING if newest is None else newest.step

    step = run_on_rank0(newest_step, control, place)
    if step == NOTHING:
        trainer.share_weights()
        return Start()
    saved, _ = checkpoint.find(home, step)
    assert saved is not None
    run_directory.check_resumable(saved, net_state, position)
    for tower in trainer.model.modules():
        if isinstance(tower, Tower):
            run_directory.restore(tower, checkpoint.read_tower(saved, tower.index), trainer.velocities[tower.index])
    state = saved.state
    return Start(step, int(state["evaluated_step"]), Progress(**state["progress"]), float(state["time_s"]))


def changes(settings: Config) -> list[str]:
    """Return what a run's configuration has become since it was last started: `key: before, now`, places left out."""
    try:
        before = config.flat(config.load([Path(settings.run.directory) / run_directory.CONFIG], []).config)
    except UserError:  # of a version with other keys
        return []
    now = config.flat(settings)
    keys = [key for key in {**before, **now} if key not in OWN_KEYS and before.get(key) != now.get(key)]
    return [f"{key}: {before.get(key)} before, {now.get(key)} now" for key in keys]


def check_resumable(saved: checkpoint.Checkpoint, net_state: Mapping[str, Any], position: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another net (its `geometry_state`), or of another order of samples."""
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
