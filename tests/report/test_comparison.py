"""Which of the paper's numbers a run may be compared with, and why not the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_dist import config as configs
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class, Manifest, manifest_path
from alexnet_dist.report.comparison import CIFAR10, CLASSES, IMAGES_2010, IMAGES_2012, ROWS, training_set, verdict
from alexnet_dist.report.sections import is_papers_net
from support.runs import settings, write_shards


@pytest.fixture
def known(tmp_path: Path) -> Manifest:
    return manifest.load(manifest_path(write_shards(tmp_path / "shards"), "train"))


def test_a_training_set_is_known_by_its_classes_and_size(known: Manifest) -> None:
    imagenet = replace(known, classes=tuple(Class(f"n{number:08d}") for number in range(CLASSES)))
    assert training_set(replace(imagenet, images=IMAGES_2012)) == "ILSVRC-2012"
    assert training_set(replace(imagenet, images=IMAGES_2010)) == "ILSVRC-2010"
    assert training_set(replace(imagenet, images=IMAGES_2012 - 1)) is None
    assert training_set(replace(known, images=IMAGES_2012)) is None
    assert training_set(replace(known, classes=tuple(map(Class, sorted(CIFAR10))))) == "CIFAR-10"
    assert training_set(known) is None
    assert training_set(None) is None


def test_only_the_same_net_on_the_same_data_is_compared() -> None:
    said = {(row.data, row.views): verdict(row, "ILSVRC-2012", True) for row in ROWS}
    assert said["ILSVRC-2012 validation", "ten views"].startswith("yes, apart from the views")
    assert said["ILSVRC-2010 test", "centre view"] == "no: the run was trained on ILSVRC-2012"
    assert all(verdict(row, None, True).startswith("no: ") for row in ROWS)
    assert not any(verdict(row, row.training, False).startswith("yes") for row in ROWS)


def test_the_papers_net_is_known() -> None:
    assert is_papers_net(configs.load([], []).config)
    assert not is_papers_net(settings())
