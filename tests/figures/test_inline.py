"""Pictures as data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.figures.inline import bytes_of, data_url


def test_values_become_pixels() -> None:
    assert bytes_of(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_a_data_url_is_the_picture(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    kind, _, content = data_url(pixels).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (np.asarray(image) == pixels).all()
