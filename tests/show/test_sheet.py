"""The sheet: every picture at its position, with a caption that fits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFont

from alexnet_dist.show import sheet
from alexnet_dist.show.samples import SamplePictures

FONT = ImageFont.load_default(sheet.CAPTION_SIZE)


def test_the_sheet_holds_every_picture_at_its_position() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (11, 14, 14, 3), dtype=np.uint8)
    page = sheet.sheet(SamplePictures(pictures, ["words"] * 11, ["note"] * 11), "title", "subtitle")
    step_x, step_y = sheet.TILE + sheet.GAP, sheet.TILE + sheet.GAP + sheet.CAPTION_HEIGHT
    assert page.size == (
        2 * sheet.MARGIN + 8 * step_x - sheet.GAP,
        2 * sheet.MARGIN + sheet.TITLE_HEIGHT + 2 * step_y - sheet.GAP,
    )
    pixels = np.asarray(page)
    for number, picture in enumerate(pictures):
        left, top = sheet.MARGIN + number % 8 * step_x, sheet.MARGIN + sheet.TITLE_HEIGHT + number // 8 * step_y
        tile = pixels[top : top + sheet.TILE, left : left + sheet.TILE]
        assert np.array_equal(tile[6::12, 6::12], picture)  # 12 pixels of the sheet per pixel of the picture
        caption = pixels[top + sheet.TILE + 2 : top + sheet.TILE + sheet.CAPTION_HEIGHT, left : left + sheet.TILE]
        assert caption.min() < 100  # text is drawn there
    assert pixels[:, -sheet.MARGIN :].min() == 255


def test_a_long_title_widens_the_sheet() -> None:
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    page = sheet.sheet(SamplePictures(pictures, [""], [""]), "title " * 30, "")
    assert page.size[0] > 30 * sheet.TITLE_SIZE
    assert np.asarray(page)[:, -sheet.MARGIN :].min() == 255


@given(st.text(max_size=60), st.integers(20, 300))
def test_a_text_is_shortened_only_where_it_is_too_wide(text: str, width: int) -> None:
    text = text.replace("\n", " ").replace("\r", " ")
    result = sheet.shortened(text, FONT, width)
    assert FONT.getlength(result) <= width
    if FONT.getlength(text) <= width:
        assert result == text
    else:
        assert result.endswith("...")
        assert text.startswith(result[:-3])
