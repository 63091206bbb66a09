"""The confusion matrix: for each class, which classes the net takes its images for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alexnet_dist.figures.page import TEXT_COLOUR, clipped, new_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 40  # classes whose names fit beside the matrix
NUMBERED = 12  # classes whose shares fit into the cells
NAME_CHARACTERS = 18
SIDE = 6.4  # inches
CAPTION = (
    "What to look for: each row shows what the net answers for the images of one class, and adds up to 100%. The"
    " diagonal holds the right answers. A dark cell elsewhere is a pair of classes that the net cannot tell apart."
    " Shares below 1% are left blank."
)


def draw(confusion: npt.NDArray[np.int64], names: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix, (classes, classes) images by class and class found; classes without images are blank."""
    images = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, images, out=np.full(confusion.shape, np.nan), where=images > 0)
    figure = new_page(SIDE, title, CAPTION)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(names) <= LABELLED:
        labels = [clipped(name, NAME_CHARACTERS) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=90)
        axes.set_yticks(range(len(names)), labels)
    if len(names) <= NUMBERED:
        for row, column in np.argwhere(shares >= 0.01):
            share = shares[row, column]
            colour = "white" if share > 0.5 else TEXT_COLOUR
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", size=8, color=colour)
    return figure
