"""One checkpoint serves every layout: what one wrote another reads, and writes again to the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_dist import config
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed import topology
from alexnet_dist.distributed.control import Control
from alexnet_dist.errors import UserError
from alexnet_dist.process import launch_info
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training import build, resume
from alexnet_dist.training.optim import Progress
from support.runs import settings, write_run

Pack = Callable[..., Path]
HOPS = [
    (1, "topology.layout=fused", "train.dtype=float32"),
    (4, "topology.layout=paired", "train.dtype=float32"),
    (2, "topology.layout=paired", "train.channels_last=true"),
    (2, "topology.layout=fused", "train.dtype=bfloat16"),
    (2, "topology.layout=paired", "train.dtype=float32"),
]
START = resume.Start(3, 2, Progress(drops=1, best_error=0.5, evaluations_since_best=1), 12.5)


def pass_on(source: Path, target: Path, words: list[str]) -> resume.Start:
    """Read the newest checkpoint of one directory into this rank's engine, and write it anew into another."""
    chosen = settings(*words)
    place = topology.place(chosen.topology.layout, "cpu", launch_info())
    groups = topology.open_groups(place, 60)
    trainer = build.build_engine(chosen, place, groups)
    net_state, control = run_directory.geometry_state(config.geometry(chosen)), Control(groups.world)
    start = resume.resume(source, trainer, net_state, {}, control, place)
    if place.replica == 0:
        for tower in place.towers:
            checkpoint.write_tower(target / run_directory.CHECKPOINTS, start.step, tower, trainer.state(tower))
    control.sums([0.0])
    if place.is_rank0:
        state = {**start.state(), "geometry": net_state, "position": {}}
        checkpoint.commit(target / run_directory.CHECKPOINTS, start.step, state, 1)
    topology.close_groups()
    return start


def written(directory: Path) -> list[bytes]:
    (home,) = (directory / run_directory.CHECKPOINTS).iterdir()
    return [(home / f"tower-{tower}.safetensors").read_bytes() for tower in (0, 1)]


def test_a_checkpoint_goes_through_every_layout_bit_for_bit(tmp_path: Path, run_ranks: Any) -> None:
    source, _ = write_run(tmp_path / "first", (3,))
    (source / run_directory.CHECKPOINTS / "step-00000003" / "manifest.json").unlink()
    state = {
        **START.state(), "geometry": run_directory.geometry_state(config.geometry(settings())), "position": {},
    }  # fmt: skip
    checkpoint.commit(source / run_directory.CHECKPOINTS, 3, state, 1)
    first = written(source)
    assert first[0] != first[1]
    for number, (ranks, *words) in enumerate(HOPS):
        target = tmp_path / f"hop-{number}"
        target.mkdir()
        assert run_ranks(ranks, pass_on, source, target, words) == [START] * ranks
        assert written(target) == first, words
        source = target


@pytest.mark.parametrize("tower", [0, 1])
def test_the_velocities_are_not_the_weights(tower: int, tmp_path: Path) -> None:
    """Otherwise a checkpoint that loses them would pass the hops."""
    source, _ = write_run(tmp_path, (3,))
    saved, _ = checkpoint.find(source / run_directory.CHECKPOINTS)
    assert saved is not None
    tensors = checkpoint.read_tower(saved, tower)
    assert all(not tensors[f"velocity.{name}"].equal(tensors[name]) for name in tensors if "velocity" not in name)


def test_places_may_differ_between_ranks_and_what_is_computed_may_not(pack_tiny: Any) -> None:
    splits = {"train": Split.open(pack_tiny(), "train")}
    one = resume.alike(settings(), splits)
    assert resume.alike(settings("data.root=elsewhere", "data.workers=7", "metrics.port=1234"), splits) == one
    for word in ("optim.learning_rate=0.5", "data.lanes=5", "run.seed=3", "model.layers.conv3.channels=16"):
        changed = resume.alike(settings(word), splits)
        assert [key for key in one if changed[key] != one[key]] == [word.partition("=")[0]]
    assert one["data.root's train manifest"] == splits["train"].manifest.sha256[:12]


def test_what_has_changed_since_the_last_start_is_named(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path)
    place = f"run.directory={directory}"
    (directory / run_directory.CONFIG).write_text(config.to_yaml(settings(place)))
    assert resume.changes(settings(place, "data.root=elsewhere", "data.workers=9")) == []
    (found,) = resume.changes(settings(place, "optim.learning_rate=0.5"))
    assert found.startswith("optim.learning_rate: ")
    assert found.endswith(" before, 0.5 now")
    (directory / run_directory.CONFIG).write_text("optim: {unheard_of: 1}\n")
    assert resume.changes(settings(place)) == []


def begin_unless_refused(refuse: bool) -> tuple[str, str]:
    """Let the chief answer 7 or refuse; return this rank's answer and what it was refused with."""
    place = topology.place("fused", "cpu", launch_info())
    control = Control(topology.open_groups(place, 60).everyone)

    def chief() -> int:
        if refuse:
            raise UserError("the disk is full")
        return 7

    try:
        return str(resume.run_on_rank0(chief, control, place)), ""
    except UserError as error:
        return "", str(error)
    finally:
        topology.close_groups()


def test_the_chief_answers_for_all(run_ranks: Any) -> None:
    assert run_ranks(2, begin_unless_refused, False) == [("7", "")] * 2
    refused = "rank 0 has refused to begin; see what it said"
    assert run_ranks(2, begin_unless_refused, True) == [("", "the disk is full"), ("", refused)]


def weights_after_sharing() -> float:
    """Build an engine whose weights depend on the rank, share them, and return their sum."""
    chosen = settings("topology.layout=fused")
    place = topology.place("fused", "cpu", launch_info())
    groups = topology.open_groups(place, 60)
    trainer = build.build_engine(chosen, place, groups)
    weights = [weight for named in trainer.weights.values() for weight in named.values()]
    with torch.no_grad():
        for weight in weights:
            weight.add_(place.rank)
    trainer.share_weights()
    topology.close_groups()
    return sum(float(weight.detach().double().sum()) for weight in weights)


def test_replicas_begin_with_the_first_ones_weights(run_ranks: Any) -> None:
    found = run_ranks(2, weights_after_sharing)
    assert found[0] == found[1]


def test_a_run_of_epochs_has_whole_ones(pack_tiny: Pack) -> None:
    root = pack_tiny()
    splits = {"train": Split.open(root, "train"), "val": Split.open(pack_tiny(counts=(4,), split="val"), "val")}
    place = topology.place("fused", "cpu", launch_info({}))
    programme = resume.programme_of(settings("run.epochs=3"), splits, place)
    assert (programme.steps, programme.steps_per_epoch) == (9, 3)  # of 20 images, six a step
    assert (programme.counts, programme.validation_images) == ((7, 1, 12), 4)
    assert resume.programme_of(settings("run.epochs=3", "run.steps=5"), splits, place).steps == 5
    blind = resume.programme_of(settings("run.evaluate_every=0"), {"train": splits["train"]}, place)
    assert blind.validation_images == 0
    assert not any(blind.is_evaluated_after(step) for step in range(100))


def test_validation_shards_that_do_not_fit_the_training_shards_are_refused(pack_tiny: Pack) -> None:
    root = pack_tiny()
    chosen = settings(f"data.root={root}", "model.classes=5")
    pack_tiny(counts=(4,), split="val")
    assert set(resume.open_splits(chosen)) == {"train", "val"}
    assert set(resume.open_splits(settings(f"data.root={root}", "model.classes=5", "run.evaluate_every=0"))) == {
        "train"
    }
    path = manifest.manifest_path(root, "val")
    manifest.save(replace(manifest.load(path), classes=tuple(Class(f"other{label}") for label in range(5))), path)
    with pytest.raises(UserError, match="train and val have different classes; pack both from the same source"):
        resume.open_splits(chosen)
    pack_tiny(counts=(4,), size=18, split="val")
    with pytest.raises(UserError, match="train and val were packed with different sizes; pack both with the same"):
        resume.open_splits(chosen)
    pack_tiny(counts=(4,), size=12, split="val")
    with pytest.raises(UserError, match=r"data\.crop: 14 is larger than the 12-pixel images of val"):
        resume.open_splits(chosen)
