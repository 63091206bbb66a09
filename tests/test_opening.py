"""One checkpoint serves every layout: what one wrote another reads, and writes again to the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_dist import building, checkpoint, config, opening, run, topology
from alexnet_dist.parallel import Control
from alexnet_dist.process import launched
from runs import settings, write_run

HOPS = [
    (1, "topology.layout=fused", "train.dtype=float32"),
    (4, "topology.layout=paired", "train.dtype=float32"),
    (2, "topology.layout=paired", "train.channels_last=true"),
    (2, "topology.layout=fused", "train.dtype=bfloat16"),
    (2, "topology.layout=paired", "train.dtype=float32"),
]


def pass_on(source: Path, target: Path, words: list[str]) -> int:
    """Read the newest checkpoint of one directory into this rank's engine, and write it anew into another."""
    chosen = settings(*words)
    place = topology.place(chosen.topology.layout, "cpu", launched())
    groups = topology.open_groups(place, 60)
    trainer = building.build_engine(chosen, place, groups)
    net_state, control = run.geometry_state(config.geometry(chosen)), Control(groups.everyone)
    start = opening.resume(source, trainer, net_state, {}, control, place)
    if place.replica == 0:
        for tower in place.towers:
            checkpoint.write_tower(target / run.CHECKPOINTS, start.step, tower, trainer.state(tower))
    control.sums([0.0])
    if place.is_chief:
        state = {**start.state(), "geometry": net_state, "position": {}}
        checkpoint.commit(target / run.CHECKPOINTS, start.step, state, 1)
    topology.close_groups()
    return start.step


def written(directory: Path) -> list[bytes]:
    (home,) = (directory / run.CHECKPOINTS).iterdir()
    return [(home / f"tower-{tower}.safetensors").read_bytes() for tower in (0, 1)]


def test_a_checkpoint_goes_through_every_layout_bit_for_bit(tmp_path: Path, run_ranks: Any) -> None:
    source, _ = write_run(tmp_path / "first", (3,))
    (source / run.CHECKPOINTS / "step-00000003" / "manifest.json").unlink()
    state = {
        **opening.Start(step=3).state(), "geometry": run.geometry_state(config.geometry(settings())), "position": {},
    }  # fmt: skip
    checkpoint.commit(source / run.CHECKPOINTS, 3, state, 1)
    first = written(source)
    assert first[0] != first[1]
    for number, (ranks, *words) in enumerate(HOPS):
        target = tmp_path / f"hop-{number}"
        target.mkdir()
        assert run_ranks(ranks, pass_on, source, target, words) == [3] * ranks
        assert written(target) == first, words
        source = target


@pytest.mark.parametrize("tower", [0, 1])
def test_the_velocities_are_not_the_weights(tower: int, tmp_path: Path) -> None:
    """Otherwise a checkpoint that loses them would pass the hops."""
    source, _ = write_run(tmp_path, (3,))
    saved, _ = checkpoint.find(source / run.CHECKPOINTS)
    assert saved is not None
    tensors = checkpoint.read_tower(saved, tower)
    assert all(not tensors[f"velocity.{name}"].equal(tensors[name]) for name in tensors if "velocity" not in name)
