"""A run directory as a training leaves it, written without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class, Colour, Manifest, Options, Shard, Sidecar
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed.topology import Topology, resolve_topology
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.load import geometry_state
from alexnet_dist.system import environment
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.run_plan import RunPlan
from support.plans import PLAIN

SIZE, CLASSES = 16, 7
# Stands for the shards of a context that opens none: what a position needs of them.
UNOPENED: Any = {"train": SimpleNamespace(manifest=SimpleNamespace(sha256="abc"))}


def settings(*words: str) -> Config:
    """Return a small run's configuration with key=value changes."""
    file = Path(__file__).with_name("runs.yaml")
    return configs.load([file], list(words)).config


def context(
    config: Config,
    splits: Mapping[str, Split] | None = None,
    plan: RunPlan = PLAIN,
    topology: Topology | None = None,
    net: Geometry | None = None,
) -> RunContext:
    """Return a run's context on this process, which torchrun may have started, with no shards open."""
    launched = environment.launch_info()
    if topology is None:
        section = config.topology
        topology = resolve_topology(section.layout, config.train.device, launched, section.share_device)
    return RunContext(config, launched, topology, splits or UNOPENED, plan, net or configs.geometry(config))


def write_shards(root: Path) -> Path:
    """Write what a run copies from a packed training set: its manifest and mean image."""
    root.mkdir(parents=True)
    np.save(root / run_directory.MEAN, np.full((3, SIZE, SIZE), 100, np.float32))
    zeros = "0" * 64
    manifest.save(
        Manifest(
            split="train",
            size=SIZE,
            images=12,
            classes=tuple(Class(f"class-{label}") for label in range(CLASSES)),
            shards=(Shard("train-000000.tar", 12, 1, zeros),),
            index=Sidecar("train.index.npy", zeros),
            mean=Sidecar(run_directory.MEAN, zeros),
            colour=Colour((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))),
            rejected=(),
            options=Options(
                seed=0, size=SIZE, quality=90, chroma="420", filter="bicubic", samples_per_shard=12, holdout=None
            ),
            libraries={},
        ),
        manifest.manifest_path(root, "train"),
    )
    return root


def write_run(home: Path, steps: tuple[int, ...] = (3,), *words: str) -> tuple[Path, dict[int, AlexNet]]:
    """Write a run with checkpoints; return its directory and each step's net."""
    config = settings(*words)
    shards, directory = write_shards(home / "shards"), home / "run"
    inputs = {path.name: path.read_bytes() for path in shards.iterdir()}
    run_directory.open_directory(directory).close()
    run_directory.begin(directory, 0, 0, configs.to_yaml(config), inputs)
    nets = {}
    for step in steps:
        nets[step] = AlexNet(configs.geometry(config), seed=step).eval()
        for tower in nets[step].towers:
            assert isinstance(tower, Tower)
            weights = merge_cross_weights(
                tower.index, {name: value.detach() for name, value in tower.named_parameters()}
            )
            velocities = {f"velocity.{name}": value + 1 for name, value in weights.items()}
            checkpoint.write_tower(directory / run_directory.CHECKPOINTS, step, tower.index, weights | velocities)
        state = {"geometry": geometry_state(configs.geometry(config)), "position": {}}
        checkpoint.commit(directory / run_directory.CHECKPOINTS, step, state, len(nets[step].towers))
    return directory, nets
