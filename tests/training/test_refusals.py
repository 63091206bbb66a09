"""The user's mistakes end with exit code 2 and one message that says what to do; no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.errors import run_command
from alexnet_dist.pack.__main__ import main as pack
from support.training import FOUR, ONE, finished, last_line, settings, torchrun, train_refused


def damaged(shards: Path, home: Path, damage: Callable[[Path], None]) -> Path:
    copy = home / "damaged"
    shutil.copytree(shards, copy)
    damage(copy)
    return copy


def shorten_a_shard(root: Path) -> None:
    shard = root / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])


def miscount(root: Path) -> None:
    path = root / "train.manifest.json"
    value = json.loads(path.read_text())
    value["shards"][0]["images"] += 1
    path.write_text(json.dumps(value))


Makes = Callable[[Path, Path], list[str]]
MISTAKES: dict[str, tuple[Makes, dict[str, str], list[str]]] = {
    "unknown key": (
        lambda shards, home: settings(shards, home / "run", "optim.momentun=0.5"),
        ONE,
        ["command line", "optim.momentun", "optim.momentum"],
    ),
    "wrong type": (
        lambda shards, home: settings(shards, home / "run", "data.global_batch=many"),
        ONE,
        ["command line", "data.global_batch", "many", "integer"],
    ),
    "odd pair": (
        lambda shards, home: settings(shards, home / "run", "topology.layout=paired"),
        ONE,
        ["world size 1 is odd", "--nproc-per-node=2"],
    ),
    "no password file": (
        lambda shards, home: settings(shards, home / "run", f"metrics.password_file={home}/none"),
        FOUR,
        ["metrics.password_file", "none cannot be read: No such file or directory", "user:password"],
    ),
    "missing shard directory": (
        lambda _shards, home: settings(home / "nowhere", home / "run"),
        ONE | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        ["nowhere", "manifest"],
    ),
    "global batch smaller than ranks": (
        lambda shards, home: settings(shards, home / "run", "data.global_batch=3"),
        FOUR,
        ["data.global_batch: 3 is smaller than 4"],
    ),
    "a key with dashes": (
        lambda shards, home: [*settings(shards, home / "run"), "--optim.momentum=0.5"],
        FOUR,
        ["command line: --optim.momentum=0.5: a key takes no dashes: optim.momentum=0.5"],
    ),
    "global batch larger than the set": (
        lambda shards, home: settings(shards, home / "run", "data.global_batch=85"),
        FOUR,
        ["data.global_batch: 85", "84 training images"],
    ),
    "other classes": (
        lambda shards, home: settings(shards, home / "run", "model.classes=9"),
        FOUR,
        ["model.classes: 9", "7 classes", "model.classes=7"],
    ),
    "shard of another length": (
        lambda shards, home: settings(damaged(shards, home, shorten_a_shard), home / "run"),
        FOUR,
        ["train-000001.tar", "bytes"],
    ),
    "manifest that does not add up": (
        lambda shards, home: settings(damaged(shards, home, miscount), home / "run"),
        FOUR,
        ["train.manifest.json", "images"],
    ),
    "unwritable run directory": (
        lambda shards, _home: settings(shards, shards / "train.manifest.json" / "run"),
        FOUR,
        ["run.directory", "cannot be written", "Not a directory"],
    ),
    "a directory that is not a run": (
        lambda shards, _home: settings(shards, shards),
        FOUR,
        ["is not a run", "config.yaml"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_once(name: str, shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    make, environment, signs = MISTAKES[name]
    ((code, said),) = run_ranks(1, train_refused, make(shards, tmp_path), environment)
    assert code == 2, said
    assert said.startswith("error: ")
    assert said.count("error:") == 1
    assert "Traceback" not in said
    for sign in signs:
        assert sign in said


def contents(directory: Path) -> dict[str, bytes]:
    """Return what is in a run's directory but for its lock."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_checkpoint_of_another_net_is_refused(shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    words = settings(shards, tmp_path / "run", "run.steps=1", "topology.layout=fused")
    assert run_ranks(1, train_refused, words, ONE)[0][0] == 0
    before = contents(tmp_path / "run")
    ((code, said),) = run_ranks(1, train_refused, [*words, "run.steps=2", "model.layers.conv4.channels=16"], ONE)
    assert code == 2
    assert "another architecture" in said
    assert "layers.conv4.channels: 12 in the checkpoint, 16 now" in said
    ((code, said),) = run_ranks(1, train_refused, [*words, "run.steps=2", "data.window=5"], ONE)
    assert code == 2
    assert "data.window: 16 in the checkpoint, 5 now" in said
    assert contents(tmp_path / "run") == before


def test_an_empty_class_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images" / "full").mkdir(parents=True)
    (tmp_path / "images" / "hollow").mkdir()
    (tmp_path / "images" / "full" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    assert run_command(pack, [str(tmp_path / "images"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "hollow" in said
    assert "Traceback" not in said


def test_under_torchrun_rank_0_reports_for_all(shards: Path, tmp_path: Path) -> None:
    said = finished(torchrun(3, settings(shards, tmp_path / "run")), 1)
    before, _, last = said.partition("Root Cause")
    assert before.count("error: world size 3 is odd") == last.count("error: world size 3 is odd") == 1
    root_cause = said[said.index("Root Cause") :]
    assert "rank      : 0 (local_rank: 0)" in root_cause
    assert "traceback : world size 3 is odd" in root_cause
    assert "exitcode  : 2" in root_cause
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("word", "code", "found"),
    [
        ("--help", 0, "usage: "),
        ("--print-config", 0, " global_batch: "),
        ("--confg=x", 1, "error: command line: unrecognized arguments: --confg=x; --help lists the options"),
        ("optim.momentm=0.5", 1, "error: command line: optim.momentm = 0.5: unknown key; did you mean 'optim."),
    ],
)
def test_rank_0_alone_answers_the_command_line(word: str, code: int, found: str) -> None:
    """It says so at once, and the agent once more at the end."""
    said = finished(torchrun(2, [word]), code)
    assert said.count(found) == 1 + code
    assert "Traceback" not in said
    if code:
        assert last_line(said).startswith(found)
