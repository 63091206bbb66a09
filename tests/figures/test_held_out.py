"""The choice of images: nearest neighbours by features, and images of varied classes."""

from __future__ import annotations

import numpy as np

from alexnet_dist.figures.held_out import nearest, varied


def test_neighbours_are_the_nearest_by_euclidean_distance() -> None:
    features = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-2.0, 0.0]])
    assert nearest(features, 0, 6) == [2, 3, 1]
    assert nearest(features, 1, 1) == [2]


def test_shown_images_are_of_different_classes_where_there_are_enough() -> None:
    truth = [2, 2, 2, 0, 1, 0]
    assert varied(truth, 3) == [0, 3, 4]
    assert varied(truth, 5) == [0, 3, 4, 1, 5]
    assert varied(truth, 9) == [0, 3, 4, 1, 5, 2]
