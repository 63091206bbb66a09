"""The demo deletes only directories that it created, and writes nothing into the user's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.demo.paths import MARKER, example_image, has_held_out, mark_as_demo, prepare
from alexnet_dist.errors import UserError


def test_what_an_earlier_demo_made_is_deleted(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    paths = prepare(run, None)
    assert (paths.run, paths.work) == (run, tmp_path / "runs" / "demo-data")
    assert paths.images == paths.work / "images"
    run.mkdir()
    (run / "old").write_text("")
    mark_as_demo(run)
    (paths.work / "old").write_text("")
    prepare(run, None)
    assert not run.exists()
    assert [path.name for path in paths.work.iterdir()] == [MARKER]


@pytest.mark.parametrize("name", ["demo", "demo-data"])
def test_what_the_demo_did_not_make_stays(tmp_path: Path, name: str) -> None:
    prepare(tmp_path / "demo", None)
    user = tmp_path / name
    user.mkdir(exist_ok=True)
    (user / MARKER).unlink(missing_ok=True)
    (user / "weeks of training").write_text("")
    with pytest.raises(UserError, match=rf"{name} is left unchanged: the demo did not create it .*--run FOLDER"):
        prepare(tmp_path / "demo", None)
    assert (user / "weeks of training").exists()


def test_nothing_is_removed_when_one_of_two_must_stay(tmp_path: Path) -> None:
    paths = prepare(tmp_path / "demo", None)
    (paths.work / "shards").mkdir()
    paths.run.mkdir()
    with pytest.raises(UserError, match="demo is left unchanged"):
        prepare(paths.run, None)
    assert paths.shards.exists()


@pytest.mark.parametrize("run", ["user/run", "user", "."])
def test_the_users_folder_and_the_demos_are_apart(tmp_path: Path, run: str) -> None:
    (tmp_path / "user").mkdir()
    with pytest.raises(UserError, match="overlaps it; choose another run directory"):
        prepare(tmp_path / run, tmp_path / "user")
    assert [path.name for path in tmp_path.rglob("*")] == ["user"]


def test_images_that_an_earlier_demo_drew_are_not_removed_from_under_their_user(tmp_path: Path) -> None:
    paths = prepare(tmp_path / "demo", None)
    paths.images.mkdir()
    with pytest.raises(UserError, match="overlaps it"):
        prepare(tmp_path / "demo", paths.images)
    assert paths.images.exists()


def test_a_folder_that_is_not_there_and_one_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no such folder; expected a folder with train/ and val/"):
        prepare(tmp_path / "demo", tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory; .*--run FOLDER"):
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
