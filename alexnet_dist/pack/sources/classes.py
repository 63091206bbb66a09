"""The classes of a split: their names in the order of the labels, and how they compare with another split's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.listing import ImageSource


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Return class names in the order of their labels; numbers are zero-padded, so that they sort as numbers."""
    if names and all(_is_number(name) for name in names):
        width = max(map(len, names))
        # A set, because 1 and 01 are one number.
        return tuple(sorted({name.zfill(width) for name in names}))
    return tuple(sorted(names))


def resolve_class(name: str, labels: Mapping[str, int]) -> str:
    """Return the class that a name stands for: for a number, the zero-padded one; it need not be in `labels`."""
    if name in labels or not labels or not _is_number(name):
        return name
    return name.zfill(len(next(iter(labels))))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def class_labels(classes: tuple[str, ...]) -> dict[str, int]:
    """Return the label of each class by its name."""
    return {name: label for label, name in enumerate(classes)}


def describe_difference(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Return a phrase that says how many names are not in `others`, and how many of `others` are missing."""
    more, missing = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    parts = [
        f"{len(differing)} {what}, such as {differing[0]}"
        for differing, what in ((more, "more"), (missing, "missing"))
        if differing
    ]
    return " and ".join(parts)


def check_same_classes(
    where: Path, classes: tuple[str, ...], train_classes: tuple[str, ...] | None, split: SplitName
) -> None:
    """Raise UserError if the classes at `where` differ from those of the packed training split, if there is one."""
    if train_classes is not None and classes != train_classes:
        raise UserError(
            f"{where}: not the classes of the packed train split: {describe_difference(classes, train_classes)}. "
            f"Pack {split} from the source of train, or into another folder"
        )


def check_no_class_lost(source: ImageSource, first_seen: Mapping[str, str]) -> None:
    """Raise UserError for a class whose files were all rejected; `first_seen` says where each class occurs first."""
    labels = {file.label for file in source.files}
    lost = [name for label, name in enumerate(source.classes) if name in first_seen and label not in labels]
    if lost:
        raise UserError(
            f"{first_seen[lost[0]]}: none of the files of class {lost[0]} can be used ({len(lost)} such classes). "
            "Repair them, or remove the class"
        )
