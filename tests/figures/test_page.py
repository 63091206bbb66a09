"""The page: captions and legends, and names and numbers short enough for their columns."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.figures.page import Key, clipped, marker, new_page, percentage, short_name, text_width

ELLIPSIS = "…"


def test_a_long_name_keeps_its_first_group_of_words() -> None:
    assert short_name("tench, Tinca tinca", 3.0, 8.5) == "tench, Tinca tinca"
    assert short_name("tench, Tinca tinca", 0.8, 8.5) == "tench…"
    assert short_name("Staffordshire bullterrier, Staffordshire bull terrier", 0.8, 8.5) == "Staffordshi…"
    assert short_name("kite", 0.1, 8.5) == ELLIPSIS


@given(st.text("aWi ,$_é", max_size=60), st.floats(0.2, 3.0))
def test_a_short_name_is_as_wide_as_its_place_at_most(words: str, width: float) -> None:
    name = short_name(words, width, 10)
    assert text_width(name, 10) <= width
    if name != words:
        assert name.endswith(ELLIPSIS)
        assert words.lstrip().startswith(name.removesuffix(ELLIPSIS))


@given(st.text(max_size=30), st.integers(1, 20))
def test_clipped_text_has_at_most_the_limit(text: str, limit: int) -> None:
    result = clipped(text, limit)
    assert len(result) <= limit
    assert result == text or (len(text) > limit and result.endswith(ELLIPSIS))


def test_percentages_hide_neither_doubt_nor_a_small_chance() -> None:
    expected = {
        0: "0%",
        1e-9: "<0.1%",
        0.004: "0.4%",
        0.01: "1%",
        0.424: "42%",
        0.996: "99.6%",
        0.99999: ">99.9%",
        1: "100%",
    }
    assert {value: percentage(value) for value in expected} == expected


def test_few_points_have_markers() -> None:
    assert (marker(1), marker(29), marker(30)) == ("o", "o", "")


@pytest.mark.parametrize("keys", [0, 1, 12])
def test_title_legend_and_caption_do_not_overlap(keys: int) -> None:
    entries = [Key(f"a run with a rather long name {number}", "#000000", "marked line") for number in range(keys)]
    figure = new_page(1.0, "a $title$", "What to look for: " + "nothing in particular, " * 12, entries)
    figure.draw_without_rendering()
    title, caption = figure.texts
    legends = [legend.get_window_extent() for legend in figure.legends]
    boxes = [title.get_window_extent(), *legends, caption.get_window_extent()]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y1
    assert boxes[0].y1 <= figure.bbox.y1
    assert boxes[-1].y0 >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
