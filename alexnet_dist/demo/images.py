"""The demo's images: one object of ten classes on a cluttered background, drawn from a seed.

Place, size, turn, colour, texture, shade and light are drawn at random and apart from the class, so that only the
shape of the object tells it. The files are as mixed as found ones: many sizes, JPEG and PNG, colour, grey and CMYK.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from alexnet_dist.demo.outlines import OUTLINES, Points
from alexnet_dist.rng import seed64

Pixels = npt.NDArray[np.float32]

CLASSES = tuple(sorted(OUTLINES))
SHORT_SIDE = (60, 120)
FINE = 3  # masks are drawn this many times larger and then reduced, for smooth edges
LARGEST_TURN = 0.8  # radians, to either side
LEAST_CONTRAST = 60.0  # of the object's mean brightness to the background's, on the 0-255 scale


@dataclass(frozen=True)
class Drawing:
    """One drawn image, the class of its object, and how it is stored: "jpg" or "png"."""

    name: str
    image: Image.Image
    suffix: str


def draw(seed: int, split: str, number: int) -> Drawing:
    """Return image `number` of a split: mode RGB, L or CMYK, the shorter side 60 to 120 pixels.

    A pure function of its arguments; the classes take turns, so that any first N images are balanced.
    """
    random = np.random.Generator(np.random.Philox(key=seed64(seed, "demo image", split, number)))
    name = CLASSES[number % len(CLASSES)]
    width, height = _sides(random)
    background = _clutter(random, width, height)
    mask = _object_mask(random, name, width, height)
    pixels = _paint(random, background, mask)
    pixels = _light(random, pixels)
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return Drawing(name, *_stored(random, image))


def _sides(random: np.random.Generator) -> tuple[int, int]:
    short = int(random.integers(*SHORT_SIDE, endpoint=True))
    long = int(short * random.uniform(1.0, 1.6))
    return (long, short) if random.random() < 0.6 else (short, long)


def _field(random: np.random.Generator, width: int, height: int, cells: int, low: float, high: float) -> Pixels:
    """Return a smooth random colour field: float32 (height, width, 3)."""
    grid = random.uniform(low, high, (cells, cells, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _clutter(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Return a background of smooth colour under lines, boxes and blobs: float32 (height, width, 3)."""
    middle = random.uniform(50, 205)
    field = _field(random, width, height, int(random.integers(2, 6)), middle - 50, middle + 50)
    image = Image.fromarray(field.astype(np.uint8))
    pen, side = ImageDraw.Draw(image), min(width, height)
    for _ in range(int(random.integers(4, 12))):
        x, y = random.uniform(0, width), random.uniform(0, height)
        dx, dy = random.uniform(-0.5, 0.5, 2) * side
        colour = tuple(int(value) for value in np.clip(middle + random.uniform(-60, 60, 3), 0, 255))
        box = (min(x, x + dx), min(y, y + dy), max(x, x + dx), max(y, y + dy))
        match int(random.integers(4)):
            case 0:
                pen.line((x, y, x + 2 * dx, y + 2 * dy), fill=colour, width=int(random.integers(1, 5)))
            case 1:
                pen.rectangle(box, fill=colour)
            case 2:
                pen.ellipse(box, fill=colour)
            case _:
                pen.polygon([(x, y), (x + dx, y), (x + dx / 2, y + dy), (x - dy, y + dx)], fill=colour)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.6))), dtype=np.float32)


def _object_mask(random: np.random.Generator, name: str, width: int, height: int) -> Image.Image:
    """Return where the object is: mode L, 0 to 255, turned, sheared and placed within the middle square."""
    outline = OUTLINES[name](random)
    side = min(width, height)
    turn, shear = random.uniform(-LARGEST_TURN, LARGEST_TURN), random.uniform(-0.15, 0.15)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    stretch = np.array([[random.uniform(0.85, 1.15), shear], [0.0, random.uniform(0.85, 1.15)]])
    radius = side * random.uniform(0.32, 0.44)
    room = max(0.0, side * 0.48 - radius)
    centre = np.array([width, height]) / 2 + random.uniform(-room, room, 2)

    def placed(points: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in np.rint(((points @ rotate @ stretch) * radius + centre) * FINE)]

    mask = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(mask)
    pen.polygon(placed(outline.body), fill=255)
    if outline.hole is not None:
        pen.polygon(placed(outline.hole), fill=0)
    return mask.reduce(FINE)


def _paint(random: np.random.Generator, background: Pixels, mask: Image.Image) -> Pixels:
    """Return the object over the background, with a texture of its own and a soft shadow: float32 (H, W, 3)."""
    height, width, _ = background.shape
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255
    under = float((background * alpha).sum() / (3 * alpha.sum()))
    sides = [sign for sign in (-1, 1) if 15 <= under + sign * (LEAST_CONTRAST + 10) <= 240]
    sign = sides[int(random.integers(len(sides)))]
    room = (240 - under if sign > 0 else under - 15) - LEAST_CONTRAST
    colour = under + sign * (LEAST_CONTRAST + random.uniform(0, 1) * room) + _tint(random)
    texture = _field(random, width, height, int(random.integers(2, 9)), 0, 50) - 25
    if random.random() < 0.4:
        texture += _stripes(random, width, height)
    shadow = mask.filter(ImageFilter.GaussianBlur(random.uniform(1.0, 3.0)))
    shift = tuple(int(step) for step in random.integers(-4, 5, 2))
    dark = np.roll(np.asarray(shadow, dtype=np.float32), shift, (0, 1))[..., None] / 255
    below = background * (1 - random.uniform(0, 0.45) * dark)
    scene: Pixels = (below * (1 - alpha) + (colour + texture) * alpha).astype(np.float32)
    return scene


def _tint(random: np.random.Generator) -> Pixels:
    """Return a colour shift that leaves the brightness as it is: float32 (3,)."""
    tint: Pixels = random.uniform(-60, 60, 3).astype(np.float32)
    tint -= tint.mean()
    return tint


def _stripes(random: np.random.Generator, width: int, height: int) -> Pixels:
    angle, period = random.uniform(0, np.pi), random.uniform(4, 12)
    y, x = np.mgrid[:height, :width]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
    stripes: Pixels = (random.uniform(8, 22) * wave).astype(np.float32)[..., None]
    return stripes


def _light(random: np.random.Generator, pixels: Pixels) -> Pixels:
    """Return the scene under a light that falls off across it, with grain: float32 (H, W, 3)."""
    height, width, _ = pixels.shape
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 + random.uniform(0, 0.3) * (x * np.cos(angle) + y * np.sin(angle))
    grain = random.standard_normal((height, width, 3)) * random.uniform(1, 9)
    lit: Pixels = (pixels * light[..., None] + grain).astype(np.float32)
    return lit


def _stored(random: np.random.Generator, image: Image.Image) -> tuple[Image.Image, str]:
    """Return the image in the mode, and the suffix, that a mixed collection might hold it in."""
    chance = random.random()
    if chance < 0.10:
        return image.convert("L"), "jpg"
    if chance < 0.15:
        return image.convert("CMYK"), "jpg"
    return image, "png" if chance < 0.25 else "jpg"


def write(folder: Path, seed: int, split: str, images: int, processes: int) -> None:
    """Draw the first `images` images of a split into folder/split/class/; any number of processes, the same files."""
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    write_part = functools.partial(_write_part, folder, seed, split)
    parts = [range(first, images, 8 * processes) for first in range(8 * processes)]
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(write_part, parts):
            pass


def _write_part(folder: Path, seed: int, split: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        drawing = draw(seed, split, number)
        path = folder / split / drawing.name / f"{drawing.name}-{number:05d}.{drawing.suffix}"
        drawing.image.save(path, quality=90)
