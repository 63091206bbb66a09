"""The summary of a split: its classes, colours and rejected files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.data.reader import Split
from alexnet_dist.show.summary import summary

Pack = Callable[..., Path]


def test_the_summary_counts_classes_and_gives_mean_and_deviation_of_colours(pack_tiny: Pack) -> None:
    output = summary(Split.open(pack_tiny(counts=(7, 1, 4)), "train"))
    assert "2 to 3 images each, median 2" in output
    assert "red 100.0 ± 5.5, green 90.0 ± 4.5, blue 80.0 ± 3.2" in output


def test_rejected_files_are_counted_by_reason_and_some_are_named(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    rejected = tuple(Rejected(f"class0/{n}.jpg", "empty file" if n else "no JPEG") for n in range(5))
    split.manifest = replace(split.manifest, rejected=rejected)
    output = summary(split)
    assert "5: 4 empty file, 1 no JPEG" in output
    assert "class0/2.jpg: empty file" in output
    assert "class0/3.jpg" not in output
    assert "and 2 more" in output


def test_what_was_ignored_and_what_was_missing_is_shown(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    assert not {"ignored", "INCOMPLETE"} & set(summary(split).split())
    split.manifest = replace(split.manifest, ignored={"hidden files": 1200}, missing=("1 of 3 files: a.tar",))
    output = summary(split)
    assert "  ignored    1,200 hidden files\n" in output
    assert "  INCOMPLETE its source lacked 1 of 3 files: a.tar\n" in output
