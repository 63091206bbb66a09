"""What a start reads before its first step: shards, the run plan, and what all ranks must have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class, SourceId
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import UserError
from alexnet_dist.system import resources
from alexnet_dist.system.environment import launch_info
from alexnet_dist.training import inputs
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.resume import Start
from alexnet_dist.training.train import announce
from support.runs import context, settings

Pack = Callable[..., Path]


def test_node_local_keys_may_differ_between_ranks_and_what_is_computed_may_not(pack_tiny: Any) -> None:
    splits = {"train": Split.open(pack_tiny(), "train")}

    def must_match(*words: str) -> dict[str, str]:
        return inputs.must_match(context(settings(*words), splits))

    values = must_match()
    assert must_match("data.root=elsewhere", "data.workers=7", "metrics.port=1234", "run.directory=elsewhere") == values
    assert must_match("metrics.tls_cert=a", "metrics.tls_key=b", "metrics.password_file=c") == values
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
    with pytest.raises(
        UserError, match="packed with different sizes, 16 and 18 pixels; pack both with the same --size"
    ):
        inputs.open_splits(config)
    pack_tiny(counts=(4,), size=12, split="val")
    with pytest.raises(UserError, match=r"data\.crop: 14 is larger than the 12-pixel images of val"):
        inputs.open_splits(config)


def repacked(root: Path, split: str, **changes: object) -> None:
    """Change the options in a split's manifest, and its source where that is among the changes."""
    path = manifest.manifest_path(root, split)
    packed = manifest.load(path)
    if "source" in changes:
        packed = replace(packed, source=SourceId(40, str(changes.pop("source")) * 64))
    manifest.save(replace(packed, options=replace(packed.options, **changes)), path)  # type: ignore[arg-type]


def opened(pack_tiny: Pack, train: dict[str, object], val: dict[str, object], *words: str) -> RunContext:
    """Return the context of a run over two tiny splits whose manifests have these changes."""
    root = pack_tiny()
    pack_tiny(counts=(4,), split="val")
    repacked(root, "train", **train)
    repacked(root, "val", **val)
    config = settings(f"data.root={root}", "model.classes=5", *words)
    return context(config, inputs.open_splits(config))


@pytest.mark.parametrize(
    ("val", "differences"),
    [
        ({}, ""),
        ({"samples_per_shard": 3}, ""),
        ({"quality": 75}, "--quality 90 and 75"),
        ({"chroma": "444"}, "--chroma 420 and 444"),
        ({"filter": "bilinear", "quality": 100}, "--quality 90 and 100, --filter bicubic and bilinear"),
    ],
)
def test_splits_packed_with_other_options_are_a_warning(
    val: dict[str, object], differences: str, pack_tiny: Pack
) -> None:
    warnings = inputs.shard_warnings(opened(pack_tiny, {}, val))
    if not differences:
        assert warnings == []
        return
    (warning,) = warnings
    assert warning.startswith("warning: train and val in ")
    assert f" were packed differently: {differences}; " in warning


HELD_OUT: dict[str, object] = {"source": "a", "holdout": 0.1, "seed": 0}


@pytest.mark.parametrize(
    ("train", "val", "shared"),
    [
        (HELD_OUT, HELD_OUT, ""),
        (HELD_OUT, {**HELD_OUT, "source": "b"}, ""),
        ({"source": "a"}, {"source": "b", "seed": 1}, ""),
        ({}, {"seed": 1}, ""),  # sets of earlier versions: unknown sources
        ({"source": "a"}, {"source": "a", "seed": 1}, "each holds all images of the same source"),
        (HELD_OUT, {**HELD_OUT, "seed": 1}, "divided in two ways, --holdout 0.1 --seed 0 and --holdout 0.1 --seed 1"),
        ({"source": "a"}, HELD_OUT, "divided in two ways, without --holdout and --holdout 0.1 --seed 0"),
    ],
)
def test_splits_that_share_images_are_refused(
    train: dict[str, object], val: dict[str, object], shared: str, pack_tiny: Pack
) -> None:
    if not shared:
        assert inputs.shard_warnings(opened(pack_tiny, train, val)) == []
        return
    with pytest.raises(UserError, match=f"train and val share images: .*{shared}; pack both with the same --holdout"):
        opened(pack_tiny, train, val)


CHANGED_CROP = (
    "data.crop: {crop}, but the images in {root} have 16 pixels a side: the net sees {percent} of each picture"
)
CROP_FIXES = "pack both splits with python -m alexnet_dist.pack SOURCE OUT --size {size}, or set data.crop=14"


@pytest.mark.parametrize(("crop", "percent", "size"), [(14, "", 0), (16, "", 0), (12, "", 0), (11, "47%", 13)])
def test_a_crop_far_from_seven_eighths_is_a_warning(crop: int, percent: str, size: int, pack_tiny: Pack) -> None:
    run = opened(pack_tiny, {}, {}, f"data.crop={crop}")
    warnings = inputs.shard_warnings(run)
    if not percent:
        assert warnings == []
        return
    (warning,) = warnings
    root = run.config.data.root
    assert warning.startswith("warning: " + CHANGED_CROP.format(crop=crop, root=root, percent=percent))
    assert warning.endswith(CROP_FIXES.format(size=size))


def test_a_crop_below_a_quarter_is_refused(pack_tiny: Pack) -> None:
    """28 of 256 pixels, as cifar10.yaml's crop of ImageNet's shards."""
    root = pack_tiny(size=256, counts=(7,))
    config = settings(f"data.root={root}", "model.classes=5", "data.crop=28", "run.evaluate_every=0")
    with pytest.raises(UserError) as caught:
        inputs.open_splits(config)
    assert "have 256 pixels a side: the net sees 1% of each picture" in str(caught.value)
    assert str(caught.value).endswith("SOURCE OUT --size 32, or set data.crop=224")
    at_a_quarter = settings(f"data.root={root}", "model.classes=5", "data.crop=64", "run.evaluate_every=0")
    assert "--size 73" in inputs.shard_warnings(context(at_a_quarter, inputs.open_splits(at_a_quarter)))[0]


def test_a_set_that_was_packed_incomplete_is_a_warning(pack_tiny: Pack) -> None:
    root = pack_tiny()
    path = manifest.manifest_path(root, "train")
    manifest.save(replace(manifest.load(path), missing=("1 of 3 files: train-1.tar", "a")), path)
    config = settings(f"data.root={root}", "model.classes=5", "run.evaluate_every=0")
    assert inputs.shard_warnings(context(config, inputs.open_splits(config))) == [
        f"warning: train in {root} was packed with --allow-missing; its source lacked: 1 of 3 files: train-1.tar; a"
    ]


def test_rank_0_prints_the_warnings_at_the_start(pack_tiny: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    run = opened(pack_tiny, {}, {"quality": 75}, "data.crop=11")
    announce(run, Start(), [], None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines].count("warning") == 2
    assert lines[0].startswith("training ")
    announce(replace(run, topology=replace(run.topology, rank=1)), Start(), [], None)
    assert capsys.readouterr().out == ""


def test_a_run_directory_may_be_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands no ~ after a key with a dot, and data.root is expanded too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert context(settings("run.directory=~/runs/mine")).directory == tmp_path / "runs" / "mine"
    with pytest.raises(UserError, match=r"run\.directory: ~nobody-here/a: no user of that name"):
        _ = context(settings("run.directory=~nobody-here/a")).directory


@pytest.mark.parametrize(
    ("workers", "cores", "ranks", "expected"),
    [("auto", 16, 1, 15), ("auto", 4, 8, 1), ("auto", 8, 2, 3), ("5", 16, 1, 5)],
)
def test_loader_processes_take_the_cores_that_ranks_leave(
    workers: str, cores: int, ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: cores)
    run = context(settings(f"data.workers={workers}"))
    assert inputs.worker_count(replace(run, launched=replace(run.launched, local_world_size=ranks))) == expected
