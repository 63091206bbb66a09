"""Images of one colour for each class, by which a test reads the class of a packed image from its pixels."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from alexnet_dist.data import manifest as manifests
from support.folders import encoded
from support.layouts import Images

# Different enough to be recognized after two lossy encodings.
COLOURS = (
    (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255),
    (128, 128, 128), (255, 128, 0), (128, 0, 255), (0, 96, 64),
)  # fmt: skip


def colour_image(colour: int, number: int = 0) -> bytes:
    """Return a JPEG of one of COLOURS; number: varies its size in pixels."""
    pixels = np.full((17 + number % 5, 16 + number % 7, 3), COLOURS[colour], np.uint8)
    return encoded(pixels, quality=95)


def colour_images(classes: Sequence[str], train: int = 3, val: int = 2) -> Images:
    """Return a set in which the images of class number i have colour i; train, val: images of each class.

    The names of the files do not have the class in them, and their order differs from that of the classes.
    """

    def files(split: str, count: int) -> dict[str, list[tuple[str, bytes]]]:
        return {
            name: [(f"{split}_{7 * (index * len(classes) + label) % 101:03d}", colour_image(label, index))
                   for index in range(count)]
            for label, name in enumerate(classes)
        }  # fmt: skip

    return Images(files("a", train), files("b", val))


def packed_colours(out: Path, split: str) -> list[tuple[str, int]]:
    """Return the class, by its label, and the colour, by its pixels, of each image of a packed split, sorted."""
    manifest = manifests.load(out / f"{split}.manifest.json")
    pairs: list[tuple[str, int]] = []
    for shard in manifest.shards:
        with tarfile.open(out / shard.name) as tar:
            contents = {member.name: tar.extractfile(member) for member in tar.getmembers()}
            for name, file in contents.items():
                label = contents.get(f"{name.removesuffix('.jpg')}.cls")
                if name.endswith(".jpg"):
                    assert file is not None
                    assert label is not None
                    pairs.append((manifest.classes[int(label.read())].name, nearest_colour(file.read())))
    return sorted(pairs)


def nearest_colour(jpeg: bytes) -> int:
    """Return the index in COLOURS of the mean colour of an image."""
    mean = simplejpeg.decode_jpeg(jpeg).reshape(-1, 3).mean(axis=0)
    return int(np.abs(np.array(COLOURS) - mean).sum(axis=1).argmin())
