"""The benchmark ``loader``: from 256-pixel JPEGs to batches of random crops, flipped by chance, ours beside others."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from alexnet_dist.benchmark.contenders.loader_timing import Job
from alexnet_dist.benchmark.rounds import Entry, Row, ratio, run_alone
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import RunError, UserError

OURS, READING, BOUNDARY = "ours, uint8", "ours, reading alone, 1 core", "ours, border of ImageNet epochs"
WEB, WEB_FAST = "webdataset + Pillow, float32", "webdataset + simplejpeg, uint8"
FOLDER, FOLDER_UINT8 = "folder + Pillow, float32", "folder + Pillow, uint8"
FFCV, STREAMING = "FFCV jpg, uint8", "MosaicML streaming + Pillow, float32"
COLUMNS = {
    "images_per_second": "images/s",
    "cpu_ms_per_image": "CPU ms/image",
    "first_batch_ms": "first batch ms",
    "boundary_stall_ms": "border stall ms",
    "elsewhere_stall_ms": "elsewhere ms",
}
RATIOS = {
    "vs_webdataset": WEB,
    "vs_webdataset_simplejpeg_uint8": WEB_FAST,
    "vs_folder_pil": FOLDER,
    "vs_ffcv": FFCV,
    "vs_streaming": STREAMING,
}


def entries(shards: Path, folder: Path, workers: int, batch: int) -> list[Entry]:
    """Return the contenders over a packed set, once `folder` holds what the others read; UserError for a small set."""
    split = Split.open(shards, "train")
    size = split.manifest.size
    if split.images < 4 * batch:
        raise UserError(f"{shards}: {split.images} images; expected at least 4 batches of {batch}: pack more")
    unpack(split, folder / "images")
    # Crop is 7/8 of the packed size, as in the configuration: 224 of 256.
    job = asdict(Job(str(shards), str(folder), split.images, workers, batch, size * 7 // 8))
    return [
        Entry(OURS, "loader", {**job, "loader": "our_loader:epochs", "warm_first": True}),
        *(
            Entry(name, "loader", {**job, "loader": loader, "warm_first": False}, missing)
            for name, loader, missing in (
                (WEB, "peer_loaders:webdataset_pil", ""),
                (WEB_FAST, "peer_loaders:webdataset_simplejpeg", ""),
                (FOLDER, "peer_loaders:folder_pil", ""),
                (FOLDER_UINT8, "peer_loaders:folder_pil_uint8", ""),
                (FFCV, "optional_loaders:ffcv", prepare("ffcv", folder)),
                (STREAMING, "optional_loaders:streaming", prepare("streaming", folder)),
            )
        ),
        Entry(READING, "read", job),
        Entry(BOUNDARY, "boundary", job),
    ]


def unpack(split: Split, images: Path) -> None:
    """Write a split's JPEGs, byte for byte, as files in class folders."""
    for label, described in enumerate(split.manifest.classes):
        home = images / described.name
        home.mkdir(parents=True)
        for sample in (split.labels == label).nonzero()[0].tolist():
            (home / f"{sample:08d}.jpg").write_bytes(split.jpeg(sample))


def prepare(library: str, folder: Path) -> str:
    """Write the set in a library's own format; returns why it cannot run here, or nothing."""
    if find_spec(library) is None:
        return "not installed: see benchmarks/README.md"
    try:
        run_alone(Entry(library, f"prepare_{library}", {"folder": str(folder)}))
    except RunError as problem:
        return f"installed, and fails: {str(problem).splitlines()[-1]}"
    return ""


def ratios(rows: list[Row]) -> dict[str, float]:
    """Return our images a second over each other loader's that ran."""
    found = {name: ratio(rows, OURS, other) for name, other in RATIOS.items()}
    return {name: value for name, value in found.items() if value is not None}
