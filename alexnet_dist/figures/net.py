"""The net drawn from its geometry: towers as rows, layers as boxes, and what crosses at the joins (figure 2)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alexnet_dist.figures.crossings import LOGITS, Crossing, crossings, tower_channels
from alexnet_dist.figures.page import MARGIN, TEXT_COLOUR, TOWERS, clipped, new_page, text_width
from alexnet_dist.nn.geometry import COLOURS, Geometry, Layer, Shape, parameter_count, shapes
from alexnet_dist.system.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
GAP, JOIN_GAP = 0.5, 0.92  # between two columns, without and with a join
TALLEST, LOWEST = 1.15, 0.3  # boxes
THICKEST, THINNEST, UNITS_WIDTH = 0.34, 0.09, 0.14
DEPTH = 0.22  # of a box's height
ROW_DISTANCE = 2.2
TEXT_GAP, LINE, NAME_LINE = 0.07, 0.15, 0.19  # beside a box: space before the text, its lines, the name
WORD_GAP = 0.12  # between the texts of two columns
NAME_POINTS, SMALL_POINTS = 10, 8.5
LINE_SPACING = 1.09  # gives LINE with the small font
FRONT, SIDE, TOP, UNITS = "#dfe6ee", "#b9c6d4", "#f0f3f7", "#ead9b5"


@dataclass(frozen=True)
class Column:
    """One column of the picture: the image, a layer, or the gathered logits; lengths are inches.

    lines: what is written beside the box of each tower. left: of the box's front face.
    """

    name: str
    lines: tuple[tuple[str, ...], ...]
    left: float
    width: float
    height: float
    depth: float

    @property
    def right(self) -> float:
        """The right end of the box."""
        return self.left + self.width + self.depth

    @property
    def centre(self) -> float:
        """The middle of the box, and of the text beside it."""
        return (self.left + self.right) / 2

    @property
    def text_width(self) -> float:
        """The width of the text beside a box."""
        return max(text_width(line, SMALL_POINTS) for lines in self.lines for line in lines)

    @property
    def text_height(self) -> float:
        """The height of the text beside a box, with the space around it."""
        return TEXT_GAP + NAME_LINE + LINE * max(len(lines) for lines in self.lines)


def draw_net(name: str, net: Geometry) -> Figure:
    """Draw the net with the shape of each layer and, at each join, what each tower sends for one image."""
    towers, joins = net.towers, {crossing.into: crossing for crossing in crossings(net)}
    columns = _columns(net)
    rows = [ROW_DISTANCE * ((towers - 1) / 2 - tower) for tower in range(towers)]  # height of each tower's centre
    top = rows[0] + max(column.height / 2 + column.depth + column.text_height for column in columns)
    bottom = rows[-1] - max(
        column.height / 2 + column.text_height for column in (columns if towers > 1 else columns[:1])
    )
    right = columns[-1].centre + columns[-1].text_width / 2 + MARGIN
    title = f"{clipped(name, 30)}: {parameter_count(net):,} parameters in {counted(towers, 'tower')}"
    figure = new_page(top - bottom, title, _caption(joins), width=right)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, right), ylim=(bottom, top), aspect="equal")
    _draw_image(axes, columns[0], columns[1], rows, 0.0 if towers > 1 else rows[0])
    for before, column in itertools.pairwise(columns[1:]):
        if column.name in joins:
            _draw_crossing(axes, before, column, rows, joins[column.name])
        for row in rows:
            _draw_arrow(axes, (before.right, row), (column.left, row), TEXT_COLOUR)
    for column in columns[1:]:
        for tower, row in enumerate(rows):
            _draw_box(axes, column, row)
            _write(axes, column, row, tower, below=tower > 0)
    return figure


def _caption(joins: dict[str, Crossing]) -> str:
    if not joins:
        return "What to look for: how the sides of the maps shrink from layer to layer. Boxes are not to scale."
    total = sum(sum(crossing.sizes_bytes) for crossing in joins.values())
    return (
        "What to look for: the crossing arrows, the only points at which a tower reads what the other one computed. On"
        " each is what a tower sends in a forward pass for one image in float32;"
        f" all of them add up to {total:,} bytes. Boxes are not to scale."
    )


def _columns(net: Geometry) -> list[Column]:
    """Return the columns from left to right."""
    found = shapes(net)
    joins = {crossing.into for crossing in crossings(net)}
    most = max(shape.channels for shape in found if net.layers[shape.name].kernel)
    units = max(shape.channels for shape in found if not net.layers[shape.name].kernel)
    columns = [_maps_column("image", ((f"{net.side} × {net.side}", f"{COLOURS} colours"),), MARGIN, 1.0, 0.0)]
    for shape in found:
        layer = net.layers[shape.name]
        lines = tuple(_lines(layer, shape, count) for count in tower_channels(net, shape.channels))
        left = columns[-1].right + (JOIN_GAP if shape.name in joins else GAP)
        if layer.kernel:
            column = _maps_column(shape.name, lines, left, shape.convolved_side / net.side, shape.channels / most)
        else:
            column = _units_column(shape.name, lines, left, shape.channels / units)
        columns.append(_beside(columns[-1], column))
    if LOGITS in joins:
        lines = ((f"{net.classes:,} classes",),) * net.towers
        share = net.classes * net.towers / units  # all classes in each tower
        columns.append(_units_column(LOGITS, lines, columns[-1].right + JOIN_GAP, share))
    return columns


def _maps_column(name: str, lines: tuple[tuple[str, ...], ...], left: float, side: float, maps: float) -> Column:
    """Return a column of boxes for maps; side, maps: as a share of the largest. Small ones are drawn larger."""
    height = max(LOWEST, TALLEST * min(1.0, side) ** 0.4)
    return Column(name, lines, left, max(THINNEST, THICKEST * maps**0.5), height, DEPTH * height)


def _units_column(name: str, lines: tuple[tuple[str, ...], ...], left: float, units: float) -> Column:
    return Column(name, lines, left, UNITS_WIDTH, max(LOWEST, TALLEST * min(1.0, units) ** 0.4), 0.0)


def _beside(before: Column, column: Column) -> Column:
    """Return a column moved to the right until its text does not overlap that of the column before."""
    missing = before.centre + (before.text_width + column.text_width) / 2 + WORD_GAP - column.centre
    return replace(column, left=column.left + max(0.0, missing))


def _lines(layer: Layer, shape: Shape, channels: int) -> tuple[str, ...]:
    """Return what is written beside a tower's box."""
    if not layer.kernel:
        notes = [f"dropout {layer.dropout:g}"] if layer.dropout else []
        return (f"{channels:,} units", *(["linear"] if layer.activate == "never" else []), *notes)
    lines = [f"{channels} maps", f"{shape.convolved_side} × {shape.convolved_side}", f"kernel {layer.kernel}"]
    if layer.stride > 1:
        lines.append(f"stride {layer.stride}")
    norms = layer.norm + layer.spatial_norm
    after = ["norm"] if norms == 1 else ["2 norms"] if norms else []
    if layer.pool:
        after.append(f"{'mean ' if layer.pooling == 'average' else ''}pool →")
    if after:
        lines.append(", ".join(after))
    if layer.pool:
        lines.append(f"{shape.side} × {shape.side}")
    return tuple(lines)


def _draw_image(axes: Axes, image: Column, first: Column, rows: list[float], height: float) -> None:
    """Draw the image, which every tower reads, and the towers' names."""
    for tower, row in enumerate(rows):
        _draw_arrow(axes, (image.right, height), (first.left, row), TEXT_COLOUR)
        if len(rows) > 1:
            style: dict[str, Any] = {"weight": "bold", "size": NAME_POINTS, "color": TOWERS[tower % 2]}
            axes.text(MARGIN, row + (0.2 if row > 0 else -0.2), f"tower {tower}", va="center", **style)
    _draw_box(axes, image, height)
    below = height - image.height / 2 - TEXT_GAP
    text = "\n".join(["image", *image.lines[0]])
    axes.text(MARGIN, below, text, va="top", size=SMALL_POINTS, color=TEXT_COLOUR, linespacing=LINE_SPACING)


def _draw_box(axes: Axes, column: Column, row: float) -> None:
    """Draw a box whose front face is centred at height `row`; units are a flat bar."""
    from matplotlib.patches import Polygon

    left, right, depth = column.left, column.left + column.width, column.depth
    low, high = row - column.height / 2, row + column.height / 2
    front = [(left, low), (right, low), (right, high), (left, high)]
    faces = [(front, FRONT if depth else UNITS)]
    if depth:
        faces.append(([(right, low), (right + depth, low + depth), (right + depth, high + depth), (right, high)], SIDE))
        faces.append(([(left, high), (left + depth, high + depth), (right + depth, high + depth), (right, high)], TOP))
    for corners, colour in faces:
        axes.add_patch(Polygon(corners, facecolor=colour, edgecolor=TEXT_COLOUR, linewidth=0.7))


def _write(axes: Axes, column: Column, row: float, tower: int, below: bool) -> None:
    """Write a layer's name and shape above its box, or below."""
    lines = column.lines[tower]
    style: dict[str, Any] = {"ha": "center", "va": "top", "color": TEXT_COLOUR}
    if below:
        edge = row - column.height / 2 - TEXT_GAP
    else:
        edge = row + column.height / 2 + column.depth + TEXT_GAP + LINE * len(lines) + NAME_LINE
    axes.text(column.centre, edge, column.name, size=NAME_POINTS, weight="bold", **style)
    for number, line in enumerate(lines):
        axes.text(column.centre, edge - NAME_LINE - number * LINE, line, size=SMALL_POINTS, **style)


def _draw_crossing(axes: Axes, before: Column, column: Column, rows: list[float], crossing: Crossing) -> None:
    """Draw each tower's arrow to the other tower, and what crosses, at their crossing."""
    for start, end, colour in zip(rows, reversed(rows), TOWERS, strict=True):
        _draw_arrow(axes, (before.right, start), (column.left, end), colour, 1.4)
    lines = [f"{crossing.side} × {crossing.side} × {crossing.maps}"] if crossing.side > 1 else []
    for sizes, unit in ((crossing.floats, "floats"), (crossing.sizes_bytes, "bytes")):
        lines.append(f"{' | '.join(f'{size:,}' for size in dict.fromkeys(sizes))} {unit}")
    middle = ((before.right + column.left) / 2, sum(rows) / 2)
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#999999", "linewidth": 0.7}
    style: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "size": SMALL_POINTS,
        "color": TEXT_COLOUR,
        "linespacing": 1.3,
    }
    axes.text(*middle, "\n".join(lines), bbox=box, **style)


def _draw_arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 1.0
) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 2, "shrinkB": 2, "mutation_scale": 9}
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
