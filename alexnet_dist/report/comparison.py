"""A run's errors beside the paper's: which of its numbers may be compared with the run's, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.data.manifest import Manifest

IMAGES_2012, IMAGES_2010, CLASSES = 1_281_167, 1_261_406, 1000  # training sets of ILSVRC
CIFAR10 = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}


@dataclass(frozen=True)
class PaperRow:
    """A result of the paper: errors in percent, None where it gives none."""

    net: str
    data: str
    training: str
    views: str
    top1: float | None
    top5: float | None
    source: str


ROWS = (
    PaperRow("one net", "ILSVRC-2010 test", "ILSVRC-2010", "ten views", 37.5, 17.0, "§6, table 1"),
    PaperRow("one net", "ILSVRC-2010 test", "ILSVRC-2010", "centre view", 39.0, 18.3, "§4.1"),
    PaperRow("one net", "ILSVRC-2012 validation", "ILSVRC-2012", "ten views", 40.7, 18.2, "§6, table 2"),
    PaperRow("four layers, with norm", "CIFAR-10 test", "CIFAR-10", "not stated", 11.0, None, "§3.3"),
    PaperRow("four layers, without norm", "CIFAR-10 test", "CIFAR-10", "not stated", 13.0, None, "§3.3"),
)


def training_set(manifest: Manifest | None) -> str | None:
    """Return the name of a run's training set if it is one of the paper's, judged by its classes and its size."""
    if manifest is None:
        return None
    names = {described.name.lower() for described in manifest.classes}
    if names == CIFAR10:
        return "CIFAR-10"
    sizes = {IMAGES_2012: "ILSVRC-2012", IMAGES_2010: "ILSVRC-2010"}
    whole = manifest.images + len(manifest.rejected)
    return sizes.get(whole) if len(names) == CLASSES else None


def verdict(row: PaperRow, trained_on: str | None, is_papers_net: bool) -> str:
    """Return whether a run's validation errors, of the centre view, may be compared with a row, and why not."""
    if trained_on is None:
        return "no: the run was trained on other images"
    if trained_on != row.training:
        return f"no: the run was trained on {trained_on}"
    if row.training == "CIFAR-10":
        return "roughly: another net"
    if not is_papers_net:
        return "roughly: another net"
    if "validation" not in row.data:
        return "roughly: the run's images are of the validation split; evaluate --split test gives this number"
    return "yes, apart from the views: evaluate --views 10 gives this number"
