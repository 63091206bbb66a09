"""Where a run stands, and how a start continues from there: the newest checkpoint that verifies, or the beginning."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from alexnet_dist import config as configs
from alexnet_dist.distributed.control import Control
from alexnet_dist.errors import UserError
from alexnet_dist.nn.model import Tower
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG, SAVED, SKIPPED, first_saved, skipped_batches
from alexnet_dist.runs.load import differences, geometry_state, saved_geometry
from alexnet_dist.runs.weights import check_tower, restore
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.inputs import NODE_KEYS
from alexnet_dist.training.schedule import Progress
from alexnet_dist.training.step import Engine

BEGINNING_KEYS = ("run.initial_weights", "run.initial_step", "run.initial_layers")  # only a new run uses them


@dataclass(frozen=True)
class Start:
    """Where a run stands: completed steps, the step of the last evaluation, the schedule's state, training seconds.

    unchanged: steps so far that have changed no weight, because their gradients were not finite. load_s: seconds that
    this start has spent on its checkpoint.
    """

    step: int = 0
    evaluated_step: int = 0
    progress: Progress = field(default_factory=Progress)
    time_s: float = 0.0
    unchanged: int = 0
    load_s: float = field(default=0.0, compare=False)

    def state(self) -> dict[str, object]:
        """Return what a checkpoint stores of it besides the position."""
        state = {"evaluated_step": self.evaluated_step, "progress": asdict(self.progress), "time_s": self.time_s}
        return {**state, "unchanged": self.unchanged}


def without_skipped(run: RunContext, control: Control) -> RunContext:
    """Return the run without the batches that rollbacks leave out, as the directory of rank 0's node lists them."""
    skipped = frozenset(control.run_on_rank0(lambda: skipped_batches(run.directory)))
    return replace(run, plan=replace(run.plan, skipped=skipped))


def resume(run: RunContext, engine: Engine, control: Control) -> Start:
    """Restore the newest checkpoint that verifies into the engine and return where it stands; else the beginning.

    Rank 0 searches and checks, the ranks of replica 0 read, and the other replicas receive weights and velocities from
    them: only rank 0's node needs the run directory. Nothing in it is changed. Raises UserError if the checkpoint does
    not belong to this run or cannot be read.
    """
    began_s = time.monotonic()
    by_node = control.gather(_newest_on_node(run)) if run.launched.spans_nodes else []
    saved = control.run_on_rank0(lambda: find_checkpoint(run, by_node))
    if saved is None:
        engine.broadcast_weights()
        return Start()
    failure = ""
    if run.topology.replica == 0:
        try:
            _restore(saved, engine)
        except UserError as error:
            failure = str(error)
    for text in control.gather(failure):  # else the others would wait for a rank that has left
        if text:
            raise UserError(text)
    engine.broadcast_weights()
    engine.broadcast_velocities()
    return replace(_start_of(saved), load_s=time.monotonic() - began_s)


def _start_of(saved: Checkpoint) -> Start:
    """Return where a checkpoint stands; UserError if its manifest does not say so."""
    try:
        state = saved.state
        progress, unchanged = Progress(**state["progress"]), int(state.get("unchanged", 0))
        dict(state["position"])
        return Start(saved.step, int(state["evaluated_step"]), progress, float(state["time_s"]), unchanged)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{saved.directory / checkpoint.MANIFEST}: no position of a run in it; restore the checkpoint"
        ) from None


def find_checkpoint(run: RunContext, by_node: Sequence[str]) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, on rank 0; each of its files is read once. None at the beginning.

    by_node: what `_newest_on_node` returned, by rank; empty on a single node. Raises UserError if no checkpoint
    verifies, if there are none any more or on another node only, or if the newest one does not belong to this run.
    """
    home = run.directory / CHECKPOINTS
    newest, complaints = checkpoint.find(home)
    for complaint in complaints:
        print(f"checkpoint skipped: {complaint}", file=sys.stderr, flush=True)
    if newest is None and complaints:
        raise UserError(f"{home}: no checkpoint verifies; restore one, or remove {run.directory} to start from step 0")
    step, rank = max([(int(text), rank) for rank, text in enumerate(by_node) if text], default=(0, 0))
    if newest is None:
        if step:
            raise UserError(
                f"{home}: no checkpoint here, on rank 0's node, but one of step {step} on rank {rank}'s node: make that"
                " node the first (torchrun --node-rank=0), or copy its run directory to this one; to start from step"
                " 0, remove it there"
            )
        if first := first_saved(run.directory):
            raise UserError(
                f"{home}: no checkpoint, although this run has saved some, the first at step {first} ({SAVED} says so);"
                f" restore one, or remove {run.directory} to start from step 0"
            )
        return None
    if by_node and step > int(by_node[0] or 0):
        print(
            f"warning: rank {rank}'s node has a checkpoint of step {step}, which is not used: rank 0's node counts, and"
            f" {home} has step {newest.step} there",
            file=sys.stderr,
            flush=True,
        )
    check_resumable(newest, geometry_state(run.net), run.position(newest.step))
    return newest


def _newest_on_node(run: RunContext) -> str:
    """Return the step of the newest checkpoint on this node, on its first rank; empty without one and on others."""
    steps = checkpoint.finished_steps(run.directory / CHECKPOINTS) if run.launched.local_rank == 0 else []
    return str(max(steps)) if steps else ""


def _restore(saved: Checkpoint, engine: Engine) -> None:
    for tower in engine.model.modules():
        if isinstance(tower, Tower):
            tensors = checkpoint.read_tower(saved, tower.index)
            check_tower(tower, tensors, saved.directory / checkpoint.tower_file(tower.index))
            restore(tower, tensors, engine.velocities[tower.index])


def check_resumable(saved: Checkpoint, net_state: Mapping[str, Any], position: Mapping[str, Any]) -> None:
    """Raise UserError for a checkpoint of another net (its `geometry_state`) or of another order of samples."""
    lines = differences(saved_geometry(saved), net_state, "model")
    if lines:
        raise UserError(
            f"{saved.directory}: a checkpoint of another architecture: {'; '.join(lines[:4])};"
            " choose another run.directory, or the config it was made with"
        )
    keys = {"seed": "run.seed", "global_batch": "data.global_batch", "lanes": "data.lanes", "window": "data.window"}
    lines = [
        f"{keys.get(key, key)}: {value!r} in the checkpoint, {position.get(key)!r} now"
        for key, value in saved.state["position"].items()
        if key not in ("step", "events", "skipped") and value != position.get(key)
    ]
    if lines:
        raise UserError(
            f"{saved.directory}: resuming would change the order of samples: {'; '.join(lines)};"
            " set them back, or choose another run.directory"
        )
    skipped = saved.state["position"].get("skipped", [])
    if skipped != position["skipped"]:
        raise UserError(
            f"{saved.directory}: trained without the batches {skipped}, but {SKIPPED} of the run directory has"
            f" {position['skipped']} before step {saved.step}; restore that file"
        )
    events = saved.state["position"].get("events", [])
    if events != position["events"]:
        raise UserError(
            f"{saved.directory}: run.events changed before step {saved.step}: {events} in the checkpoint,"
            f" {position['events']} now; set them back, or give new ones an epoch that is still to come"
        )


def config_changes(run: RunContext) -> list[str]:
    """Return how the configuration differs from the run's last start: `key: before, now`, without node-local keys."""
    try:
        previous = configs.flat(configs.load([run.directory / CONFIG], []).config)
    except UserError:  # written by a version with other keys
        return []
    current = configs.flat(run.config)
    keys = [key for key in {**previous, **current} if key not in NODE_KEYS and previous.get(key) != current.get(key)]
    return [f"{key}: {previous.get(key)} before, {current.get(key)} now{_remark(key)}" for key in keys]


def _remark(key: str) -> str:
    return ", without effect: the run has begun" if key in BEGINNING_KEYS else ""
