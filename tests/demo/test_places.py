"""The demo replaces only what it made, and writes nothing into the user's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.demo.places import MARKER, example, has_held_out, mark, prepare
from alexnet_dist.errors import UserError


def test_what_an_earlier_demo_made_is_replaced(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    places = prepare(run, None)
    assert (places.run, places.work) == (run, tmp_path / "runs" / "demo-data")
    assert places.images == places.work / "images"
    run.mkdir()
    (run / "old").write_text("")
    mark(run)
    (places.work / "old").write_text("")
    prepare(run, None)
    assert not run.exists()
    assert [path.name for path in places.work.iterdir()] == [MARKER]


@pytest.mark.parametrize("name", ["demo", "demo-data"])
def test_what_the_demo_did_not_make_stays(tmp_path: Path, name: str) -> None:
    prepare(tmp_path / "demo", None)
    mine = tmp_path / name
    mine.mkdir(exist_ok=True)
    (mine / MARKER).unlink(missing_ok=True)
    (mine / "weeks of training").write_text("")
    with pytest.raises(UserError, match=rf"{name} stays as it is: the demo did not make it .*--run FOLDER"):
        prepare(tmp_path / "demo", None)
    assert (mine / "weeks of training").exists()


def test_nothing_is_removed_when_one_of_two_must_stay(tmp_path: Path) -> None:
    places = prepare(tmp_path / "demo", None)
    (places.work / "shards").mkdir()
    places.run.mkdir()
    with pytest.raises(UserError, match="demo stays as it is"):
        prepare(places.run, None)
    assert places.shards.exists()


@pytest.mark.parametrize("run", ["mine/run", "mine", "."])
def test_the_users_folder_and_the_demos_are_apart(tmp_path: Path, run: str) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="overlaps it; choose another place"):
        prepare(tmp_path / run, tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_images_that_an_earlier_demo_drew_are_not_removed_from_under_their_user(tmp_path: Path) -> None:
    places = prepare(tmp_path / "demo", None)
    places.images.mkdir()
    with pytest.raises(UserError, match="overlaps it"):
        prepare(tmp_path / "demo", places.images)
    assert places.images.exists()


def test_a_folder_that_is_not_there_and_one_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no such folder; expected one with train/ and val/"):
        prepare(tmp_path / "demo", tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory; .*--run FOLDER"):
        prepare(tmp_path / "file" / "demo", None)


def test_how_the_users_folder_is_divided(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.JPG").write_text("")
    assert not has_held_out(tmp_path)
    assert example(tmp_path) == tmp_path / "train" / "cat" / "1.JPG"
    (tmp_path / "val" / "cat").mkdir(parents=True)
    assert has_held_out(tmp_path)
    assert example(tmp_path) is None
    (tmp_path / "val" / "cat" / "2.png").write_text("")
    assert example(tmp_path) == tmp_path / "val" / "cat" / "2.png"
