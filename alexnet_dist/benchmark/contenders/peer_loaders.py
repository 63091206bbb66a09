"""Widely used loaders: WebDataset as in its README, the same with a faster decoder, and a folder of images.

Each does the same work on the same JPEG bytes: a random crop, a random flip, a batch. The float32 loaders also
normalise and transpose in the workers, as the examples of these libraries do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexnet_dist.benchmark.contenders.loader_timing import Epochs, LabelledImages, LoaderSettings

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SHUFFLE = 1000  # samples of WebDataset's shuffle buffer


def crop_and_flip(image: Image.Image, crop: int) -> Tensor:
    """Return uint8 (crop, crop, 3): a random crop, flipped at random, by Pillow."""
    left, top = random.randint(0, image.width - crop), random.randint(0, image.height - crop)
    image = image.crop((left, top, left + crop, top + crop))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))


def normalised(pixels: Tensor) -> Tensor:
    """Return float32 (3, crop, crop) of uint8 (crop, crop, 3), like torchvision's ToTensor and Normalize."""
    return pixels.permute(2, 0, 1).contiguous().float().div_(255).sub_(MEAN).div_(DEVIATION)


def _webdataset(settings: LoaderSettings) -> Any:
    urls = sorted(str(path) for path in Path(settings.shards).glob("train-*.tar"))
    return wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(SHUFFLE)


def _webdataset_epochs(dataset: Any, settings: LoaderSettings) -> Epochs:
    workers = settings.workers
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda _number: ((images, labels) for images, labels in loader)


def _webdataset_pil_samples(settings: LoaderSettings) -> Any:
    def prepare(sample: tuple[Image.Image, int]) -> tuple[Tensor, int]:
        return normalised(crop_and_flip(sample[0], settings.crop)), sample[1]

    return _webdataset(settings).decode("pil").to_tuple("jpg", "cls").map(prepare)


def webdataset_pil(settings: LoaderSettings) -> Epochs:
    """Return the epochs of WebDataset as in its README: float32 (n, 3, crop, crop), normalised."""
    return _webdataset_epochs(_webdataset_pil_samples(settings).batched(settings.batch), settings)


def webdataset_pil_batches(settings: LoaderSettings, pinned: bool) -> Iterator[LabelledImages]:
    """Return the same samples in batches without an end, all of one size; pinned: in memory for copies to CUDA."""
    # Repeated before it is batched, so that the end of an epoch leaves no smaller batch.
    dataset = wds.DataPipeline(_webdataset_pil_samples(settings).repeat(), wds.batched(settings.batch))
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=settings.workers, pin_memory=pinned)
    return iter(loader)


def webdataset_simplejpeg(settings: LoaderSettings) -> Epochs:
    """Return the epochs of WebDataset with a faster decoder and without floats: uint8 (n, crop, crop, 3)."""
    crop = settings.crop

    def prepare(sample: tuple[bytes, bytes]) -> tuple[Tensor, int]:
        image = torch.from_numpy(simplejpeg.decode_jpeg(sample[0], "RGB"))
        top, left = random.randint(0, image.shape[0] - crop), random.randint(0, image.shape[1] - crop)
        pixels = image[top : top + crop, left : left + crop]
        return pixels.flip(1) if random.random() < 0.5 else pixels, int(sample[1])

    def collate(samples: Sequence[tuple[Tensor, int]]) -> LabelledImages:
        return torch.stack([pixels for pixels, _ in samples]), torch.tensor([label for _, label in samples])

    dataset = _webdataset(settings).to_tuple("jpg", "cls").map(prepare).batched(settings.batch, collation_fn=collate)
    return _webdataset_epochs(dataset, settings)


class ClassFolders(Dataset[tuple[Tensor, int]]):
    """A folder of class folders; Pillow opens and decodes a file when its index is requested."""

    def __init__(self, folder: Path, crop: int, floats: bool) -> None:
        """List the files; floats: normalise to float32."""
        classes = {name: label for label, name in enumerate(sorted(path.name for path in folder.iterdir()))}
        self.files = [(str(path), classes[path.parent.name]) for path in sorted(folder.glob("*/*.jpg"))]
        self._crop, self._floats = crop, floats

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            pixels = crop_and_flip(image.convert("RGB"), self._crop)
        return normalised(pixels) if self._floats else pixels, label


def _folder_epochs(settings: LoaderSettings, floats: bool) -> Epochs:
    loader = DataLoader(
        ClassFolders(Path(settings.folder) / "images", settings.crop, floats),
        batch_size=settings.batch,
        shuffle=True,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )

    def epoch(_number: int) -> Iterator[LabelledImages]:
        yield from loader

    return epoch


def folder_pil(settings: LoaderSettings) -> Epochs:
    """Return the epochs of a folder, by Pillow: float32 (n, 3, crop, crop), normalised."""
    return _folder_epochs(settings, floats=True)


def folder_pil_uint8(settings: LoaderSettings) -> Epochs:
    """Return the epochs of a folder, by Pillow: uint8 (n, crop, crop, 3)."""
    return _folder_epochs(settings, floats=False)
