"""Initial weights of a new run from the checkpoint of another one: pre-training and fine-tuning (table 2, nets *)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_dist import config as configs
from alexnet_dist.data.choices import BEST
from alexnet_dist.data.remote import folder
from alexnet_dist.distributed.control import Control
from alexnet_dist.errors import UserError
from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import Tower
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG, evaluated_best
from alexnet_dist.runs.load import differences, geometry_state, saved_geometry
from alexnet_dist.runs.weights import restore
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.step import Engine

WEIGHTS_KEY, STEP_KEY, LAYERS_KEY = "run.initial_weights", "run.initial_step", "run.initial_layers"


def copy_initial_weights(run: RunContext, engine: Engine, control: Control) -> None:
    """Copy layers of the run that run.initial_weights names into the engine of a new run; log which, on rank 0.

    Rank 0 finds the checkpoint, the ranks of replica 0 read it, and the other replicas receive the
    weights from them. Velocities stay zero. Nothing is done if the key is null.

    Raises UserError on all ranks if the other run cannot be used, or lacks a layer of run.initial_layers.
    """
    if run.config.run.initial_weights is None:
        return
    saved, copied = control.run_on_rank0(lambda: _find(run))
    failure = ""
    if run.topology.replica == 0:
        try:
            _copy(saved, copied, engine)
        except UserError as error:
            failure = f"{WEIGHTS_KEY}: {error}"
    for text in control.gather(failure):  # else the others would wait for a rank that has left
        if text:
            raise UserError(text)
    engine.broadcast_weights()
    drawn = [name for name in run.net.layers if name not in copied]
    run.log(
        f"initial weights of {run.config.run.initial_weights}, step {saved.step:,}: {', '.join(copied)};"
        f" drawn: {', '.join(drawn) or 'none'}"
    )


def layers_to_copy(directory: Path, named: Sequence[str], source: Geometry, net: Geometry) -> list[str]:
    """Return the layers of `net` to copy from the net of another run: those named, or all of the same name and shape.

    directory: of the other run. Raises UserError if a named layer is missing in one of the nets or has other shapes, or
    if there is none to copy.
    """
    there, here = weight_shapes(source), weight_shapes(net)
    for name in named:
        for shapes, owner in ((there, str(directory)), (here, "this run")):
            if name not in shapes:
                raise UserError(
                    f"{LAYERS_KEY}: there is no layer {name} in {owner}; expected one of {', '.join(shapes)}"
                )
        if there[name] != here[name]:
            raise UserError(
                f"{LAYERS_KEY}: {name} has weights of {there[name]} in {directory} and of {here[name]} in this run;"
                " leave it out, so that it is drawn, or give both nets the same layer"
            )
    copied = [name for name in here if (name in named if named else there.get(name) == here[name])]
    if not copied:
        first = next(iter(here))
        raise UserError(
            f"{WEIGHTS_KEY}: no layer of {directory} has the name and the shape of one of this run, such as {first}:"
            f" {there.get(first, 'none')} there, {here[first]} here; choose another run, or the net of that one"
        )
    return copied


def weight_shapes(net: Geometry) -> dict[str, str]:
    """Return by layer its units and what each of them reads, such as "4096 x 256 x 6 x 6 from both towers"."""
    shapes, side = {}, net.side
    for shape in geometry.shapes(net):
        layer = net.layers[shape.name]
        kernel = layer.kernel or side
        towers = "the only tower" if net.towers == 1 else "both towers" if layer.reads == "both" else "its own tower"
        shapes[shape.name] = f"{shape.channels} x {shape.fan_in // kernel**2} x {kernel} x {kernel} from {towers}"
        side = shape.side
    return shapes


def _find(run: RunContext) -> tuple[Checkpoint, list[str]]:
    """Return the other run's checkpoint, by default the newest that verifies, and the layers to copy; on rank 0."""
    section = run.config.run
    directory = folder(WEIGHTS_KEY, section.initial_weights or "")
    if directory.resolve() == run.directory.resolve():
        raise UserError(f"{WEIGHTS_KEY}: {directory} is this run's own run.directory; expected another run's")
    if not (directory / CONFIG).exists():
        raise UserError(f"{WEIGHTS_KEY}: {directory} is not a run: no {CONFIG} there; expected a run.directory")
    home, step = directory / CHECKPOINTS, section.initial_step
    try:
        number = evaluated_best(directory, checkpoint.finished_steps(home)) if step == BEST else step
        saved, complaints = checkpoint.find(home, number)
    except UserError as error:
        raise UserError(f"{STEP_KEY}: {error}") from None
    if saved is None:
        found = "; ".join(["no checkpoint verifies", *complaints]) if complaints else "there is no checkpoint yet"
        raise UserError(f"{WEIGHTS_KEY}: {directory}: {found}; choose another run, or wait for its first checkpoint")
    for complaint in complaints:
        print(f"checkpoint skipped: {complaint}; step {saved.step:,} is used", file=sys.stderr, flush=True)
    source = configs.geometry(configs.load([directory / CONFIG], []).config)
    if lines := differences(saved_geometry(saved), geometry_state(source), "model"):
        raise UserError(f"{saved.directory}: does not belong to {directory / CONFIG}: {'; '.join(lines[:4])}")
    return saved, layers_to_copy(directory, section.initial_layers, source, run.net)


def _copy(saved: Checkpoint, layers: Sequence[str], engine: Engine) -> None:
    for tower in engine.model.modules():
        if isinstance(tower, Tower):
            tensors = checkpoint.read_tower(saved, tower.index)
            restore(tower, {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in layers})
