"""The demo changes nothing that exists: a second one goes beside the first, and the user's folder is only read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_dist.demo.paths import discard, example_image, prepare
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.split_folders import has_held_out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_first_demo_has_the_names_that_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "demo"
    paths = prepare(run, None)
    assert (paths.run, paths.work) == (run, tmp_path / "runs" / "demo-data")
    assert paths.images == paths.work / "images"
    assert not run.exists()
    assert capsys.readouterr().out == ""


def test_a_second_demo_goes_beside_the_first_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "demo"
    first = prepare(run, None)
    first.run.mkdir()
    (first.run / "weeks of training").write_text("a")
    (first.work / "shards").mkdir()
    before = contents(tmp_path)
    second, third = prepare(run, None), prepare(run, None)
    assert (second.run, second.work) == (tmp_path / "demo-2", tmp_path / "demo-2-data")
    assert (third.run, third.work) == (tmp_path / "demo-3", tmp_path / "demo-3-data")
    assert contents(tmp_path) == before
    assert first.shards.exists()
    assert capsys.readouterr().out.splitlines() == [
        f"{run} or demo-data exists and stays; this demo writes {other.run} and {other.work}"
        for other in (second, third)
    ]


@pytest.mark.parametrize("name", ["demo", "demo-data"])
@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_the_demo_did_not_make_stays(tmp_path: Path, name: str, kind: str) -> None:
    user = tmp_path / name
    if kind == "folder":
        user.mkdir()
        (user / "weeks of training").write_text("a")
    elif kind == "file":
        user.write_text("a")
    else:
        user.symlink_to("nowhere")
    before = contents(tmp_path)
    assert prepare(tmp_path / "demo", None).run == tmp_path / "demo-2"
    assert contents(tmp_path) == before
    assert os.path.lexists(user)


def test_an_empty_folder_is_a_free_name_for_the_run(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert prepare(tmp_path / "demo", None).run == tmp_path / "demo"


def test_a_demo_that_fails_before_it_trains_gives_its_names_back(tmp_path: Path) -> None:
    paths = prepare(tmp_path / "demo", None)
    (paths.work / "shards").mkdir()
    discard(paths)
    assert list(tmp_path.iterdir()) == []
    assert prepare(tmp_path / "demo", None) == paths


@pytest.mark.parametrize("run", ["user/run", "user/train/deep/run"])
def test_the_users_folder_and_the_demos_are_apart(tmp_path: Path, run: str) -> None:
    (tmp_path / "user" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"inside it; choose another directory: .*--run FOLDER"):
        prepare(tmp_path / run, tmp_path / "user")
    assert [path.name for path in tmp_path.rglob("*")] == ["user", "train"]


@pytest.mark.parametrize("run", ["user", ".", "elsewhere/.."])
def test_a_run_directory_that_is_or_holds_the_users_folder_stays(
    tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "user").mkdir(parents=True)
    (home / "elsewhere").mkdir()
    (home / "user" / "image").write_text("a")
    monkeypatch.chdir(home)
    paths = prepare(Path(run), Path("user"))
    assert not paths.work.resolve().is_relative_to(home / "user")
    assert paths.run.name in ("user-2", "home-2")
    assert contents(home) == {"user/image": b"a"}


def test_images_that_an_earlier_demo_drew_are_not_removed_from_under_their_user(tmp_path: Path) -> None:
    paths = prepare(tmp_path / "demo", None)
    paths.images.mkdir()
    (paths.images / "a.jpg").write_text("a")
    again = prepare(tmp_path / "demo", paths.images)
    assert again.run == tmp_path / "demo-2"
    assert (paths.images / "a.jpg").exists()


def test_a_folder_that_is_not_there_and_one_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no such folder; expected a folder with train/ and val/"):
        prepare(tmp_path / "demo", tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: File exists; .*--run FOLDER"):
        prepare(tmp_path / "file" / "demo", None)


def test_how_the_users_folder_is_divided(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.JPG").write_text("")
    assert not has_held_out(tmp_path)
    assert example_image(tmp_path) == tmp_path / "train" / "cat" / "1.JPG"
    (tmp_path / "val" / "cat").mkdir(parents=True)
    assert has_held_out(tmp_path)
    assert example_image(tmp_path) is None
    (tmp_path / "val" / "cat" / "2.png").write_text("")
    assert example_image(tmp_path) == tmp_path / "val" / "cat" / "2.png"


@pytest.mark.parametrize(
    ("train", "held_out"), [("Train", "Val"), ("TRAINING", "Validation_Set"), ("train-set", "test")]
)
def test_the_splits_are_known_by_their_usual_names(tmp_path: Path, train: str, held_out: str) -> None:
    for name in (train, held_out, "trainer"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "1.jpg").write_text("")
    assert has_held_out(tmp_path)
    assert example_image(tmp_path) == tmp_path / held_out / "cat" / "1.jpg"
