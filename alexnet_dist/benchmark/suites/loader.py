"""The benchmark ``loader``: 256-pixel JPEGs to batches of random crops, flipped at random; ours beside others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from alexnet_dist.benchmark.contenders.loader_timing import LoaderSettings
from alexnet_dist.benchmark.rounds import Contender, Result, ratio, reason, run_alone
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
MIN_BATCHES = 4


def contenders(shards: Path, folder: Path, workers: int, batch: int) -> list[Contender]:
    """Return the contenders over a packed set, after writing what the other loaders read to `folder`.

    Raises UserError if the set is too small.
    """
    split = Split.open(shards, "train")
    if split.images < MIN_BATCHES * batch:
        raise UserError(
            f"{shards}: {split.images} images; expected at least {MIN_BATCHES} batches of {batch}: pack more"
        )
    unpack(split, folder / "images")
    # The crop is 7/8 of the packed size, as in the configuration: 224 of 256.
    crop = split.manifest.size * 7 // 8
    settings = asdict(LoaderSettings(str(shards), str(folder), split.images, workers, batch, crop))
    return [
        Contender(OURS, "loader", {**settings, "loader": "our_loader:epochs", "warm_first": True}),
        *(
            Contender(name, "loader", {**settings, "loader": loader, "warm_first": False}, missing, is_peer=True)
            for name, loader, missing in (
                (WEB, "peer_loaders:webdataset_pil", ""),
                (WEB_FAST, "peer_loaders:webdataset_simplejpeg", ""),
                (FOLDER, "peer_loaders:folder_pil", ""),
                (FOLDER_UINT8, "peer_loaders:folder_pil_uint8", ""),
                (FFCV, "optional_loaders:ffcv", prepare("ffcv", folder)),
                (STREAMING, "optional_loaders:streaming", prepare("streaming", folder)),
            )
        ),
        Contender(READING, "read", settings),
        Contender(BOUNDARY, "boundary", settings),
    ]


def unpack(split: Split, images: Path) -> None:
    """Write a split's JPEGs, byte for byte, as files in class folders."""
    for label, described in enumerate(split.manifest.classes):
        class_folder = images / described.name
        class_folder.mkdir(parents=True)
        for sample in (split.labels == label).nonzero()[0].tolist():
            (class_folder / f"{sample:08d}.jpg").write_bytes(split.jpeg(sample))


def prepare(library: str, folder: Path) -> str:
    """Write the set in a library's own format; returns why the library cannot run here, or an empty string."""
    if find_spec(library) is None:
        return "not installed: see benchmarks/README.md"
    try:
        run_alone(Contender(library, f"prepare_{library}", {"folder": str(folder)}))
    except RunError as error:
        return f"installed, but fails: {reason(error)}"
    return ""


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return our images a second over those of each other loader that ran."""
    values = {name: ratio(results, OURS, other) for name, other in RATIOS.items()}
    return {name: value for name, value in values.items() if value is not None}
