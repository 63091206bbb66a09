"""What a start reads before its first step: shards, the run plan, and what all ranks must have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import UserError
from alexnet_dist.process import launch_info
from alexnet_dist.training import inputs
from support.runs import context, settings

Pack = Callable[..., Path]


def test_node_local_keys_may_differ_between_ranks_and_what_is_computed_may_not(pack_tiny: Any) -> None:
    splits = {"train": Split.open(pack_tiny(), "train")}

    def must_match(*words: str) -> dict[str, str]:
        return inputs.must_match(context(settings(*words), splits))

    values = must_match()
    assert must_match("data.root=elsewhere", "data.workers=7", "metrics.port=1234") == values
    for word in ("optim.learning_rate=0.5", "data.lanes=5", "run.seed=3", "model.layers.conv3.channels=16"):
        changed = must_match(word)
        assert [key for key in values if changed[key] != values[key]] == [word.partition("=")[0]]
    assert values["data.root's train manifest"] == splits["train"].manifest.sha256[:12]


def test_a_run_of_epochs_has_whole_ones(pack_tiny: Pack) -> None:
    root = pack_tiny()
    splits = {"train": Split.open(root, "train"), "val": Split.open(pack_tiny(counts=(4,), split="val"), "val")}
    topology = resolve_topology("fused", "cpu", launch_info({}))
    plan = inputs.run_plan(settings("run.epochs=3"), splits, topology)
    assert (plan.steps, plan.steps_per_epoch) == (9, 3)  # of 20 images, six a step
    assert (plan.counts, plan.validation_images) == ((7, 1, 12), 4)
    assert inputs.run_plan(settings("run.epochs=3", "run.steps=5"), splits, topology).steps == 5
    blind = inputs.run_plan(settings("run.evaluate_every=0"), {"train": splits["train"]}, topology)
    assert blind.validation_images == 0
    assert not any(blind.is_evaluated_after(step) for step in range(100))


def test_validation_shards_that_do_not_fit_the_training_shards_are_refused(pack_tiny: Pack) -> None:
    root = pack_tiny()
    config = settings(f"data.root={root}", "model.classes=5")
    pack_tiny(counts=(4,), split="val")
    assert set(inputs.open_splits(config)) == {"train", "val"}
    assert set(inputs.open_splits(settings(f"data.root={root}", "model.classes=5", "run.evaluate_every=0"))) == {
        "train"
    }
    path = manifest.manifest_path(root, "val")
    manifest.save(replace(manifest.load(path), classes=tuple(Class(f"other{label}") for label in range(5))), path)
    with pytest.raises(UserError, match="train and val have different classes; pack both from the same source"):
        inputs.open_splits(config)
    pack_tiny(counts=(4,), size=18, split="val")
    with pytest.raises(UserError, match="train and val were packed with different sizes; pack both with the same"):
        inputs.open_splits(config)
    pack_tiny(counts=(4,), size=12, split="val")
    with pytest.raises(UserError, match=r"data\.crop: 14 is larger than the 12-pixel images of val"):
        inputs.open_splits(config)
