"""Outlines of the demo's ten classes.

An outline varies from image to image (points, widths, angles) but remains recognisable, also after a small rotation,
shear or stretch, or a reflection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Outline:
    """A filled polygon and an optional hole in it; points are (n, 2), approximately within the unit circle."""

    body: Points
    hole: Points | None = None


def _polar(angles: Points, radii: Points) -> Points:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _equal_angles(count: int) -> Points:
    angles: Points = np.arange(count) * (2 * np.pi / count)
    return angles


def _circle(radius: float = 1.0, x: float = 0.0) -> Points:
    points: Points = _polar(_equal_angles(48), np.full(48, radius)) + np.array([x, 0.0])
    return points


def _arrow(random: np.random.Generator) -> Outline:
    shaft, neck = random.uniform(0.16, 0.28), random.uniform(-0.05, 0.2)
    upper = [(1.0, 0.0), (neck, 0.75), (neck, shaft), (-0.95, shaft)]
    return Outline(np.array(upper + [(x, -y) for x, y in reversed(upper[1:])]))


def _bolt(random: np.random.Generator) -> Outline:
    width = random.uniform(0.4, 0.55)
    left = np.array([(0.1 - width, -1.0), (-0.15 - width, 0.15), (-0.15, 0.15)])
    return Outline(np.concatenate([left, [(-0.2, 1.0)], [(0.3 + width, -0.25), (0.1, -0.25), (0.35, -1.0)]]))


def _crescent(random: np.random.Generator) -> Outline:
    return Outline(_circle(), _circle(random.uniform(0.75, 0.85), x=random.uniform(0.42, 0.52)))


def _cross(random: np.random.Generator) -> Outline:
    arm = random.uniform(0.22, 0.34)
    quarter = np.array([(1.0, -arm), (1.0, arm), (arm, arm)])
    next_quarter = quarter[:, ::-1] * np.array([-1.0, 1.0])
    return Outline(np.concatenate([quarter, next_quarter, -quarter, -next_quarter]))


def _drop(random: np.random.Generator) -> Outline:
    angles, width = _equal_angles(64), random.uniform(0.75, 0.95)
    return Outline(np.stack([np.cos(angles), width * np.sin(angles) * np.sin(angles / 2) ** 1.6], axis=1))


def _flower(random: np.random.Generator) -> Outline:
    petals, angles = int(random.integers(5, 8)), _equal_angles(120)
    radii = random.uniform(0.42, 0.5) + 0.5 * np.abs(np.cos(petals * angles / 2)) ** 0.8
    return Outline(_polar(angles, radii), _circle(random.uniform(0.16, 0.22)))


def _heart(random: np.random.Generator) -> Outline:
    angles = _equal_angles(64)
    y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
    return Outline(np.stack([np.sin(angles) ** 3, random.uniform(0.85, 1.05) * (y + 2.5) / 15], axis=1))


def _ring(random: np.random.Generator) -> Outline:
    return Outline(_circle(), _circle(random.uniform(0.5, 0.72)))


def _star(random: np.random.Generator) -> Outline:
    points = int(random.integers(4, 7))
    radii = np.where(np.arange(2 * points) % 2, random.uniform(0.34, 0.44), 1.0)
    return Outline(_polar(_equal_angles(2 * points), radii))


def _triangle(random: np.random.Generator) -> Outline:
    return Outline(_polar(_equal_angles(3) + random.uniform(-0.2, 0.2, 3), np.ones(3)))


OUTLINES: Mapping[str, Callable[[np.random.Generator], Outline]] = MappingProxyType(
    {
        "arrow": _arrow,
        "bolt": _bolt,
        "crescent": _crescent,
        "cross": _cross,
        "drop": _drop,
        "flower": _flower,
        "heart": _heart,
        "ring": _ring,
        "star": _star,
        "triangle": _triangle,
    }
)
