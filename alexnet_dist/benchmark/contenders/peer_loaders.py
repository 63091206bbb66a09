"""The loaders that everybody has: WebDataset as its README has it, the best one-line change of it, and a folder.

Each does the same work on the same JPEG bytes: a random crop, a random flip, a batch. "float32" rows also normalise
and transpose in the workers, as the examples of these libraries do.
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

from alexnet_dist.benchmark.contenders.loader_timing import Batch, Epochs, Job

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SHUFFLE = 1000


def crop_and_flip(image: Image.Image, crop: int) -> Tensor:
    """Return uint8 (crop, crop, 3): a random crop, flipped by chance, by Pillow."""
    left, top = random.randint(0, image.width - crop), random.randint(0, image.height - crop)
    image = image.crop((left, top, left + crop, top + crop))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))


def normalised(pixels: Tensor) -> Tensor:
    """Return float32 (3, crop, crop) of uint8 (crop, crop, 3), as torchvision's ToTensor and Normalize do it."""
    return pixels.permute(2, 0, 1).contiguous().float().div_(255).sub_(MEAN).div_(DEVIATION)


def _shards(job: Job) -> Any:
    urls = sorted(str(path) for path in Path(job.shards).glob("train-*.tar"))
    return wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(SHUFFLE)


def _web_epochs(dataset: Any, job: Job) -> Epochs:
    workers = job.workers > 0
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=job.workers, persistent_workers=workers)
    return lambda _number: ((images, labels) for images, labels in loader)


def webdataset_pil(job: Job) -> Epochs:
    """Return WebDataset's epochs as its README has them: float32 (n, 3, crop, crop), normalised."""

    def prepare(sample: tuple[Image.Image, int]) -> tuple[Tensor, int]:
        return normalised(crop_and_flip(sample[0], job.crop)), sample[1]

    dataset = _shards(job).decode("pil").to_tuple("jpg", "cls").map(prepare).batched(job.batch)
    return _web_epochs(dataset, job)


def webdataset_simplejpeg(job: Job) -> Epochs:
    """Return WebDataset's epochs with a faster decoder and bytes kept bytes: uint8 (n, crop, crop, 3)."""

    def prepare(sample: tuple[bytes, bytes]) -> tuple[Tensor, int]:
        image = torch.from_numpy(simplejpeg.decode_jpeg(sample[0], "RGB"))
        top, left = random.randint(0, image.shape[0] - job.crop), random.randint(0, image.shape[1] - job.crop)
        pixels = image[top : top + job.crop, left : left + job.crop]
        return pixels.flip(1) if random.random() < 0.5 else pixels, int(sample[1])

    def collate(samples: Sequence[tuple[Tensor, int]]) -> Batch:
        return torch.stack([pixels for pixels, _ in samples]), torch.tensor([label for _, label in samples])

    dataset = _shards(job).to_tuple("jpg", "cls").map(prepare).batched(job.batch, collation_fn=collate)
    return _web_epochs(dataset, job)


class Folder(Dataset[tuple[Tensor, int]]):
    """A folder of class folders, each file opened and decoded by Pillow when its number is asked for."""

    def __init__(self, folder: Path, crop: int, floats: bool) -> None:
        """List the files; floats: normalise to float32."""
        classes = {name: label for label, name in enumerate(sorted(path.name for path in folder.iterdir()))}
        self.files = [(str(path), classes[path.parent.name]) for path in sorted(folder.glob("*/*.jpg"))]
        self._crop, self._floats = crop, floats

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        path, label = self.files[number]
        with Image.open(path) as image:
            pixels = crop_and_flip(image.convert("RGB"), self._crop)
        return normalised(pixels) if self._floats else pixels, label


def _folder(job: Job, floats: bool) -> Epochs:
    loader = DataLoader(
        Folder(Path(job.folder) / "images", job.crop, floats),
        batch_size=job.batch,
        shuffle=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )

    def epoch(_number: int) -> Iterator[Batch]:
        yield from loader

    return epoch


def folder_pil(job: Job) -> Epochs:
    """Return a folder's epochs by Pillow: float32 (n, 3, crop, crop), normalised."""
    return _folder(job, floats=True)


def folder_pil_uint8(job: Job) -> Epochs:
    """Return a folder's epochs by Pillow: uint8 (n, crop, crop, 3)."""
    return _folder(job, floats=False)
