"""Saving a net's weights and velocities: ours behind the steps, torch.save at once, and a copy of them in memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from alexnet_dist import config as configs
from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import RunError
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.system import environment, resources
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.run_plan import RunPlan
from alexnet_dist.training.saver import Saved, Saver
from alexnet_dist.training.step import Engine, new_engine

WARM_UP = 1  # saves; the first one allocates the memory that later ones use again
UNUSED_PLAN = RunPlan((1,), 0, 1, 1, 1, 1, 1, 0, 0, 0)

# What saves a net's tensors, by tower, as a step's checkpoint: it returns when training may go on, and then what waits
# until the checkpoint is durable, None if it never is.
Save = Callable[[int, Mapping[int, Mapping[str, Tensor]]], Callable[[], object] | None]


def measure(
    kind: str, repeats: int, threads: int, folder: str | None = None, width_divisor: int = 1
) -> dict[str, float]:
    """Return the median milliseconds for which a save stops training, and until it is durable.

    kind: "copy", "torch" or "ours". folder: where to write; None: the folder for temporary files. Both towers are in
    this process, as with one device: a rank of a pair has half of it to save.
    """
    resources.keep_freed_memory()
    torch.set_num_threads(threads)
    net, timeline = plain_nets.geometry(width_divisor), Timeline(torch.device("cpu"))
    model = AlexNet(net, 0)
    engine = new_engine(model, Reducer(model, None, timeline), Rule(), 0, 1, 1, torch.float32, timeline)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        words = [f"run.directory={name}", "run.keep=1", "metrics.port=null"]
        launched = environment.launch_info({})
        topology = resolve_topology("fused", "cpu", launched)
        run = RunContext(configs.load([], words).config, launched, topology, {}, UNUSED_PLAN, net)
        with closing(Saver(run, Control(None))) as saver:
            save = {"copy": copy_in_memory, "torch": torch_save(Path(name)), "ours": our_save(saver)}[kind]
            times = [time_save(save, number, engine) for number in range(WARM_UP + repeats)][WARM_UP:]
    figures = {"stall_ms": 1000 * median(stall_s for stall_s, _ in times)}
    durable_s = [total_s for _, total_s in times if total_s is not None]
    return figures | ({"durable_ms": 1000 * median(durable_s)} if durable_s else {})


def time_save(save: Save, step: int, engine: Engine) -> tuple[float, float | None]:
    """Return the seconds until training may go on, and until the checkpoint is durable."""
    began_s = time.perf_counter()
    wait = save(step, {tower: engine.tensors(tower) for tower in engine.weights})
    stall_s = time.perf_counter() - began_s
    if wait is None:
        return stall_s, None
    wait()
    return stall_s, time.perf_counter() - began_s


def copy_in_memory(_step: int, towers: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Copy all tensors, and forget the copies."""
    copies = [tensor.clone() for named in towers.values() for tensor in named.values()]
    del copies


def torch_save(folder: Path) -> Save:
    """Return what writes all tensors with torch.save and waits for the disk, as training loops usually do."""

    def save(_step: int, towers: Mapping[int, Mapping[str, Tensor]]) -> Callable[[], object]:
        with (folder / "checkpoint.pt").open("wb") as file:
            torch.save(dict(towers), file)
            file.flush()
            os.fsync(file.fileno())
        return lambda: None

    return save


def our_save(saver: Saver) -> Save:
    """Return what begins one of our checkpoints."""

    def save(step: int, towers: Mapping[int, Mapping[str, Tensor]]) -> Callable[[], object]:
        ended = saver.begin(step, {}, towers)
        return lambda: check(ended or saver.finish())

    return save


def check(ended: Saved | None) -> None:
    """Raise RunError if a checkpoint could not be written."""
    if ended is None or ended.error or ended.not_finite:
        raise RunError(f"the checkpoint was not written: {ended}")
