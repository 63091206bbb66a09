"""The page of a picture: its size, title, legend, caption and colours, and names and numbers short enough for it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alexnet_dist.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH, POINTS_PER_INCH = 200, 72
WIDTH = 8.0  # inches
MARGIN = 0.12  # inches, around the page
CAPTION_CHARACTERS_PER_INCH = 15  # of the caption's font
LEGEND_CHARACTERS_PER_INCH = 14.0
TITLE_CHARACTERS = 70
TITLE_BAND, LEGEND_LINE, CAPTION_LINE = 0.34, 0.2, 0.17  # inches
TITLE_POINTS, SUBTITLE_POINTS, CAPTION_POINTS, LABEL_POINTS = 12, 10, 9, 8.5

TEXT_COLOUR, FRAME_COLOUR = "#333333", "#e69f00"
TRAINING, VALIDATION = "#3b6ea8", "#d1622b"
TOWERS = ("#3b6ea8", "#d1622b")  # tower 0, tower 1
FEW_POINTS = 30  # lines of fewer points have markers

Line = Literal["-", "--", ":"]


@dataclass(frozen=True)
class Key:
    """One entry of a legend: what it says, and how the thing it explains is drawn."""

    label: str
    colour: str
    style: Literal["area", "frame", "line", "marked line"]
    line: Line = "-"


def blank_figure(width: float, height: float) -> Figure:
    """Return an empty figure, width x height inches, without pyplot: no window and no global state.

    Raises UserError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed; pip install 'alexnet_dist[figures]'") from None
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def new_page(height: float, title: str, caption: str, keys: Sequence[Key] = (), width: float = WIDTH) -> Figure:
    """Return a figure with a title and a legend above, and a caption below, an empty area for axes.

    height, width: of that area, in inches; the figure is as wide and higher. caption: says what to look for.
    """
    lines = textwrap.wrap(caption, int((width - 2 * MARGIN) * CAPTION_CHARACTERS_PER_INCH))
    columns = _legend_columns([key.label for key in keys], width)
    above = TITLE_BAND + (math.ceil(len(keys) / columns) * LEGEND_LINE + 0.08 if keys else 0.0)
    below = len(lines) * CAPTION_LINE + 2 * MARGIN
    total = above + height + below
    figure = blank_figure(width, total)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(MARGIN / width, below / total, 1 - 2 * MARGIN / width, height / total))  # type: ignore[call-arg]  # of the constrained layout
    left, top = MARGIN / width, 1 - MARGIN / total
    style: dict[str, Any] = {"color": TEXT_COLOUR, "parse_math": False}
    figure.text(left, top, clipped(title, TITLE_CHARACTERS), va="top", size=TITLE_POINTS, weight="bold", **style)
    figure.text(left, MARGIN / total, "\n".join(lines), va="bottom", size=CAPTION_POINTS, linespacing=1.3, **style)
    if keys:
        corner = (left, 1 - TITLE_BAND / total)
        legend = figure.legend(
            handles=[_handle(key) for key in keys],
            loc="upper left",
            bbox_to_anchor=corner,
            ncols=columns,
            borderaxespad=0.0,
            borderpad=0.25,
            frameon=False,
            fontsize=CAPTION_POINTS,
        )
        for text in legend.get_texts():
            text.set(color=TEXT_COLOUR, parse_math=False)
    return figure


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many entries of a legend fit beside each other: all, or as many as there is room for the longest."""
    characters = int((width - 2 * MARGIN) * LEGEND_CHARACTERS_PER_INCH)
    lengths = [len(label) + 7 for label in labels]  # with its sign
    if sum(lengths) <= characters:
        return max(1, len(labels))
    return max(1, characters // max(lengths))


def _handle(key: Key) -> Any:
    """Return the sign that stands before a legend's entry."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if key.style == "area":
        return Patch(color=key.colour, label=key.label)
    if key.style == "frame":
        return Patch(facecolor="white", edgecolor=key.colour, linewidth=2.5, label=key.label)
    mark = "o" if key.style == "marked line" else ""
    return Line2D(
        [], [], color=key.colour, linestyle=key.line, marker=mark, markersize=4, linewidth=1.8, label=key.label
    )


def marker(points: int) -> str:
    """Return the marker of a line of so many points: a line of few points shows where they are."""
    return "o" if points < FEW_POINTS else ""


def clipped(text: str, limit: int) -> str:
    """Return the text in at most `limit` characters; a longer one ends in an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,") + "…"


def text_width(text: str, points: float) -> float:
    """Return the width in inches of one line of text in the font of the pictures."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points), ismath=False)
    return float(width) / POINTS_PER_INCH


def short_name(words: str, width: float, points: float) -> str:
    """Return a class's words in at most `width` inches in a font of `points`.

    Of words that are wider only the first group is kept, with an ellipsis: "tench, Tinca tinca" becomes "tench…". Of a
    group that is wider the end is left out.
    """
    if text_width(words, points) <= width:
        return words
    group = words.split(",")[0].strip()
    while group and text_width(group + "…", points) > width:
        group = group[:-1].rstrip()
    return group + "…"


def percentage(probability: float) -> str:
    """Return a probability in percent: 42%, with a decimal at both ends, such as 0.7%; never 0% for what is not 0."""
    if 0 < probability < 0.0005:
        return "<0.1%"
    if 0.9995 <= probability < 1:
        return ">99.9%"
    return f"{probability:.0%}" if 0.0095 <= probability < 0.9905 or probability in (0, 1) else f"{probability:.1%}"
