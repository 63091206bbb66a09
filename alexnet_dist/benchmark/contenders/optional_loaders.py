"""The loaders that need an installation of their own (extra `peers`): FFCV and MosaicML streaming.

Each has a format of its own, written once before the rounds from the same JPEG files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from alexnet_dist.benchmark.contenders.loader_timing import Batch, Epochs, Job
from alexnet_dist.benchmark.contenders.peer_loaders import Folder, crop_and_flip, normalised

QUALITY = 90


class _Pictures:
    """A folder's pictures as FFCV's writer takes them: a Pillow image and a label."""

    def __init__(self, folder: Path) -> None:
        self._files = Folder(folder, crop=1, floats=False).files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        path, label = self._files[number]
        return Image.open(path).convert("RGB"), label


def prepare_ffcv(folder: str) -> None:
    """Write folder/train.beton. FFCV encodes the pixels anew, with OpenCV: other bytes than ours, a little larger."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    DatasetWriter(f"{folder}/train.beton", fields, num_workers=1).from_indexed_dataset(
        _Pictures(Path(folder) / "images")
    )


def ffcv(job: Job) -> Epochs:
    """Return FFCV's epochs: uint8 (n, crop, crop, 3), from its own threads.

    The crop is its RandomResizedCrop held to one scale and a square, which is a random crop of job.crop pixels.
    """
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    with Image.open(next(Path(job.folder, "images").glob("*/*.jpg"))) as image:
        scale = (job.crop / image.width) ** 2
    crop = RandomResizedCropRGBImageDecoder((job.crop, job.crop), scale=(scale, scale), ratio=(1, 1))
    loader = Loader(
        f"{job.folder}/train.beton",
        batch_size=job.batch,
        num_workers=max(1, job.workers),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": [crop, RandomHorizontalFlip(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )

    def epoch(_number: int) -> Iterator[Batch]:
        yield from loader

    return epoch


def prepare_streaming(folder: str) -> None:
    """Write folder/mds from the very JPEG bytes."""
    from streaming import MDSWriter

    with MDSWriter(out=f"{folder}/mds", columns={"image": "jpeg", "label": "int"}) as writer:
        for path, label in Folder(Path(folder) / "images", crop=1, floats=False).files:
            # An image that is an open JPEG file is stored as that file's bytes.
            writer.write({"image": Image.open(path), "label": label})


def streaming(job: Job) -> Epochs:
    """Return MosaicML streaming's epochs: float32 (n, 3, crop, crop), normalised."""
    from streaming import StreamingDataLoader, StreamingDataset

    class Pictures(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, number: int) -> tuple[Tensor, int]:
            sample: dict[str, Any] = super().__getitem__(number)
            return normalised(crop_and_flip(sample["image"], job.crop)), sample["label"]

    dataset = Pictures(local=f"{job.folder}/mds", shuffle=True, batch_size=job.batch)
    loader = StreamingDataLoader(
        dataset, batch_size=job.batch, num_workers=job.workers, persistent_workers=job.workers > 0
    )

    def epoch(_number: int) -> Iterator[Batch]:
        yield from loader

    return epoch
