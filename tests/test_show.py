"""Summary and sheet of a packed split: the summary is correct, and the pictures are the inputs of the net."""

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


def sample_ids(samples: show.SamplePictures) -> list[int]:
    return [int(note.split()[1].rstrip(",")) for note in samples.notes]


def test_training_pictures_are_the_nets_input_with_its_mean_again(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    samples = show.sample_pictures(split, count=9, seed=4, epoch=2, crop=14)
    ids = sample_ids(samples)
    assert len(set(ids)) == 9
    noise = Config().data.colour_noise
    draws = train_draws(4, 2, np.array(ids), 16, 14, split.components, noise)
    assert 0 < draws.flip.sum() < 9
    for n, sample in enumerate(ids):
        top, left = draws.top[n], draws.left[n]
        crop = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[top : top + 14, left : left + 14]
        expected = np.clip(np.rint((crop[:, ::-1] if draws.flip[n] else crop) + draws.shift[n]), 0, 255)
        assert np.abs(samples.pictures[n] - expected).max() <= 1  # halves may round in either direction
        assert ("flipped" in samples.notes[n]) == draws.flip[n]
        assert samples.captions[n] == f"class{sample % 5}"
    other = show.sample_pictures(split, count=9, seed=4, epoch=3, crop=14)
    assert not np.array_equal(other.pictures, samples.pictures)


def test_validation_pictures_are_centres(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(split="val"), "val")
    samples = show.sample_pictures(split, count=20, seed=0, epoch=0, crop=14)
    for n, sample in enumerate(sample_ids(samples)):
        assert np.array_equal(samples.pictures[n], simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[1:15, 1:15])


def test_words_stand_for_a_class_where_it_has_them(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    named = tuple(Class(class_.name, f"a thing, {class_.name}") for class_ in split.manifest.classes)
    split.manifest = replace(split.manifest, classes=named)
    assert all(caption.startswith("a thing, class") for caption in show.sample_pictures(split, 3, 0, 0, 14).captions)


def test_the_sheet_holds_every_picture_at_its_position() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (11, 14, 14, 3), dtype=np.uint8)
    page = show.sheet(show.SamplePictures(pictures, ["words"] * 11, ["note"] * 11), "title", "subtitle")
    step_x, step_y = show.TILE + show.GAP, show.TILE + show.GAP + show.CAPTION_HEIGHT
    assert page.size == (
        2 * show.MARGIN + 8 * step_x - show.GAP,
        2 * show.MARGIN + show.TITLE_HEIGHT + 2 * step_y - show.GAP,
    )
    pixels = np.asarray(page)
    for number, picture in enumerate(pictures):
        left, top = show.MARGIN + number % 8 * step_x, show.MARGIN + show.TITLE_HEIGHT + number // 8 * step_y
        tile = pixels[top : top + show.TILE, left : left + show.TILE]
        assert np.array_equal(tile[6::12, 6::12], picture)  # 12 pixels of the sheet per pixel of the picture
        caption = pixels[top + show.TILE + 2 : top + show.TILE + show.CAPTION_HEIGHT, left : left + show.TILE]
        assert caption.min() < 100  # text is drawn there
    assert pixels[:, -show.MARGIN :].min() == 255


def test_a_long_title_widens_the_sheet() -> None:
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    page = show.sheet(show.SamplePictures(pictures, [""], [""]), "title " * 30, "")
    assert page.size[0] > 30 * show.TITLE_SIZE
    assert np.asarray(page)[:, -show.MARGIN :].min() == 255


@given(st.text(max_size=60), st.integers(20, 300))
def test_a_text_is_shortened_only_where_it_is_too_wide(text: str, width: int) -> None:
    text = text.replace("\n", " ").replace("\r", " ")
    result = show.shortened(text, FONT, width)
    assert FONT.getlength(result) <= width
    if FONT.getlength(text) <= width:
        assert result == text
    else:
        assert result.endswith("...")
        assert text.startswith(result[:-3])


def test_the_command_prints_a_summary_and_writes_a_png(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = pack_tiny(), tmp_path / "sheet.png"
    show.main([str(root), "--out", str(out), "--count", "50"])
    output = capsys.readouterr().out
    for expected in ("20 images of 5 classes", "16 x 16", "red 100.0", "no files", "quality 90", "20 pictures in"):
        assert expected in output
    with Image.open(out) as image:
        assert image.format == "PNG"


def test_a_remote_set_is_shown_by_way_of_the_cache(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    url, home = http_server.url(pack_tiny()), tmp_path / "home"
    command = [sys.executable, "-m", "alexnet_dist.show", url, "--out", str(tmp_path / "sheet.png")]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HOME": str(home)})
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"{url}: train, 20 images of 5 classes")
    assert "20 pictures in" in process.stdout
    assert len(list((home / ".cache" / "alexnet_dist").glob("*.tar"))) == 3


def test_the_summary_counts_classes_and_gives_mean_and_deviation_of_colours(pack_tiny: Pack) -> None:
    output = show.summary(Split.open(pack_tiny(counts=(7, 1, 4)), "train"))
    assert "2 to 3 images each, median 2" in output
    assert "red 100.0 ± 5.5, green 90.0 ± 4.5, blue 80.0 ± 3.2" in output


def test_rejected_files_are_counted_by_reason_and_some_are_named(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    rejected = tuple(Rejected(f"class0/{n}.jpg", "empty file" if n else "no JPEG") for n in range(5))
    split.manifest = replace(split.manifest, rejected=rejected)
    output = show.summary(split)
    assert "5: 4 empty file, 1 no JPEG" in output
    assert "class0/2.jpg: empty file" in output
    assert "class0/3.jpg" not in output
    assert "and 2 more" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "17"], r"--crop: 17; expected 1 to 16"),
        (["--count", "0"], r"--count: 0; expected 1 to 1,000"),
        (["--epoch", "-1"], r"--epoch: -1; expected 0 to"),
        (["--split", "val"], r"val\.manifest\.json: no such file"),
        (["--out", "gone/sheet.png"], r"gone/sheet\.png: cannot be written: No such file"),
    ],
)
def test_mistakes_are_reported_plainly(
    pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    root = pack_tiny()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        show.main([str(root), *options])
    with pytest.raises(UserError, match=r"nowhere/train\.manifest\.json: no such file"):
        show.main(["nowhere"])


def test_a_damaged_sample_is_named(pack_tiny: Pack) -> None:
    root = pack_tiny(jpegs=[b"no jpeg"] * 20)
    with pytest.raises(UserError, match="pack it again"):
        show.main([str(root)])
