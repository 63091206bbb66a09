"""The charts: ticks, labels, and lines that lie inside their axes, as well-formed SVG."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.report.chart import (
    BOTTOM,
    HEIGHT,
    MOST_POINTS,
    TOP,
    WIDTH,
    Bar,
    Series,
    bar_chart,
    key,
    line_chart,
    thinned,
    tick_label,
    ticks,
)

MARKUP = '<b onmouseover="alert(1)">&'
NUMBERS = st.floats(0, 1e12)


@given(st.floats(1e-6, 1e12))
def test_ticks_are_few_and_reach_the_largest(largest: float) -> None:
    found = ticks(largest)
    assert found[0] == 0
    assert found[-1] >= largest * (1 - 1e-6)
    assert found[-2] < largest
    assert 3 <= len(found) <= 7
    labels = [tick_label(value, found[1]) for value in found]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("largest", [0.0, math.nan, math.inf, -1.0])
def test_without_a_largest_the_axis_ends_at_one(largest: float) -> None:
    assert ticks(largest)[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "step", "percent", "text"),
    [
        (0.5, 0.5, False, "0.5"),
        (2.0, 1.0, False, "2"),
        (1500.0, 500.0, False, "1,500"),
        (0.25, 0.05, True, "25 %"),
        (0.025, 0.025, True, "2.5 %"),
        (0.0, 0.5, False, "0"),
        (0.25, 0.25, False, "0.25"),
    ],
)
def test_a_tick_has_the_decimals_of_its_step(value: float, step: float, percent: bool, text: str) -> None:
    assert tick_label(value, step, percent) == text


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40))
def test_lines_lie_inside_the_axes(points: list[tuple[float, float]]) -> None:
    root = ElementTree.fromstring(line_chart("t", "u", [Series("s", points, 0, marked=True)]))
    for circle in root.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= WIDTH
        assert TOP - 0.1 <= float(circle.attrib["cy"]) <= HEIGHT - BOTTOM + 0.1


def test_a_chart_says_what_it_shows() -> None:
    drawn = line_chart("Loss", "nats", [Series(MARKUP, [(1, 2.0), (2, 1.5)], 9), Series("b", [], 1)])
    root = ElementTree.fromstring(drawn)
    assert root.attrib["aria-label"] == f"Loss, nats, by epoch. {MARKUP}: last 1.5"
    assert "dashed" in root.find("polyline").attrib["class"]  # type: ignore[union-attr]
    assert "epoch" in [text.text for text in root.iter("text")]


def test_a_chart_of_nothing_is_a_sentence() -> None:
    assert "Nothing is recorded yet" in line_chart("Loss", "nats", [Series("a", [], 0)])


def test_a_long_line_is_averaged() -> None:
    points = [(float(n), float(n % 2)) for n in range(10 * MOST_POINTS)]
    found = thinned(points)
    assert len(found) == MOST_POINTS
    assert {y for _, y in found} == {0.5}
    assert found[0][0] == 4.5


def test_bars_add_up_on_one_scale() -> None:
    root = ElementTree.fromstring(
        bar_chart("t", [Bar("a", [("x", 1, 0), (MARKUP, 1, 1)], "2"), Bar("b", [("x", 4, 0)], "4")], 4.0)
    )
    widths = [float(rect.attrib["width"]) for rect in root.iter("rect")]
    assert widths[0] + widths[1] == pytest.approx(widths[2] / 2, abs=0.2)
    assert [title.text for title in root.iter("title")] == ["x", MARKUP, "x"]
    values = [text for text in root.iter("text") if text.text == "4"]
    assert float(values[0].attrib["x"]) < WIDTH - 8


@pytest.mark.parametrize("shape", ["line", "marked", "area"])
def test_a_key_escapes_its_label(shape: str) -> None:
    root = ElementTree.fromstring(key(MARKUP, "c1", shape))
    assert "".join(root.itertext()) == MARKUP
    assert re.search(r"c1", ElementTree.tostring(root, "unicode"))
