"""Features of many images in one file, written as they are computed: a split's need not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from alexnet_dist.runs.checkpoint import write_tensors
from alexnet_dist.runs.evaluation import check_split, split_batches
from alexnet_dist.runs.inference import centre_input
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.pictures import Picture
from alexnet_dist.runs.prediction import Failure, square_pixels
from alexnet_dist.runs.progress import Progress
from alexnet_dist.system.files import replace_durably, temporary_of

ROWS = 32  # images a batch
UNKNOWN = -1  # the label of an image that is of no split
WORKERS = 2


@dataclass(frozen=True, eq=False)
class Batch:
    """Features of some images: (n, units) float32 on the CPU, their ids, and their labels (n,) int64."""

    features: Tensor
    ids: Sequence[str]
    labels: Tensor


def of_split(run: LoadedRun, split: Split, layer: str, device: torch.device) -> Iterator[Batch]:
    """Yield the features of a whole split, whose ids are indices into its manifest; show the progress.

    Raises UserError for a split that does not fit the run, or for a damaged image.
    """
    check_split([run], split)
    first = 0
    with Progress(split.manifest.split, split.images) as progress:
        for images, labels in split_batches(split, WORKERS):
            yield Batch(_features(run, images, layer, device), [str(first + row) for row in range(len(labels))], labels)
            first += len(labels)
            progress.add(len(labels))


def of_pictures(
    run: LoadedRun, pictures: Sequence[Picture], layer: str, device: torch.device
) -> Iterator[Batch | Failure]:
    """Yield the features of pictures, whose ids are their names, and a failure for each one that cannot be used."""
    for first in range(0, len(pictures), ROWS):
        squares, ids = [], []
        for picture in pictures[first : first + ROWS]:
            try:
                squares.append(square_pixels(run, picture))
                ids.append(picture.name)
            except UserError as error:
                yield Failure(picture.name, str(error))
        if squares:
            features = _features(run, torch.stack(squares), layer, device)
            yield Batch(features, ids, torch.full((len(ids),), UNKNOWN))


def write_features(path: Path, batches: Iterable[Batch], run: LoadedRun, layer: str) -> tuple[int, int]:
    """Write batches to one .npz or .safetensors file, by its suffix; return the numbers of images and units.

    Raises UserError if there are none, or if the file cannot be written.
    """
    numbers = temporary_of(path.with_name(f"{path.name}.rows"))
    ids: list[str] = []
    labels: list[Tensor] = []
    units = 0
    with _written(path, numbers):
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers.unlink(missing_ok=True)  # a link that stands there is not followed
        numbers.open("xb").close()
    try:
        for batch in batches:
            units = batch.features.shape[1]
            with _written(path, numbers), numbers.open("ab") as file:
                file.write(batch.features.numpy().tobytes())
            ids += batch.ids
            labels.append(batch.labels)
        if not ids:
            raise UserError(f"{path}: not written: none of the images can be used")
        shape = (len(ids), units)
        with _written(path, temporary_of(path)):
            features: npt.NDArray[np.float32] = np.memmap(numbers, np.float32, "r+", shape=shape)
            _write(path, features, torch.cat(labels), ids, run, layer)
    finally:
        with suppress(OSError):
            numbers.unlink(missing_ok=True)
    return shape


@contextmanager
def _written(path: Path, temporary: Path) -> Iterator[None]:
    """Give an error in writing a file the file's name, and remove what was written instead of it."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written: {error.strerror}; choose another file") from None
        raise


def _write(
    path: Path, features: npt.NDArray[np.float32], labels: Tensor, ids: list[str], run: LoadedRun, layer: str
) -> None:
    classes = [described.name for described in run.manifest.classes]
    if path.suffix == ".safetensors":
        texts = {"ids": json.dumps(ids), "classes": json.dumps(classes), "layer": layer, "step": str(run.step)}
        write_tensors(path, {"features": torch.from_numpy(features), "labels": labels}, texts)
        return
    temporary = temporary_of(path)
    temporary.unlink(missing_ok=True)
    arrays: dict[str, Any] = {"features": features, "labels": labels.numpy(), "ids": np.array(ids)}
    with temporary.open("xb") as file:
        np.savez(file, **arrays, classes=np.array(classes), layer=np.array(layer), step=np.array(run.step))
    replace_durably(temporary, path)


def _features(run: LoadedRun, images: Tensor, layer: str, device: torch.device) -> Tensor:
    """Return the features of images, uint8 (n, size, size, 3), as (n, units) float32 on the CPU."""
    with torch.no_grad():
        return run.model.features(centre_input(run, images, device), layer).cpu().contiguous()
