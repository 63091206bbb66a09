"""Photo-like JPEGs for a benchmark without photographs: noise with the same power in every octave.

Such noise has the spectrum of a photograph, so its JPEG has a photograph's size and decoding cost. Each image is a
window of one large canvas, with a random mean colour and contrast: hundreds a second on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

from alexnet_dist.system.rng import seed64

Floats = npt.NDArray[np.float32]

CANVAS = 1024  # pixels a side
CLASSES = 20
QUALITY = 90
# Chosen to match the mean sizes of ImageNet's files: 22 KB at 256 x 256 after packing, 110 KB at 500 x 375.
PACKED_SIDES, PACKED_CONTRAST = ((256, 256),), 17.0
FULL_SIDES, FULL_CONTRAST = ((375, 500), (500, 375), (333, 500), (400, 500)), 52.0


def canvas(seed: int) -> Floats:
    """Return noise with spectral density 1 / f², mean 0 and deviation 1 a channel: float32 (CANVAS, CANVAS, 3)."""
    random = np.random.Generator(np.random.Philox(key=seed64(seed, "benchmark canvas")))
    rows, columns = np.fft.fftfreq(CANVAS)[:, None], np.fft.rfftfreq(CANVAS)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    # The three channels are correlated, as the colours of a photograph are.
    grey, *tints = (np.fft.irfft2(np.fft.rfft2(random.standard_normal((CANVAS, CANVAS))) / frequency) for _ in range(4))
    planes = np.stack([grey + 0.35 * tint for tint in tints], axis=2)
    noise: Floats = ((planes - planes.mean((0, 1))) / planes.std((0, 1))).astype(np.float32)
    return noise


def draw(images: int, sides: tuple[tuple[int, int], ...], contrast: float, seed: int = 0) -> Iterator[bytes]:
    """Yield JPEGs of quality 90; sides: (height, width) pixels, in turn; contrast: mean deviation, of 255."""
    noise = canvas(seed)
    random = np.random.Generator(np.random.Philox(key=seed64(seed, "benchmark images")))
    for number in range(images):
        height, width = sides[number % len(sides)]
        top, left = random.integers(0, CANVAS - height), random.integers(0, CANVAS - width)
        window = noise[top : top + height, left : left + width]
        pixels = random.uniform(90, 160, 3) + window * (contrast * random.uniform(0.3, 1.7))
        yield simplejpeg.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8), quality=QUALITY, colorsubsampling="420")


def write(
    folder: Path, images: int, sides: tuple[tuple[int, int], ...], contrast: float, classes: int = CLASSES
) -> None:
    """Write the JPEGs into class folders of `folder`, one image a class in turn."""
    for number, jpeg in enumerate(draw(images, sides, contrast)):
        class_folder = folder / f"class-{number % classes:02d}"
        class_folder.mkdir(parents=True, exist_ok=True)
        (class_folder / f"{number:06d}.jpg").write_bytes(jpeg)
