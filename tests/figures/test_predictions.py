"""Predictions and neighbours: the paper's colours with a legend, marks on what is wrong, names and percentages."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from alexnet_dist.figures.page import FRAME_COLOUR
from alexnet_dist.figures.predictions import OTHER, QUERY, RIGHT, draw_neighbours, draw_predictions

NAMES = ["cat", "dog", "great white shark, white shark, man-eater", "$1, $2"]
PICTURES = [np.full((8, 8, 3), shade, np.uint8) for shade in range(4)]


def frame(axes: Axes) -> str | None:
    """Return the colour of the frame around an image, or None."""
    spine = axes.spines["left"]
    return to_hex(spine.get_edgecolor()) if axes.axison and spine.get_visible() else None


def test_right_classes_are_red_wrong_images_are_marked_and_a_legend_says_so() -> None:
    probabilities = np.array([[0.7, 0.2, 0.0996, 0.0004], [0.3, 0.1, 0.6, 0.0]])
    figure = draw_predictions("run", PICTURES[:2], [0, 1], probabilities, NAMES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "the right class",
        "another class",
        "the most probable class is wrong",
    ]
    assert [to_hex(patch.get_facecolor()) for patch in figure.legends[0].get_patches()[:2]] == [RIGHT, OTHER]
    assert "1 of them wrong" in figure.texts[0].get_text()
    assert "What to look for" in figure.texts[1].get_text()
    right, wrong, _, _, right_bars, wrong_bars, *_ = figure.axes
    assert (right.get_title(), frame(right)) == ("cat", None)
    assert (wrong.get_title(), frame(wrong)) == ("dog (wrong)", FRAME_COLOUR)
    for axes, colours in ((right_bars, [RIGHT] + 3 * [OTHER]), (wrong_bars, [OTHER, OTHER, RIGHT, OTHER])):
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert [to_hex(bar.get_facecolor()) for bar in bars] == colours
    written = [text.get_text() for text in right_bars.texts]
    assert written == ["cat", "70%", "dog", "20%", "great white shark…", "10%", "$1, $2", "<0.1%"]
    figure.draw_without_rendering()  # dollar signs are no formula


def test_neighbours_have_names_and_those_of_another_class_are_framed() -> None:
    figure = draw_neighbours("run", [[0, 1, 2], [3, 2, 0]], PICTURES, [0, 0, 2, 3], NAMES)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "held-out image",
        "neighbour of another class",
    ]
    assert "3 of 4 of another class" in figure.texts[0].get_text()
    images = [axes for axes in figure.axes if axes.images]
    assert [axes.get_xlabel() for axes in images] == [
        *("cat", "cat", "great white shark…"),
        *("$1, $2", "great white shark…", "cat"),
    ]
    assert [frame(axes) for axes in images] == [QUERY, None, FRAME_COLOUR, QUERY, FRAME_COLOUR, FRAME_COLOUR]
