"""Charts as SVG: lines over epochs, and bars; colours are classes that the page's style defines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 230
TOP, RIGHT, BOTTOM = 12, 16, 44
CHARACTER = 7.2  # width of a tick's digit in the chart's font
TICKS = 5
SMALLEST = 1e-12  # an axis of less ends at 1
MOST_POINTS = 500  # of a line; longer ones are averaged
FEW_POINTS = 30  # a line of fewer has markers
COLOURS = 7  # that the style defines
BAR, GAP = 22, 10  # height of a bar, and between two


@dataclass(frozen=True)
class Series:
    """A line of a chart. colour: from 0. faint: behind the others; dashed: a repeated colour."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int
    faint: bool = False
    marked: bool = False

    @property
    def classes(self) -> str:
        """The style classes of the line; a colour that is repeated is dashed."""
        return (
            f"c{self.colour % COLOURS}"
            + (" faint" if self.faint else "")
            + (" dashed" if self.colour // COLOURS % 2 else "")
        )


@dataclass(frozen=True)
class Bar:
    """A bar of several parts: (label, amount, colour) each. value: what stands at its right."""

    label: str
    parts: Sequence[tuple[str, float, int]]
    value: str


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most so many points: means of neighbours."""
    size = -(-len(points) // most) if points else 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def ticks(largest: float, count: int = TICKS) -> list[float]:
    """Return round numbers from 0 to the first that is at least as large, about `count` of them above 0."""
    if not SMALLEST < largest < math.inf:
        largest = 1.0
    rough = largest / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(largest / step - 1e-9) + 1)]


def tick_label(value: float, step: float, percent: bool = False) -> str:
    """Return a tick as text, with as many decimals as its step has."""
    scale = 100.0 if percent else 1.0
    decimals = next((count for count in range(12) if math.isclose(round(step * scale, count), step * scale)), 12)
    if value == 0:
        decimals = 0
    return f"{value * scale:,.{decimals}f}" + (" %" if percent else "")


def line_chart(title: str, unit: str, series: Sequence[Series], percent: bool = False) -> str:
    """Return a chart of values over epochs as an SVG, or a sentence if there is nothing to draw.

    unit: written above the vertical axis.
    """
    drawn = [(each, thinned(each.points)) for each in series if each.points]
    if not drawn:
        return '<p class="soft">Nothing is recorded yet.</p>'
    last = max(x for _, found in drawn for x, _ in found)
    last = last if last > SMALLEST else 1.0
    xs = ticks(last)
    ys = ticks(max(y for _, found in drawn for _, y in found))
    labels = [tick_label(value, ys[1], percent) for value in ys]
    left = 12 + CHARACTER * max(map(len, labels))
    across, down = (WIDTH - left - RIGHT) / last, (HEIGHT - TOP - BOTTOM) / ys[-1]
    floor = HEIGHT - BOTTOM

    def x_of(value: float) -> float:
        return left + value * across

    def y_of(value: float) -> float:
        return floor - value * down

    parts = [
        f'<line class="grid" x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}"/>'
        f'<text class="tick end" x="{left - 6:.1f}" y="{y_of(value) + 4:.1f}">{label}</text>'
        for value, label in zip(ys, labels, strict=True)
    ]
    parts += [
        f'<line class="axis" x1="{x_of(value):.1f}" x2="{x_of(value):.1f}" y1="{floor}" y2="{floor + 4}"/>'
        f'<text class="tick middle" x="{x_of(value):.1f}" y="{floor + 17}">{tick_label(value, xs[1])}</text>'
        for value in xs
        if value <= last * (1 + 1e-9)
    ]
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text class="tick middle" x="{(left + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 8}">epoch</text>')
    for each, found in drawn:
        places = [(x_of(x), y_of(max(0.0, y))) for x, y in found]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{each.classes}" points="{path}"/>')
        if each.marked or len(places) < 2:
            radius = 3 if len(places) < FEW_POINTS else 1.6
            parts += [f'<circle class="{each.classes}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in places]
    said = "; ".join(f"{each.label}: last {_value(found[-1][1], percent)}" for each, found in drawn if not each.faint)
    return _svg(WIDTH, HEIGHT, f"{title}, {unit}, by epoch. {said}", "".join(parts))


def bar_chart(title: str, bars: Sequence[Bar], largest: float) -> str:
    """Return horizontal bars as an SVG, on one scale of which `largest` is the width."""
    label = 14 + CHARACTER * max(len(bar.label) for bar in bars)
    value = 8 + CHARACTER * max(len(bar.value) for bar in bars)
    across = (WIDTH - label - value) / largest if largest > 0 else 0.0
    parts = []
    for row, bar in enumerate(bars):
        top, x = row * (BAR + GAP) + GAP / 2, label
        parts.append(f'<text class="tick" x="0" y="{top + BAR / 2 + 4:.1f}">{escape(bar.label)}</text>')
        for name, amount, colour in bar.parts:
            width = max(0.0, amount) * across
            place = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}"'
            parts.append(f'<rect class="c{colour % COLOURS}" {place}><title>{escape(name)}</title></rect>')
            x += width
        parts.append(f'<text class="tick" x="{x + 6:.1f}" y="{top + BAR / 2 + 4:.1f}">{escape(bar.value)}</text>')
    said = "; ".join(f"{bar.label}: {bar.value}" for bar in bars)
    return _svg(WIDTH, len(bars) * (BAR + GAP), f"{title}. {said}", "".join(parts), "chart bars")


def key(label: str, classes: str, shape: str = "line") -> str:
    """Return an entry of a legend. shape: line, marked (with a marker) or area."""
    if shape == "area":
        sign = f'<rect class="{classes}" x="6" y="1" width="12" height="12"/>'
    else:
        mark = f'<circle class="{classes}" cx="12" cy="7" r="3"/>' if shape == "marked" else ""
        sign = f'<polyline class="{classes}" points="0,7 24,7"/>{mark}'
    return f'<span class="key"><svg viewBox="0 0 24 14" aria-hidden="true">{sign}</svg>{escape(label)}</span>'


def _value(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:,.4g}"


def _svg(width: float, height: float, said: str, content: str, kind: str = "chart") -> str:
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">{content}</svg>'
