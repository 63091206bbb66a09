"""One checkpoint serves every layout; a checkpoint of another net or another order of samples is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist import config as configs
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import merge_cross_weights
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG
from alexnet_dist.runs.load import geometry_state
from alexnet_dist.system.environment import launch_info
from alexnet_dist.training.build import build_engine
from alexnet_dist.training.resume import Start, check_resumable, config_changes, find_checkpoint, resume
from alexnet_dist.training.schedule import Progress
from support.ranks import Ranks
from support.runs import context, settings, write_run

POSITION = {
    "plan_version": 1, "seed": 0, "step": 40, "global_batch": 8, "lanes": 4, "window": 16, "manifest_sha256": "ab",
    "events": [{"epoch": 2.0, "colour_noise": 0.0}],
    "skipped": [],
}  # fmt: skip


def saved(net: Geometry) -> checkpoint.Checkpoint:
    state = {"geometry": geometry_state(net), "position": POSITION}
    return checkpoint.Checkpoint(Path("runs/mine/checkpoints/step-00000040"), 40, state)


def test_a_run_goes_on_with_the_same_net_and_order() -> None:
    check_resumable(saved(Geometry()), geometry_state(Geometry()), {**POSITION, "step": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "run.seed: 0 in the checkpoint, 1 now"),
        ({"global_batch": 9}, "data.global_batch: 8 in the checkpoint, 9 now"),
        ({"lanes": 5}, "data.lanes: 4 in the checkpoint, 5 now"),
        ({"window": 17}, "data.window: 16 in the checkpoint, 17 now"),
        ({"manifest_sha256": "cd"}, "manifest_sha256: 'ab' in the checkpoint, 'cd' now"),
        ({"plan_version": 2}, "plan_version: 1 in the checkpoint, 2 now"),
    ],
)
def test_another_order_of_samples_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_resumable(saved(Geometry()), geometry_state(Geometry()), {**POSITION, **change})
    assert message in str(refusal.value)
    assert "step-00000040: resuming would change the order of samples" in str(refusal.value)


@pytest.mark.parametrize("events", [[], [{"epoch": 2.0, "colour_noise": 0.5}]])
def test_other_events_before_the_checkpoint_are_refused(events: list[Any]) -> None:
    with pytest.raises(UserError) as refusal:
        check_resumable(saved(Geometry()), geometry_state(Geometry()), {**POSITION, "events": events})
    assert str(refusal.value) == (
        "runs/mine/checkpoints/step-00000040: run.events changed before step 40: [{'epoch': 2.0, 'colour_noise': 0.0}]"
        f" in the checkpoint, {events} now; set them back, or give new ones an epoch that is still to come"
    )


def test_a_checkpoint_from_before_there_were_events_has_none() -> None:
    earlier = checkpoint.Checkpoint(Path("step"), 40, {"geometry": geometry_state(Geometry()), "position": {}})
    check_resumable(earlier, geometry_state(Geometry()), {"events": [], "skipped": []})


def test_another_architecture_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"step-00000040: a checkpoint of another architecture: model\.classes: 1000 in"
    ):
        check_resumable(saved(Geometry()), geometry_state(Geometry(classes=9)), POSITION)


HOPS = [
    (1, "topology.layout=fused", "train.dtype=float32"),
    (4, "topology.layout=paired", "train.dtype=float32"),
    (2, "topology.layout=paired", "train.channels_last=true"),
    (2, "topology.layout=fused", "train.dtype=bfloat16"),
    (2, "topology.layout=paired", "train.dtype=float32"),
]
START = Start(3, 2, Progress(drops=1, best_error=0.5, evaluations_since_best=1), 12.5)


def pass_on(source: Path, target: Path, words: list[str]) -> Start:
    """Read the newest checkpoint of one directory into this rank's engine, and write it again into another."""
    run = context(settings(f"run.directory={source}", *words))
    groups = open_groups(run.topology, 60)
    engine, control = build_engine(run, groups), Control(groups.world)
    start = resume(run, engine, control)
    if run.topology.replica == 0:
        for tower in run.topology.towers:
            target.mkdir(parents=True, exist_ok=True)
            checkpoint.write_tower(
                target / CHECKPOINTS, start.step, tower, merge_cross_weights(tower, engine.tensors(tower))
            )
    control.sums([0.0])
    if run.topology.is_rank0:
        state = {**start.state(), "geometry": geometry_state(run.net), "position": {}}
        checkpoint.commit(target / CHECKPOINTS, start.step, state)
    close_groups()
    return start


def write_state(source: Path) -> None:
    """Write the manifest of a run's checkpoint of step 3 again, with START as its state."""
    (source / CHECKPOINTS / "step-00000003" / "manifest.json").unlink()
    state = {
        **START.state(), "geometry": geometry_state(configs.geometry(settings())), "position": {},
    }  # fmt: skip
    checkpoint.commit(source / CHECKPOINTS, 3, state)


def written(directory: Path) -> list[bytes]:
    (home,) = (directory / CHECKPOINTS).iterdir()
    return [(home / f"tower-{tower}.safetensors").read_bytes() for tower in (0, 1)]


def test_a_checkpoint_goes_through_every_layout_bit_for_bit(tmp_path: Path, run_ranks: Any) -> None:
    source, _ = write_run(tmp_path / "first", (3,))
    write_state(source)
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
    saved, _ = checkpoint.find(source / CHECKPOINTS)
    assert saved is not None
    tensors = checkpoint.read_tower(saved, tower)
    assert all(not tensors[f"velocity.{name}"].equal(tensors[name]) for name in tensors if "velocity" not in name)


def test_what_has_changed_since_the_last_start_is_named(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path)
    here = f"run.directory={directory}"
    (directory / CONFIG).write_text(configs.to_yaml(settings(here)))
    assert config_changes(context(settings(here, "data.root=elsewhere", "data.workers=9"))) == []
    (change,) = config_changes(context(settings(here, "optim.learning_rate=0.5")))
    assert change.startswith("optim.learning_rate: ")
    assert change.endswith(" before, 0.5 now")
    (directory / CONFIG).write_text("optim: {unheard_of: 1}\n")
    assert config_changes(context(settings(here))) == []


def restored(source: Path, missing: Path) -> tuple[Start, dict[str, Tensor]]:
    """Resume on this rank, which has the run directory only if its replica is the first; return what it restored."""
    directory = source if launch_info().rank < 2 else missing
    run = context(settings(f"run.directory={directory}", "topology.layout=paired", "train.channels_last=true"))
    groups = open_groups(run.topology, 60)
    engine = build_engine(run, groups)
    start = resume(run, engine, Control(groups.world))
    close_groups()
    (tower,) = run.topology.towers
    merged = merge_cross_weights(tower, engine.tensors(tower))
    return start, {name: tensor.clone() for name, tensor in merged.items()}


def test_only_the_first_replica_reads_the_run_directory(tmp_path: Path, run_ranks: Ranks) -> None:
    source, _ = write_run(tmp_path, (3,))
    write_state(source)
    answers = run_ranks(4, restored, source, tmp_path / "missing")
    saved, _ = checkpoint.find(source / CHECKPOINTS)
    assert saved is not None
    for rank, (start, tensors) in enumerate(answers):
        assert start == START
        wanted = checkpoint.read_tower(saved, rank % 2)
        assert tensors.keys() == wanted.keys()
        assert all(tensors[name].equal(wanted[name]) for name in wanted), rank
    assert not (tmp_path / "missing").exists()


def restored_without_a_file(source: Path) -> str:
    """Resume where the second tower's file is damaged after rank 0 has checked it; return the error."""
    if launch_info().rank == 0:
        find = checkpoint.find

        def find_and_damage(home: Path) -> Any:
            found = find(home)
            (home / "step-00000003" / checkpoint.tower_file(1)).write_bytes(b"")
            return found

        vars(checkpoint)["find"] = find_and_damage
    try:
        restored(source, source)
    except UserError as error:
        return str(error)
    return ""


def test_a_tower_that_cannot_be_read_ends_all_ranks(tmp_path: Path, run_ranks: Ranks) -> None:
    source, _ = write_run(tmp_path, (3,))
    write_state(source)
    (error,) = set(run_ranks(4, restored_without_a_file, source))
    assert "tower-1.safetensors: cannot be read" in error


def test_a_checkpoint_on_another_node_only_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = context(settings(f"run.directory={tmp_path / 'empty'}"))
    assert find_checkpoint(empty, []) is None
    assert find_checkpoint(empty, ["", "", "", ""]) is None
    with pytest.raises(UserError, match=r"empty/checkpoints: no checkpoint here, .* one of step 40 on rank 2's node"):
        find_checkpoint(empty, ["", "", "40", ""])
    source, _ = write_run(tmp_path, (3,))
    run = context(settings(f"run.directory={source}"))
    for by_node, warned in ((["3", "", "3", ""], False), ([], False), (["3", "", "40", ""], True)):
        found = find_checkpoint(run, by_node)
        assert found is not None
        assert found.step == 3
        expected = "rank 2's node has a checkpoint of step 40, which is not used: rank 0's node counts"
        assert (expected in capsys.readouterr().err) == warned


def test_a_run_that_has_lost_its_checkpoints_is_refused(tmp_path: Path) -> None:
    source, _ = write_run(tmp_path, (3,))
    run = context(settings(f"run.directory={source}"))
    run_directory.mark_saved(source, 3)
    for lost in (source / CHECKPOINTS / "step-00000003" / "manifest.json", source / CHECKPOINTS):
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
        with pytest.raises(
            UserError, match=r"no checkpoint, although .* the first at step 3 .*; restore one, or remove "
        ):
            find_checkpoint(run, [])


def weights_after_broadcast() -> float:
    """Build an engine whose weights depend on the rank, broadcast them, and return their sum."""
    run = context(settings("topology.layout=fused"))
    engine = build_engine(run, open_groups(run.topology, 60))
    weights = [weight for named in engine.weights.values() for weight in named.values()]
    with torch.no_grad():
        for weight in weights:
            weight.add_(run.topology.rank)
    engine.broadcast_weights()
    close_groups()
    return sum(float(weight.detach().double().sum()) for weight in weights)


def test_replicas_begin_with_the_first_ones_weights(run_ranks: Any) -> None:
    first, second = run_ranks(2, weights_after_broadcast)
    assert first == second
