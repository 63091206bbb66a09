"""The demo's images: one object of ten classes on a cluttered background, generated from a seed.

Position, size, rotation, colour, texture, shadow and light are random and independent of the class, so that only the
object's shape identifies it. The files vary as in real collections: many sizes, JPEG and PNG, RGB, grey and CMYK.
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
from alexnet_dist.system.resources import check_room_for_locks
from alexnet_dist.system.rng import seed64

Pixels = npt.NDArray[np.float32]

CLASSES = tuple(sorted(OUTLINES))
SHORT_SIDE = (60, 120)
MASK_SCALE = 3  # masks are drawn this many times larger and then reduced, for smooth edges
MAX_ROTATION = 0.8  # radians, in either direction
MIN_CONTRAST = 60.0  # between the mean brightness of object and background, on the 0-255 scale


@dataclass(frozen=True)
class DrawnImage:
    """A drawn image, the class name of its object, and its file suffix, "jpg" or "png"."""

    name: str
    image: Image.Image
    suffix: str


def draw(seed: int, split: str, number: int) -> DrawnImage:
    """Return image `number` of a split: mode RGB, L or CMYK, the shorter side 60 to 120 pixels.

    A pure function of its arguments; image n is of class n modulo 10, so that the first N images are balanced.
    """
    random = np.random.Generator(np.random.Philox(key=seed64(seed, "demo image", split, number)))
    name = CLASSES[number % len(CLASSES)]
    width, height = _size(random)
    background = _cluttered_background(random, width, height)
    mask = _object_mask(random, name, width, height)
    pixels = _composite(random, background, mask)
    pixels = _illuminate(random, pixels)
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return DrawnImage(name, *_file_format(random, image))


def _size(random: np.random.Generator) -> tuple[int, int]:
    short = int(random.integers(*SHORT_SIDE, endpoint=True))
    long = int(short * random.uniform(1.0, 1.6))
    return (long, short) if random.random() < 0.6 else (short, long)


def _colour_field(random: np.random.Generator, width: int, height: int, cells: int, low: float, high: float) -> Pixels:
    """Return a smooth random colour field: float32 (height, width, 3)."""
    grid = random.uniform(low, high, (cells, cells, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _cluttered_background(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Return a smooth colour field covered with lines, boxes and blobs: float32 (height, width, 3)."""
    middle = random.uniform(50, 205)
    field = _colour_field(random, width, height, int(random.integers(2, 6)), middle - 50, middle + 50)
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
    """Return the object's mask, mode L, 0 to 255: rotated, sheared and shifted within the central square."""
    outline = OUTLINES[name](random)
    side = min(width, height)
    angle, shear = random.uniform(-MAX_ROTATION, MAX_ROTATION), random.uniform(-0.15, 0.15)
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[random.uniform(0.85, 1.15), shear], [0.0, random.uniform(0.85, 1.15)]])
    radius = side * random.uniform(0.32, 0.44)
    room = max(0.0, side * 0.48 - radius)
    centre = np.array([width, height]) / 2 + random.uniform(-room, room, 2)

    def to_pixels(points: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in np.rint(((points @ rotate @ stretch) * radius + centre) * MASK_SCALE)]

    mask = Image.new("L", (width * MASK_SCALE, height * MASK_SCALE))
    pen = ImageDraw.Draw(mask)
    pen.polygon(to_pixels(outline.body), fill=255)
    if outline.hole is not None:
        pen.polygon(to_pixels(outline.hole), fill=0)
    return mask.reduce(MASK_SCALE)


def _composite(random: np.random.Generator, background: Pixels, mask: Image.Image) -> Pixels:
    """Return the textured object and its soft shadow drawn over the background: float32 (H, W, 3)."""
    height, width, _ = background.shape
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255
    brightness = float((background * alpha).sum() / (3 * alpha.sum()))
    sides = [sign for sign in (-1, 1) if 15 <= brightness + sign * (MIN_CONTRAST + 10) <= 240]
    sign = sides[int(random.integers(len(sides)))]
    room = (240 - brightness if sign > 0 else brightness - 15) - MIN_CONTRAST
    colour = brightness + sign * (MIN_CONTRAST + random.uniform(0, 1) * room) + _tint(random)
    texture = _colour_field(random, width, height, int(random.integers(2, 9)), 0, 50) - 25
    if random.random() < 0.4:
        texture += _stripes(random, width, height)
    shadow = mask.filter(ImageFilter.GaussianBlur(random.uniform(1.0, 3.0)))
    shift = tuple(int(step) for step in random.integers(-4, 5, 2))
    shadow_alpha = np.roll(np.asarray(shadow, dtype=np.float32), shift, (0, 1))[..., None] / 255
    shaded = background * (1 - random.uniform(0, 0.45) * shadow_alpha)
    scene: Pixels = (shaded * (1 - alpha) + (colour + texture) * alpha).astype(np.float32)
    return scene


def _tint(random: np.random.Generator) -> Pixels:
    """Return a colour shift with zero mean, which keeps the brightness: float32 (3,)."""
    tint: Pixels = random.uniform(-60, 60, 3).astype(np.float32)
    tint -= tint.mean()
    return tint


def _stripes(random: np.random.Generator, width: int, height: int) -> Pixels:
    angle, period = random.uniform(0, np.pi), random.uniform(4, 12)
    y, x = np.mgrid[:height, :width]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
    stripes: Pixels = (random.uniform(8, 22) * wave).astype(np.float32)[..., None]
    return stripes


def _illuminate(random: np.random.Generator, pixels: Pixels) -> Pixels:
    """Return the scene with a linear brightness gradient and Gaussian noise: float32 (H, W, 3)."""
    height, width, _ = pixels.shape
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 + random.uniform(0, 0.3) * (x * np.cos(angle) + y * np.sin(angle))
    grain = random.standard_normal((height, width, 3)) * random.uniform(1, 9)
    lit: Pixels = (pixels * light[..., None] + grain).astype(np.float32)
    return lit


def _file_format(random: np.random.Generator, image: Image.Image) -> tuple[Image.Image, str]:
    """Return the image in a random mode, and a file suffix: 10% grey, 5% CMYK, 10% PNG, the rest RGB JPEG."""
    chance = random.random()
    if chance < 0.10:
        return image.convert("L"), "jpg"
    if chance < 0.15:
        return image.convert("CMYK"), "jpg"
    return image, "png" if chance < 0.25 else "jpg"


def write(folder: Path, seed: int, split: str, images: int, processes: int) -> None:
    """Draw the first `images` images of a split into folder/split/class/; the files do not depend on `processes`."""
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    write_part = functools.partial(_write_part, folder, seed, split)
    parts = [range(first, images, 8 * processes) for first in range(8 * processes)]
    check_room_for_locks(8)
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(write_part, parts):
            pass


def _write_part(folder: Path, seed: int, split: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        drawing = draw(seed, split, number)
        path = folder / split / drawing.name / f"{drawing.name}-{number:05d}.{drawing.suffix}"
        drawing.image.save(path, quality=90)
