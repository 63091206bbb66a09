"""A checkpoint's tensors go into a tower in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from alexnet_dist.nn.model import Tower
from alexnet_dist.runs import checkpoint, weights
from alexnet_dist.runs import directory as run_directory
from support.runs import write_run


def test_restoring_is_in_place_and_brings_velocities(tmp_path: Path) -> None:
    directory, nets = write_run(tmp_path)
    newest, _ = checkpoint.find(directory / run_directory.CHECKPOINTS)
    assert newest is not None
    for index in (0, 1):
        tower = Tower(index, replace(nets[3].net), seed=99)
        parameters = dict(tower.named_parameters())
        velocities = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
        before = dict(velocities)
        weights.restore(tower, checkpoint.read_tower(newest, index), velocities)
        for name, weight in nets[3].towers[index].named_parameters():
            assert parameters[name].equal(weight)
            assert velocities[name] is before[name]
            assert velocities[name].equal(weight + 1)
