"""The classes of a split: their names in the order of the labels, and how they compare with another split's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.listing import ImageSource


def sorted_classes(names: Collection[str]) -> tuple[str, ...]:
    """Return class names in the order of their labels; numbers are zero-padded, so that they sort as numbers."""
    if names and all(map(is_number, names)):
        width = max(map(len, names))
        # A set, because 1 and 01 are one number.
        return tuple(sorted({name.zfill(width) for name in names}))
    return tuple(sorted(names))


def matching_classes(names: Iterable[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Return the class of each name that has one: the class called so, or for a number the class of the same number.

    Raises UserError for a number that is two classes, such as 001 where both 1 and 01 are classes.
    """
    known = set(classes)
    by_number: dict[str, list[str]] = {}
    for name in filter(is_number, classes):
        by_number.setdefault(_unpadded(name), []).append(name)
    matches: dict[str, str] = {}
    for name in names:
        same = [name] if name in known else by_number.get(_unpadded(name), []) if is_number(name) else []
        if len(same) > 1:
            raise UserError(f"the class {name} could be {same[0]} or {same[1]}: give one of these names")
        if same:
            matches[name] = same[0]
    return matches


def is_number(name: str) -> bool:
    """Return whether a class's name is a whole number in ASCII digits."""
    return name.isascii() and name.isdigit()


def _unpadded(number: str) -> str:
    # Not int(), which refuses numbers of more than 4,300 digits.
    return number.lstrip("0") or "0"


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
