"""The picture of the confusion matrix: shares by row, names where they fit."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_dist.figures.confusion import LABELLED, draw


def test_rows_are_shares_and_classes_without_images_are_blank() -> None:
    figure = draw(np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]]), ["cat", "dog", "a bird with a very long name"], "title")
    (axes,) = figure.axes
    shares = np.asarray(axes.images[0].get_array().filled(np.nan))  # type: ignore[union-attr]
    assert shares == pytest.approx(np.array([[0.75, 0.25, 0], [np.nan] * 3, [0, 0.5, 0.5]]), nan_ok=True)
    assert [text.get_text() for text in axes.texts] == ["75%", "25%", "50%", "50%"]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:2] == ["cat", "dog"]
    assert names[2].startswith("a bird")
    assert len(names[2]) < len("a bird with a very long name")


def test_many_classes_have_no_names() -> None:
    classes = LABELLED + 1
    figure = draw(np.eye(classes, dtype=np.int64), [f"class-{label}" for label in range(classes)], "title")
    (axes,) = figure.axes
    assert not any(label.get_text().startswith("class") for label in axes.get_yticklabels())
    assert list(axes.texts) == []
