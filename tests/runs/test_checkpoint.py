"""Checkpoints: whole or not there; the newest that holds is found; no pickle."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint

STATE = {"evaluated_step": 2, "progress": {"drops": 1, "best_error": 0.1}, "time_s": 1.5}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def tensors(step: int, tower: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + tower)
    return {
        name: torch.randn(3, 4, generator=generator).to(dtype)
        for name in ("conv1.weight", "conv1.bias", "velocity.conv1.weight")
    }


def write(directory: Path, step: int, keep: int = 3) -> None:
    for tower in (0, 1):
        checkpoint.write_tower(directory, step, tower, tensors(step, tower))
    checkpoint.commit(directory, step, STATE)
    checkpoint.delete_old(directory, step, keep)


def steps(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip_a_bit(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_round_trip_is_bit_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    strange = torch.tensor([0.0, -0.0, 1e-45, 3.4e38, float("inf"), float("nan"), 0.1]).to(dtype)
    for tower in (0, 1):
        checkpoint.write_tower(tmp_path, 50, tower, tensors(50, tower, dtype) | {"strange": strange})
    checkpoint.commit(tmp_path, 50, STATE)
    found, complaints = checkpoint.find(tmp_path)
    assert complaints == []
    assert found is not None
    assert (found.step, found.directory) == (50, tmp_path / "step-00000050")
    assert {key: found.state[key] for key in STATE} == STATE
    for tower in (0, 1):
        read = checkpoint.read_tower(found, tower)
        wanted = tensors(50, tower, dtype) | {"strange": strange}
        assert set(read) == set(wanted)
        for name, tensor in wanted.items():
            assert read[name].dtype == dtype
            assert read[name].view(torch.uint8).equal(tensor.view(torch.uint8))


def test_parameters_views_and_transposes_are_saved_as_they_read(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    odd = {"weight": torch.nn.Parameter(base), "part": base[:, 1:3], "turned": base.t()}
    for tower in (0, 1):
        checkpoint.write_tower(tmp_path, 1, tower, odd)
    checkpoint.commit(tmp_path, 1, {})
    found, _ = checkpoint.find(tmp_path)
    assert found is not None
    read = checkpoint.read_tower(found, 1)
    assert all(read[name].equal(tensor) for name, tensor in odd.items())


def test_a_checkpoint_holds_these_files_and_hashes(tmp_path: Path) -> None:
    write(tmp_path, 7)
    home = tmp_path / "step-00000007"
    assert steps(home) == ["manifest.json", "tower-0.safetensors", "tower-1.safetensors"]
    manifest = json.loads((home / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"]) == (2, 7)
    assert set(manifest["files"]) == {"tower-0.safetensors", "tower-1.safetensors"}
    for name, record in manifest["files"].items():
        assert record["size_bytes"] == (home / name).stat().st_size
        assert re.fullmatch("[0-9a-f]{64}", record["sha256"])
    assert list(manifest) == sorted(manifest)


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path / "missing") == (None, [])
    assert checkpoint.find(tmp_path) == (None, [])


def test_a_checkpoint_without_manifest_is_not_seen_and_removed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    checkpoint.write_tower(tmp_path, 2, 0, tensors(2, 0))
    (tmp_path / "step-00000002" / "tower-1.tmp").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    found, complaints = checkpoint.find(tmp_path)
    assert found is not None
    assert (found.step, complaints) == (1, [])
    checkpoint.remove_unfinished(tmp_path)
    assert steps(tmp_path) == ["notes", "step-00000001"]
    checkpoint.remove_unfinished(tmp_path / "missing")


@pytest.mark.parametrize("name", ["tower-0.safetensors", "tower-1.safetensors"])
@pytest.mark.parametrize("at", [0, 8, -1])
def test_a_flipped_bit_falls_back_to_the_step_before(tmp_path: Path, name: str, at: int) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    flip_a_bit(tmp_path / "step-00000030" / name, at)
    found, complaints = checkpoint.find(tmp_path)
    assert found is not None
    assert found.step == 20
    (complaint,) = complaints
    assert re.search(rf"step-00000030.*{name} does not have the size and sha256 of its manifest", complaint)


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "7", "null", '{"format": 2}', '{"format": 2, "step": 20, "files": {}}', '{"format": 1, "step": 20}',
     '{"format": 2, "step": 19, "files": {}}', '{"format": 2, "step": 20, "files": []}', "\udcff"],
)  # fmt: skip
def test_a_broken_manifest_falls_back_too(tmp_path: Path, manifest: str) -> None:
    write(tmp_path, 10)
    write(tmp_path, 20)
    (tmp_path / "step-00000020" / "manifest.json").write_text(manifest, errors="surrogateescape")
    found, complaints = checkpoint.find(tmp_path)
    assert found is not None
    assert found.step == 10
    assert len(complaints) == 1
    assert "step-00000020" in complaints[0]


def test_a_missing_or_cut_tower_falls_back(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    (tmp_path / "step-00000030" / "tower-0.safetensors").unlink()
    whole = tmp_path / "step-00000020" / "tower-1.safetensors"
    os.truncate(whole, whole.stat().st_size - 1)
    found, complaints = checkpoint.find(tmp_path)
    assert found is not None
    assert (found.step, len(complaints)) == (10, 2)


def test_when_none_holds_there_is_none_and_all_complaints(tmp_path: Path) -> None:
    for step in (10, 20):
        write(tmp_path, step)
        flip_a_bit(tmp_path / f"step-{step:08d}" / "tower-0.safetensors")
    found, complaints = checkpoint.find(tmp_path)
    assert found is None
    assert len(complaints) == 2


def test_one_step_can_be_asked_for(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    found, _ = checkpoint.find(tmp_path, 20)
    assert found is not None
    assert found.step == 20
    with pytest.raises(UserError, match=r"no valid checkpoint of step 25 .*steps there: 10, 20, 30"):
        checkpoint.find(tmp_path, 25)
    flip_a_bit(tmp_path / "step-00000020" / "tower-1.safetensors")
    with pytest.raises(UserError, match=r"no valid checkpoint of step 20 .*tower-1\.safetensors does not have"):
        checkpoint.find(tmp_path, 20)
    with pytest.raises(UserError, match="steps there: none"):
        checkpoint.find(tmp_path / "missing", 1)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for step in (2, 9, 10, 11):
        write(tmp_path, step, keep=2)
    assert steps(tmp_path) == ["notes", "step-00000010", "step-00000011"]
    write(tmp_path, 12, keep=1)
    assert steps(tmp_path) == ["notes", "step-00000012"]


def test_a_removal_that_is_cut_short_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(home: Path) -> None:
        (home / "tower-0.safetensors").unlink()
        raise OSError("killed")

    write(tmp_path, 1)
    monkeypatch.setattr(shutil, "rmtree", cut_short)
    with pytest.raises(OSError, match="killed"):
        write(tmp_path, 2, keep=1)
    with pytest.raises(UserError, match=r"no valid checkpoint of step 1 .*steps there: 2"):
        checkpoint.find(tmp_path, 1)


def test_a_newer_step_that_did_not_hold_takes_no_place(tmp_path: Path) -> None:
    for step in (10, 20):
        write(tmp_path, step)
    flip_a_bit(tmp_path / "step-00000020" / "tower-0.safetensors")
    write(tmp_path, 15, keep=1)
    assert steps(tmp_path) == ["step-00000015"]


def test_damaged_checkpoints_are_set_aside_and_stay(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    for step in (20, 30):
        flip_a_bit(tmp_path / f"step-000000{step}" / "tower-0.safetensors")
    moved = checkpoint.set_aside(tmp_path, 10)
    assert [path.name for path in moved] == ["step-00000020.damaged", "step-00000030.damaged"]
    assert checkpoint.finished_steps(tmp_path) == [10]
    write(tmp_path, 20, keep=1)
    (again,) = checkpoint.set_aside(tmp_path, 0)
    checkpoint.remove_unfinished(tmp_path)
    assert again.name == "step-00000020.damaged-2"
    assert steps(tmp_path) == [path.name for path in (moved[0], again, moved[1])]
    assert checkpoint.find(tmp_path) == (None, [])


def test_a_step_can_be_written_again(tmp_path: Path) -> None:
    write(tmp_path, 10)
    checkpoint.write_tower(tmp_path, 10, 0, tensors(99, 0))
    found, complaints = checkpoint.find(tmp_path)
    assert found is None  # the files of two writings are not mixed
    assert len(complaints) == 1
    write(tmp_path, 10)
    found, complaints = checkpoint.find(tmp_path)
    assert found is not None
    assert checkpoint.read_tower(found, 0)["conv1.weight"].equal(tensors(10, 0)["conv1.weight"])


def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path) -> None:
    home = tmp_path / "step-00000003"
    home.mkdir()
    (home / "tower-0.safetensors").write_bytes(b"no")
    saved = checkpoint.Checkpoint(home, 3, {})
    with pytest.raises(UserError, match=r"tower-0\.safetensors: cannot be read"):
        checkpoint.read_tower(saved, 0)
    with pytest.raises(UserError, match=r"tower-1\.safetensors: cannot be read"):
        checkpoint.read_tower(saved, 1)


def test_what_safetensors_cannot_write_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.write_tower(tmp_path, 3, 0, tensors(3, 0))
    assert caught.value.errno == errno.ENOSPC


def test_a_link_that_stands_where_a_file_is_written_is_not_followed(tmp_path: Path) -> None:
    victim, home = tmp_path / "victim", tmp_path / "step-00000004"
    victim.write_text("whole")
    home.mkdir()
    for name in ("tower-0.safetensors", "tower-1.safetensors", "manifest.json"):
        (home / f"{name}.tmp").symlink_to(victim)
    write(tmp_path, 4)
    assert victim.read_text() == "whole"
    assert not any(path.is_symlink() for path in home.iterdir())


def test_file_and_folder_are_synced_before_the_manifest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", note)
    write(tmp_path, 4)
    above, home = tmp_path.name, "step-00000004"
    assert synced == [
        above,
        "tower-0.safetensors.tmp",
        home,
        above,
        "tower-1.safetensors.tmp",
        home,
        "manifest.json.tmp",
        home,
    ]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    write(tmp_path, 5)
    for name in ("tower-0.safetensors", "tower-1.safetensors"):
        content = (tmp_path / "step-00000005" / name).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert header["conv1.weight"]["dtype"] == "F32"
    names = {node.id for node in ast.walk(ast.parse(inspect.getsource(checkpoint))) if isinstance(node, ast.Name)}
    assert not names & {"pickle", "torch"}
