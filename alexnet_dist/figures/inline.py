"""Pictures that stand in a page itself, as data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def bytes_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return values of 0 to 1 as pixels."""
    return np.round(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8)


def data_url(pixels: npt.NDArray[np.uint8]) -> str:
    """Return pixels, (H, W, 3) or grey (H, W), as the data URL of a PNG."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def jpeg_url(content: bytes | memoryview) -> str:
    """Return a JPEG as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
