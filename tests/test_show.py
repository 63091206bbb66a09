"""The summary and the sheet of a packed split: what they say is there, and the pictures are what the net reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from alexnet_dist import show
from alexnet_dist.config import Config
from alexnet_dist.data.augment import train_draws
from alexnet_dist.data.manifest import Class, Rejected
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from support.remote_server import HttpServer

Pack = Callable[..., Path]
FONT = ImageFont.load_default(show.CAPTION_SIZE)


def numbers(shown: show.Shown) -> list[int]:
    return [int(note.split()[1].rstrip(",")) for note in shown.notes]


def test_training_pictures_are_the_nets_input_with_its_mean_again(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    shown = show.samples(split, count=9, seed=4, epoch=2, crop=14)
    ids = numbers(shown)
    assert len(set(ids)) == 9
    noise = Config().data.colour_noise
    drawn = train_draws(4, 2, np.array(ids), 16, 14, split.components, noise)
    assert 0 < drawn.flip.sum() < 9
    for n, sample in enumerate(ids):
        top, left = drawn.top[n], drawn.left[n]
        crop = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[top : top + 14, left : left + 14]
        wanted = np.clip(np.rint((crop[:, ::-1] if drawn.flip[n] else crop) + drawn.shift[n]), 0, 255)
        assert np.abs(shown.pictures[n] - wanted).max() <= 1  # a half may be rounded either way
        assert ("flipped" in shown.notes[n]) == drawn.flip[n]
        assert shown.captions[n] == f"class{sample % 5}"
    other = show.samples(split, count=9, seed=4, epoch=3, crop=14)
    assert not np.array_equal(other.pictures, shown.pictures)


def test_validation_pictures_are_centres(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(split="val"), "val")
    shown = show.samples(split, count=20, seed=0, epoch=0, crop=14)
    for n, sample in enumerate(numbers(shown)):
        assert np.array_equal(shown.pictures[n], simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[1:15, 1:15])


def test_words_stand_for_a_class_where_it_has_them(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    named = tuple(Class(one.name, f"a thing, {one.name}") for one in split.manifest.classes)
    split.manifest = replace(split.manifest, classes=named)
    assert all(caption.startswith("a thing, class") for caption in show.samples(split, 3, 0, 0, 14).captions)


def test_the_sheet_holds_every_picture_at_its_place() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (11, 14, 14, 3), dtype=np.uint8)
    page = show.sheet(show.Shown(pictures, ["words"] * 11, ["note"] * 11), "title", "subtitle")
    step_x, step_y = show.TILE + show.GAP, show.TILE + show.GAP + show.CAPTION_ROOM
    assert page.size == (
        2 * show.MARGIN + 8 * step_x - show.GAP,
        2 * show.MARGIN + show.TITLE_ROOM + 2 * step_y - show.GAP,
    )
    found = np.asarray(page)
    for number, picture in enumerate(pictures):
        left, top = show.MARGIN + number % 8 * step_x, show.MARGIN + show.TITLE_ROOM + number // 8 * step_y
        tile = found[top : top + show.TILE, left : left + show.TILE]
        assert np.array_equal(tile[6::12, 6::12], picture)  # 12 pixels of the sheet to one of the picture
        under = found[top + show.TILE + 2 : top + show.TILE + show.CAPTION_ROOM, left : left + show.TILE]
        assert under.min() < 100  # something is written there
    assert found[:, -show.MARGIN :].min() == 255


def test_a_long_title_widens_the_sheet() -> None:
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    page = show.sheet(show.Shown(pictures, [""], [""]), "title " * 30, "")
    assert page.size[0] > 30 * show.TITLE_SIZE
    assert np.asarray(page)[:, -show.MARGIN :].min() == 255


@given(st.text(max_size=60), st.integers(20, 300))
def test_a_text_is_cut_only_where_it_is_too_wide(text: str, width: int) -> None:
    text = text.replace("\n", " ").replace("\r", " ")
    found = show.shortened(text, FONT, width)
    assert FONT.getlength(found) <= width
    if FONT.getlength(text) <= width:
        assert found == text
    else:
        assert found.endswith("...")
        assert text.startswith(found[:-3])


def test_the_command_prints_a_summary_and_writes_a_png(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = pack_tiny(), tmp_path / "sheet.png"
    show.main([str(root), "--out", str(out), "--count", "50"])
    said = capsys.readouterr().out
    for words in ("20 images of 5 classes", "16 x 16", "red 100.0", "no file", "quality 90", "20 pictures in"):
        assert words in said
    with Image.open(out) as image:
        assert image.format == "PNG"


def test_a_remote_set_is_shown_by_way_of_the_cache(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    url, home = http_server.url(pack_tiny()), tmp_path / "home"
    command = [sys.executable, "-m", "alexnet_dist.show", url, "--out", str(tmp_path / "sheet.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HOME": str(home)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{url}: train, 20 images of 5 classes")
    assert "20 pictures in" in done.stdout
    assert len(list((home / ".cache" / "alexnet_dist").glob("*.tar"))) == 3


def test_the_summary_counts_classes_and_gives_mean_and_deviation_of_colours(pack_tiny: Pack) -> None:
    said = show.summary(Split.open(pack_tiny(counts=(7, 1, 4)), "train"))
    assert "2 to 3 images each, 2 in the middle" in said
    assert "red 100.0 ± 5.5, green 90.0 ± 4.5, blue 80.0 ± 3.2" in said


def test_rejected_files_are_counted_by_reason_and_some_are_named(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    rejected = tuple(Rejected(f"class0/{n}.jpg", "empty file" if n else "no JPEG") for n in range(5))
    split.manifest = replace(split.manifest, rejected=rejected)
    said = show.summary(split)
    assert "5: 4 empty file, 1 no JPEG" in said
    assert "class0/2.jpg: empty file" in said
    assert "class0/3.jpg" not in said
    assert "and 2 more" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crop", "17"], r"--crop: 17; expected 1 to 16"),
        (["--count", "0"], r"--count: 0; expected 1 to 1,000"),
        (["--epoch", "-1"], r"--epoch: -1; expected 0 to"),
        (["--split", "val"], r"val\.manifest\.json: no such file"),
        (["--out", "gone/sheet.png"], r"gone/sheet\.png: cannot be written: No such file"),
    ],
)
def test_mistakes_are_told_plainly(
    pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    root = pack_tiny()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        show.main([str(root), *words])
    with pytest.raises(UserError, match=r"nowhere/train\.manifest\.json: no such file"):
        show.main(["nowhere"])


def test_a_damaged_sample_is_named(pack_tiny: Pack) -> None:
    root = pack_tiny(jpegs=[b"no jpeg"] * 20)
    with pytest.raises(UserError, match="pack it again"):
        show.main([str(root)])
