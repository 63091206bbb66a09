"""The figures command: sizes and content of its pictures, and its errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from alexnet_dist.errors import UserError
from alexnet_dist.figures import page
from alexnet_dist.figures.__main__ import main
from alexnet_dist.pack.__main__ import main as pack
from support.histories import write_held_out, write_recorded_run
from support.runs import SIZE, write_run

DOTS_PER_INCH = 50  # fewer than usual: drawn in less time


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pictures of few pixels."""
    monkeypatch.setattr(page, "DOTS_PER_INCH", DOTS_PER_INCH)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the directory of a run with log lines, and that of shards with held-out images for it."""
    home = tmp_path_factory.mktemp("finished")
    return write_recorded_run(home), write_held_out(home)


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert sum(count > 0 for count in image.convert("L").histogram()) > 20  # shades: the picture is not blank
        return image.size


def test_a_run_with_shards_gives_six_pictures(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, shards = finished
    out = tmp_path / "deep" / "out"
    main([str(directory), str(out), "--data", str(shards)])
    names = ("net", "conv1", "curves", "predictions", "neighbours", "activations")
    assert capsys.readouterr().out.split() == [str(out / f"{name}.png") for name in names]
    widths = {name: _size(out / f"{name}.png")[0] for name in names}
    assert all(abs(widths[name] - page.WIDTH * DOTS_PER_INCH) <= 1 for name in names if name != "net")


def test_without_shards_there_are_three_pictures_and_a_reason(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the run's data.root is the relative path `shards`, which does not exist here
    main([str(finished[0]), "out"])
    assert sorted(path.name for path in Path("out").iterdir()) == ["conv1.png", "curves.png", "net.png"]
    skipped = "predictions.png, neighbours.png, activations.png skipped"
    assert f"{skipped}: no shards of val in {tmp_path}/shards; pass --data" in capsys.readouterr().out


def test_pictures_that_a_run_cannot_have_are_skipped_with_a_reason(
    tmp_path: Path,
    finished: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alexnet_dist.figures.__main__._write", lambda _, path: print(path))  # rendering takes seconds
    own = [f"model.layers.{layer}.reads=own" for layer in ("conv3", "fc6", "fc7", "fc8")]
    directory, _ = write_run(tmp_path, (3,), "model.towers=1", *own)
    main([str(directory), str(tmp_path / "out"), "--data", str(finished[1])])
    *paths, no_curves, no_activations = capsys.readouterr().out.splitlines()
    assert [Path(path).stem for path in paths] == ["net", "conv1", "predictions", "neighbours"]
    assert no_curves == "curves.png skipped: the run has logged nothing yet"
    assert no_activations == "activations.png skipped: no layer of this net reads both towers"


def test_of_several_runs_only_curves_are_drawn(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, out = finished[0], tmp_path / "out"
    main([str(directory), str(directory), str(out)])
    assert capsys.readouterr().out.split() == [str(out / "curves.png")]
    assert [path.name for path in out.iterdir()] == ["curves.png"]
    with pytest.raises(UserError, match="--data or --step with several runs, of which only curves are drawn"):
        main([str(directory), str(directory), str(out), "--step", "3"])
    with pytest.raises(UserError, match=r"run: a run; expected the folder for the pictures as the last argument"):
        main([str(directory), str(directory)])


def test_what_cannot_be_drawn_is_refused(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = finished[0]
    with pytest.raises(UserError, match="not a run"):
        main([str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"val\.manifest\.json"):
        main([str(directory), str(tmp_path / "out"), "--data", str(tmp_path)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another folder"):
        main([str(directory), str(tmp_path / "file" / "out")])
    other = tmp_path / "other"
    source = tmp_path / "images" / "only"
    source.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (SIZE, SIZE)).save(source / f"{number}.png")
    for split in ("train", "val"):
        pack([str(source.parent), str(other), "--split", split, "--size", "8", "--holdout", "0.5", "--processes", "1"])
    with pytest.raises(UserError, match=r"1 classes, 8 pixels a side; .*run was trained on 7, 16 pixels"):
        main([str(directory), str(tmp_path / "out"), "--data", str(other)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'alexnet_dist\[figures\]'"):
        main([str(directory), str(tmp_path / "out")])
