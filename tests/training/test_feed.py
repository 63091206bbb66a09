"""The feed without a partner, literally: what each batch is, by epoch and sample; bad samples told once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch

from alexnet_dist.data import augment
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.distributed import topology
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.process import launch_info
from alexnet_dist.training import build
from alexnet_dist.training.feed import Batch, Feed
from alexnet_dist.training.run_plan import BatchSpec
from support.runs import SIZE, settings

Pack = Callable[..., Path]
CROP, SEED, NOISE = 14, 5, 0.2


def fed(split: Split, tasks: Sequence[BatchSpec], *words: str) -> tuple[list[Batch], list[list[BadSample]]]:
    """Return the batches that a config makes of tasks, and the bad samples asked for after each."""
    chosen = settings(f"run.seed={SEED}", f"data.colour_noise={NOISE}", *words)
    how = build.preparation(chosen, split, topology.place("fused", "cpu", launch_info({})))
    with Loader(
        {"train": split, "val": split}, seed=SEED, crop=CROP, rows=4, workers=0, max_bad_fraction=0.0
    ) as loader:
        feed = Feed(iter(tasks), loader, (0, 1), None, how, Timeline(torch.device("cpu")))
        taken = [(feed.take(), feed.take_bad()) for _ in tasks]
    return [batch for batch, _ in taken], [bad for _, bad in taken]


def task(train: bool, epoch: int, *ids: int) -> BatchSpec:
    return BatchSpec(train, epoch, 9, np.array(ids), 4)


def centred(split: Split, sample: int, top: int = 1, left: int = 1, step: int = 1) -> npt.NDArray[np.float32]:
    """Return a sample's crop, mirrored where step is -1, minus the centre of the mean image."""
    picture = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[top : top + CROP, left : left + CROP][:, ::step]
    found: npt.NDArray[np.float32] = picture.transpose(2, 0, 1) - split.mean[:, 1 : 1 + CROP, 1 : 1 + CROP]
    return found


@pytest.mark.parametrize(("flip", "noise"), [(True, NOISE), (False, NOISE), (True, 0.0)])
def test_a_training_row_is_what_its_epoch_and_sample_drew(flip: bool, noise: float, pack_tiny: Pack) -> None:
    split, ids = Split.open(pack_tiny(), "train"), (3, 0, 19)
    tasks = [task(True, epoch, *ids) for epoch in (0, 2)]
    batches, _ = fed(split, tasks, f"data.flip={str(flip).lower()}", f"data.colour_noise={noise}")
    mirrored = set()
    for wanted, batch in zip(tasks, batches, strict=True):
        assert batch.task is wanted
        assert (batch.labels.tolist(), batch.slots.tolist()) == ([sample % 5 for sample in ids], [4, 5, 6])
        for row, sample in enumerate(ids):
            drawn = augment.train_draws(SEED, wanted.epoch, np.array([sample]), SIZE, CROP, split.components, noise)
            step = -1 if flip and drawn.flip[0] else 1
            mirrored.add(step)
            image = centred(split, sample, int(drawn.top[0]), int(drawn.left[0]), step)
            np.testing.assert_allclose(batch.images[row].numpy(), image + drawn.shift[0][:, None, None], atol=1e-4)
    assert mirrored == ({1, -1} if flip else {1})


def test_a_validation_row_is_the_centre_minus_the_mean(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    (batch,), _ = fed(split, [task(False, 2, 7, 12, -1)])
    assert batch.labels.tolist() == [2, 2, -1]
    for row, sample in enumerate((7, 12)):
        np.testing.assert_allclose(batch.images[row].numpy(), centred(split, sample), atol=1e-4)


def test_a_bad_sample_is_told_once(pack_tiny: Pack, draw_jpegs: Callable[[int, int], list[bytes]]) -> None:
    jpegs = draw_jpegs(20, SIZE)
    jpegs[8] = jpegs[8][:-40]
    tasks = [task(True, 0, 7, 8), task(True, 0, 9, 10)]
    _, bad = fed(Split.open(pack_tiny(jpegs), "train"), tasks)
    assert [[one.sample for one in each] for each in bad] == [[8], []]
