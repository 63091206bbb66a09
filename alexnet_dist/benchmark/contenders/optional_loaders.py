"""The loaders that must be installed separately (extra `peers`): FFCV and MosaicML streaming.

Each has its own format, written from the same JPEG files once, before the rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from alexnet_dist.benchmark.contenders.loader_timing import Epochs, LabelledImages, LoaderSettings
from alexnet_dist.benchmark.contenders.peer_loaders import ClassFolders, crop_and_flip, normalised

QUALITY = 90


class _FFCVImages:
    """A folder's images as FFCV's writer expects them: a Pillow image and a label."""

    def __init__(self, folder: Path) -> None:
        self._files = ClassFolders(folder, crop=1, floats=False).files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._files[index]
        return Image.open(path).convert("RGB"), label


def prepare_ffcv(folder: str) -> None:
    """Write folder/train.beton. FFCV re-encodes the pixels with OpenCV: its bytes differ, and are a little larger."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    DatasetWriter(f"{folder}/train.beton", fields, num_workers=1).from_indexed_dataset(
        _FFCVImages(Path(folder) / "images")
    )


def ffcv(settings: LoaderSettings) -> Epochs:
    """Return FFCV's epochs: uint8 (n, crop, crop, 3), from its own threads.

    The crop is its RandomResizedCrop with one scale and aspect ratio 1, which is a random crop of settings.crop pixels.
    """
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    with Image.open(next(Path(settings.folder, "images").glob("*/*.jpg"))) as image:
        scale = (settings.crop / image.width) ** 2
    crop = RandomResizedCropRGBImageDecoder((settings.crop, settings.crop), scale=(scale, scale), ratio=(1, 1))
    loader = Loader(
        f"{settings.folder}/train.beton",
        batch_size=settings.batch,
        num_workers=max(1, settings.workers),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": [crop, RandomHorizontalFlip(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )

    def epoch(_number: int) -> Iterator[LabelledImages]:
        yield from loader

    return epoch


def prepare_streaming(folder: str) -> None:
    """Write folder/mds from the same JPEG bytes."""
    from streaming import MDSWriter

    with MDSWriter(out=f"{folder}/mds", columns={"image": "jpeg", "label": "int"}) as writer:
        for path, label in ClassFolders(Path(folder) / "images", crop=1, floats=False).files:
            # An image that is an open JPEG file is stored as the bytes of that file.
            writer.write({"image": Image.open(path), "label": label})


def streaming(settings: LoaderSettings) -> Epochs:
    """Return MosaicML streaming's epochs: float32 (n, 3, crop, crop), normalised."""
    from streaming import StreamingDataLoader, StreamingDataset

    class StreamedImages(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample: dict[str, Any] = super().__getitem__(index)
            return normalised(crop_and_flip(sample["image"], settings.crop)), sample["label"]

    dataset = StreamedImages(local=f"{settings.folder}/mds", shuffle=True, batch_size=settings.batch)
    loader = StreamingDataLoader(
        dataset, batch_size=settings.batch, num_workers=settings.workers, persistent_workers=settings.workers > 0
    )

    def epoch(_number: int) -> Iterator[LabelledImages]:
        yield from loader

    return epoch
