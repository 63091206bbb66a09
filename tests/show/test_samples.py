"""Samples as pictures: those of train are the inputs of the net, those of val are centre crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from alexnet_dist.config import Config
from alexnet_dist.data.augment import train_draws
from alexnet_dist.data.manifest import Class
from alexnet_dist.data.reader import Split
from alexnet_dist.show.samples import SamplePictures, sample_pictures

Pack = Callable[..., Path]


def sample_ids(samples: SamplePictures) -> list[int]:
    return [int(note.split()[1].rstrip(",")) for note in samples.notes]


def test_training_pictures_are_the_nets_input_with_its_mean_again(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    samples = sample_pictures(split, count=9, seed=4, epoch=2, crop=14)
    ids = sample_ids(samples)
    assert len(set(ids)) == 9
    noise = Config().data.colour_noise
    draws = train_draws(4, 2, np.array(ids), 16, 14, split.components, noise)
    assert 0 < draws.flip.sum() < 9
    for n, sample in enumerate(ids):
        top, left = draws.top[n], draws.left[n]
        crop = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[top : top + 14, left : left + 14]
        expected = np.clip(np.rint((crop[:, ::-1] if draws.flip[n] else crop) + draws.shift[n]), 0, 255)
        assert np.abs(samples.pictures[n] - expected).max() <= 1  # halves may round in either direction
        assert ("flipped" in samples.notes[n]) == draws.flip[n]
        assert samples.captions[n] == f"class{sample % 5}"
    other = sample_pictures(split, count=9, seed=4, epoch=3, crop=14)
    assert sample_ids(other) == ids
    assert not np.array_equal(other.pictures, samples.pictures)
    assert sample_ids(sample_pictures(split, count=9, seed=5, epoch=2, crop=14)) != ids


def test_validation_pictures_are_centres(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(split="val"), "val")
    samples = sample_pictures(split, count=20, seed=0, epoch=0, crop=14)
    for n, sample in enumerate(sample_ids(samples)):
        assert np.array_equal(samples.pictures[n], simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")[1:15, 1:15])


def test_words_stand_for_a_class_where_it_has_them(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    named = tuple(Class(class_.name, f"a thing, {class_.name}") for class_ in split.manifest.classes)
    split.manifest = replace(split.manifest, classes=named)
    assert all(caption.startswith("a thing, class") for caption in sample_pictures(split, 3, 0, 0, 14).captions)
