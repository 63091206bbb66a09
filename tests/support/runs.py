"""A run directory as a training leaves it, written without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_dist import config
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class, Colour, Manifest, Options, Shard, Sidecar
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory

SIZE, CLASSES = 16, 7


def settings(*words: str) -> config.Config:
    """Return a small run's configuration with key=value changes."""
    file = Path(__file__).with_name("runs.yaml")
    return config.load([file], list(words)).config


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
    chosen = settings(*words)
    shards, directory = write_shards(home / "shards"), home / "run"
    beside = {path.name: path.read_bytes() for path in shards.iterdir()}
    run_directory.open_directory(directory).close()
    run_directory.begin(directory, 0, 0, config.to_yaml(chosen), beside)
    nets = {}
    for step in steps:
        nets[step] = AlexNet(config.geometry(chosen), seed=step).eval()
        for tower in nets[step].towers:
            assert isinstance(tower, Tower)
            weights = merge_cross_weights(tower.index, {name: value.detach() for name, value in tower.named_parameters()})
            velocities = {f"velocity.{name}": value + 1 for name, value in weights.items()}
            checkpoint.write_tower(directory / run_directory.CHECKPOINTS, step, tower.index, weights | velocities)
        state = {"geometry": run_directory.geometry_state(config.geometry(chosen)), "position": {}}
        checkpoint.commit(directory / run_directory.CHECKPOINTS, step, state, len(steps))
    return directory, nets
