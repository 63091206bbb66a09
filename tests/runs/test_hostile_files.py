"""A run directory with damaged, foreign or malicious files: every command ends in one sentence, and runs nothing."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from alexnet_dist import config as configs
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from support.runs import write_run
from support.training import settings as training_words
from support.training import train_here

COMMANDS = ("export", "predict", "figures")  # figures, the slowest, reads what predict reads, and the records


class Malice:
    """What a pickle may be: unpickling it runs a program."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def command_words(name: str, run: Path, folder: Path) -> list[str]:
    """Return the arguments with which a command reads a run."""
    picture = folder / "picture.png"
    Image.new("RGB", (20, 20)).save(picture)
    return {"export": [str(run), str(folder / "net.safetensors")], "predict": [str(run), str(picture)],
            "figures": [str(run), str(folder / "pictures")]}[name]  # fmt: skip


def said(name: str, run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return a command's exit code and what it has printed on stderr; any other exception than ours fails the test."""
    is_package = name in ("figures", "predict")
    module = importlib.import_module(f"alexnet_dist.{name}{'.__main__' if is_package else ''}")
    code = run_command(module.main, command_words(name, run, folder))
    return code, capsys.readouterr().err


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malice(path.parents[1] / "canary")))


def pickled_array(path: Path) -> None:
    np.save(path, np.array([Malice(path.parents[1] / "canary")], dtype=object), allow_pickle=True)


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, mean=np.zeros(3))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    (run_directory.MEAN, lambda path: path.write_bytes(b"no array")),
    (run_directory.MEAN, lambda path: path.write_bytes(path.read_bytes()[:100])),
    (run_directory.MEAN, lambda path: np.save(path, np.zeros((3, 8, 8), np.float32))),
    (run_directory.MEAN, lambda path: np.save(path, np.zeros((3, 16, 16), np.float64))),
    (run_directory.MEAN, archive),
    (run_directory.MEAN, lambda path: path.write_bytes(b"PK\x03\x04" + bytes(64))),
    (run_directory.MEAN, lambda path: path.write_bytes(path.read_bytes().replace(b"}", b"]", 1))),
    (run_directory.MEAN, lambda path: path.write_bytes(path.read_bytes().replace(b"16, 16)", b"9999999, 99)", 1))),
    (run_directory.MEAN, pickled_array),
    (run_directory.MEAN, pickled),
    (run_directory.MEAN, folder_instead),
    (run_directory.CONFIG, lambda path: path.write_bytes(b"\xff\xfe\x00")),
    (run_directory.CONFIG, lambda path: path.write_text("run: [half")),
    (run_directory.CONFIG, folder_instead),
    ("train.manifest.json", lambda path: path.write_text('{"half": ')),
    ("train.manifest.json", lambda path: path.write_bytes(b"\x00" * 64)),
    ("train.manifest.json", folder_instead),
]


def test_the_malice_of_these_tests_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "file", "damage"), [(COMMANDS[number % 2], *case) for number, case in enumerate(DAMAGES)]
)
def test_a_damaged_file_ends_a_command_in_one_sentence(
    name: str, file: str, damage: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = write_run(tmp_path)
    damage(run / file)
    code, text = said(name, run, tmp_path, capsys)
    assert (code, text.count("\n"), text.startswith("error: ")) == (2, 1, True), text
    assert file in text
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b'{"step": 1, "loss"\n{"step": 2}\n'),
        lambda path: path.write_bytes(b"\x00\xff\xfe\n"),
        lambda path: path.write_bytes(b"3\n"),
        lambda path: path.write_bytes(b'{"step": 1}\n'),
        lambda path: path.write_bytes(b'{"step": 1, "epoch": "x", "loss": 1, "top1_error": 1, "learning_rate": 1}\n'),
        Path.mkdir,
    ],
)
def test_damaged_records_end_the_curves_in_one_sentence(
    damage: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = write_run(tmp_path)
    damage(run / run_directory.METRICS)
    code, text = said("figures", run, tmp_path, capsys)
    assert code == 2
    assert (run_directory.METRICS in text, text.count("\n")) == (True, 1)


@pytest.mark.parametrize("name", COMMANDS[:2])
def test_a_pickle_in_place_of_a_checkpoint_is_not_opened(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hash is that of the manifest: whoever can replace a file can replace the manifest."""
    run, _ = write_run(tmp_path)
    home = run / run_directory.CHECKPOINTS / "step-00000003"
    tower = home / "tower-0.safetensors"
    tower.write_bytes(pickle.dumps(Malice(tmp_path / "canary")))
    manifest = json.loads((home / "manifest.json").read_text())
    content = tower.read_bytes()
    manifest["files"][tower.name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.pop(checkpoint.OWN_HASH)
    (home / "manifest.json").write_text(json.dumps(manifest))
    code, text = said(name, run, tmp_path, capsys)
    assert (code, text.startswith("error: ")) == (2, True)
    assert "tower-0.safetensors: cannot be read" in text
    assert not (tmp_path / "canary").exists()


def rewrite(home: Path) -> None:
    """Give a checkpoint's manifest the hashes of the files that are there."""
    manifest = json.loads((home / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (home / name).read_bytes()
        manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.pop(checkpoint.OWN_HASH)
    (home / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("case", ["exchanged", "foreign", "no geometry"])
def test_a_checkpoint_that_only_its_hashes_vouch_for_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = write_run(tmp_path)
    home = run / run_directory.CHECKPOINTS / "step-00000003"
    towers = [home / f"tower-{number}.safetensors" for number in range(2)]
    if case == "exchanged":  # of different sizes, as seven classes are not even
        contents = [tower.read_bytes() for tower in towers]
        for tower, content in zip(towers, reversed(contents), strict=True):
            tower.write_bytes(content)
    elif case == "foreign":
        save_file({"weight": torch.zeros(3)}, towers[0])
    else:
        manifest = json.loads((home / "manifest.json").read_text())
        (home / "manifest.json").write_text(json.dumps({**manifest, "geometry": [1]}))
    rewrite(home)
    code, text = said("export", run, tmp_path, capsys)
    assert (code, text.count("\n"), text.startswith("error: ")) == (2, 1, True), text
    assert ("manifest.json: no geometry" if case == "no geometry" else "tower-0.safetensors: ") in text
    assert "restore the checkpoint" in text


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system"]
)
def test_a_configuration_makes_no_objects(tag: str, tmp_path: Path) -> None:
    file, canary = tmp_path / "run.yaml", tmp_path / "canary"
    file.write_text(f"run: {tag} ['touch {canary}']\n")
    with pytest.raises(UserError, match=r"run\.yaml"):
        configs.load([file], [])
    with pytest.raises(UserError):
        configs.load([], [f"run={tag} ['touch {canary}']"])
    assert not canary.exists()


@pytest.mark.parametrize("root", ["pipe:touch CANARY", "file:///etc/passwd", "ftp://host/x", "gopher:x", "data:x"])
def test_no_other_place_is_read(root: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    words = training_words(Path("unused"), tmp_path / "run", f"data.root={root.replace('CANARY', str(canary))}")
    with pytest.raises(UserError, match=r"data\.root"):
        train_here([Path(words[1])], words[2:])
    assert not canary.exists()
