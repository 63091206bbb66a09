"""Tiny packed sets, written from the description of the format, without alexnet_dist.pack."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from alexnet_dist.data import manifest
from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Class, Colour, Manifest, Options, Shard, Sidecar

Jpegs = Sequence[bytes]


def draw_jpegs(images: int, size: int) -> list[bytes]:
    """Return different colour gradients with noise."""
    random = np.random.default_rng(images)
    ramp = np.linspace(0, 120, size)
    jpegs = []
    for _ in range(images):
        base = (
            random.uniform(0, 100, 3) + ramp[:, None, None] * random.random(3) + random.uniform(0, 30, (size, size, 3))
        )
        jpegs.append(simplejpeg.encode_jpeg(base.astype(np.uint8), quality=90, colorsubsampling="420"))
    return jpegs


def write_tar(file: Path, first: int, jpegs: Jpegs, labels: Sequence[int]) -> list[int]:
    """Write a shard and return the offset of each JPEG in it; first: the id of its first sample."""
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, (jpeg, label) in enumerate(zip(jpegs, labels, strict=True), first):
            for suffix, content in (("jpg", jpeg), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{sample:08d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with tarfile.open(file) as tar:
        return [member.offset_data for member in tar if member.name.endswith(".jpg")]


def write_array(root: Path, name: str, array: npt.NDArray[np.generic]) -> Sidecar:
    np.save(root / name, array)
    return Sidecar(name, hashlib.sha256((root / name).read_bytes()).hexdigest())


@pytest.fixture(name="draw_jpegs")
def draw_jpegs_fixture() -> Callable[[int, int], list[bytes]]:
    """Return the function that draws (number of images, size) JPEGs."""
    return draw_jpegs


@pytest.fixture
def pack_tiny(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a packed split of the JPEGs, with label = id mod 5, and returns its folder."""

    def pack(
        jpegs: Jpegs | None = None, counts: Sequence[int] = (7, 1, 12), size: int = 16, split: SplitName = "train"
    ) -> Path:
        root = tmp_path / "shards"
        root.mkdir(exist_ok=True)
        jpegs = draw_jpegs(sum(counts), size) if jpegs is None else jpegs
        labels = [sample % 5 for sample in range(len(jpegs))]
        offsets: list[int] = []
        shards = []
        for number, count in enumerate(counts):
            file, start = root / f"{split}-{number:06d}.tar", len(offsets)
            offsets += write_tar(file, start, jpegs[start : start + count], labels[start : start + count])
            content = file.read_bytes()
            shards.append(Shard(file.name, count, len(content), hashlib.sha256(content).hexdigest()))
        rows = [
            (offset, len(jpeg), label, zlib.crc32(jpeg))
            for offset, jpeg, label in zip(offsets, jpegs, labels, strict=True)
        ]
        train = split == "train"
        mean = np.arange(3 * size * size, dtype=np.float32).reshape(3, size, size) / 10
        manifest.save(
            Manifest(
                split=split,
                size=size,
                images=len(jpegs),
                classes=tuple(Class(f"class{label}") for label in range(5)),
                shards=tuple(shards),
                index=write_array(root, f"{split}.index.npy", np.array(rows, dtype=manifest.INDEX_DTYPE)),
                mean=write_array(root, "train.mean.npy", mean) if train else None,
                colour=Colour((100.0, 90.0, 80.0), ((30.0, 2.0, 1.0), (2.0, 20.0, 3.0), (1.0, 3.0, 10.0)))
                if train
                else None,
                rejected=(),
                options=Options(
                    seed=0, size=size, quality=90, chroma="420", filter="bicubic", samples_per_shard=12, holdout=None
                ),
                libraries={},
            ),
            manifest.manifest_path(root, split),
        )
        return root

    return pack
