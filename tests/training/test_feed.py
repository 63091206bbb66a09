"""The feed without a partner, literally: what each batch is, by epoch and sample; bad samples reported once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch

from alexnet_dist.data import augment
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.training.feed import Batch, Feed
from alexnet_dist.training.run_plan import BatchSpec
from support.plans import PLAIN
from support.runs import SIZE, context, settings

Pack = Callable[..., Path]
CROP, SEED, NOISE = 14, 5, 0.2


def read(split: Split, specs: Sequence[BatchSpec], *words: str) -> tuple[list[Batch], list[list[BadSample]]]:
    """Return the batches that a config makes of specs, and the bad samples after each."""
    config = settings(f"run.seed={SEED}", f"data.colour_noise={NOISE}", "topology.layout=fused", *words)
    splits = {"train": split, "val": split}
    with Loader(splits, seed=SEED, crop=CROP, rows=4, workers=0, max_bad_fraction=0.0) as loader:
        feed = Feed(context(config, splits), iter(specs), loader, None, Timeline(torch.device("cpu")))
        taken = [(feed.take(), feed.take_bad()) for _ in specs]
    return [batch for batch, _ in taken], [bad for _, bad in taken]


def spec(train: bool, epoch: int, *ids: int) -> BatchSpec:
    return BatchSpec(train, epoch, 9, np.array(ids), 4)


def centred(split: Split, sample: int, top: int = 1, left: int = 1, step: int = 1) -> npt.NDArray[np.float32]:
    """Return a sample's crop, mirrored where step is -1, minus the centre of the mean image."""
    picture = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[top : top + CROP, left : left + CROP][:, ::step]
    crop: npt.NDArray[np.float32] = picture.transpose(2, 0, 1) - split.mean[:, 1 : 1 + CROP, 1 : 1 + CROP]
    return crop


@pytest.mark.parametrize(("flip", "noise"), [(True, NOISE), (False, NOISE), (True, 0.0)])
def test_a_training_row_is_what_its_epoch_and_sample_drew(flip: bool, noise: float, pack_tiny: Pack) -> None:
    split, ids = Split.open(pack_tiny(), "train"), (3, 0, 19)
    specs = [spec(True, epoch, *ids) for epoch in (0, 2)]
    batches, _ = read(split, specs, f"data.flip={str(flip).lower()}", f"data.colour_noise={noise}")
    mirrored = set()
    for wanted, batch in zip(specs, batches, strict=True):
        assert batch.spec is wanted
        assert (batch.labels.tolist(), batch.slots.tolist()) == ([sample % 5 for sample in ids], [4, 5, 6])
        for row, sample in enumerate(ids):
            draws = augment.train_draws(SEED, wanted.epoch, np.array([sample]), SIZE, CROP, split.components, noise)
            step = -1 if flip and draws.flip[0] else 1
            mirrored.add(step)
            image = centred(split, sample, int(draws.top[0]), int(draws.left[0]), step)
            np.testing.assert_allclose(batch.images[row].numpy(), image + draws.shift[0][:, None, None], atol=1e-4)
    assert mirrored == ({1, -1} if flip else {1})


def test_noise_ends_with_its_event_and_only_training_images_are_divided(pack_tiny: Pack) -> None:
    split, per_epoch = Split.open(pack_tiny(), "train"), PLAIN.steps_per_epoch
    specs = [
        replace(spec(train, 2, 7), step=step) for train, step in ((True, per_epoch - 1), (True, per_epoch), (False, 0))
    ]
    words = ["data.random_crop=false", "data.flip=false", "data.train_divisor=1.25", f"data.colour_noise={NOISE}"]
    batches, _ = read(split, specs, *words, "run.events=[{epoch: 1, colour_noise: 0}]")
    shift = augment.train_draws(SEED, 2, np.array([7]), SIZE, CROP, split.components, NOISE).shift[0][:, None, None]
    image = centred(split, 7)
    for batch, wanted in zip(batches, ((image + shift) / 1.25, image / 1.25, image), strict=True):
        np.testing.assert_allclose(batch.images[0].numpy(), wanted, atol=1e-4)


def test_a_validation_row_is_the_centre_minus_the_mean(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    (batch,), _ = read(split, [spec(False, 2, 7, 12, -1)])
    assert batch.labels.tolist() == [2, 2, -1]
    for row, sample in enumerate((7, 12)):
        np.testing.assert_allclose(batch.images[row].numpy(), centred(split, sample), atol=1e-4)


def test_a_bad_sample_is_reported_once(pack_tiny: Pack, draw_jpegs: Callable[[int, int], list[bytes]]) -> None:
    jpegs = draw_jpegs(20, SIZE)
    jpegs[8] = jpegs[8][:-40]
    specs = [spec(True, 0, 7, 8), spec(True, 0, 9, 10)]
    _, bad = read(Split.open(pack_tiny(jpegs), "train"), specs)
    assert [[sample.sample for sample in after_batch] for after_batch in bad] == [[8], []]
