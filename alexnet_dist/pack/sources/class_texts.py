"""The classes that the texts of labels stand for, in lists and in shards.

A text is a class's name. Only where no name fits, and no class has a number for a name, are numbers read as indices of
the packed training split's classes; a note says so. A text with two readings is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.classes import is_number, matching_classes, sorted_classes

UNLABELLED = "-1"  # the label of every image in the test splits of many sets
LONGEST_INDEX = 9  # digits


class ReadTexts(NamedTuple):
    """The classes in the order of their labels, the class that each text stands for, and notes for the user."""

    classes: tuple[str, ...]
    class_of: dict[str, str]
    notes: tuple[str, ...] = ()


def read_texts(texts: Mapping[str, str], train_classes: tuple[str, ...] | None, source: str) -> ReadTexts:
    """Return the class of each text of a label.

    texts: where each text occurs first. train_classes: of the packed training split; None if it is not packed, and the
    texts are the names of the classes. source: in messages. Raises UserError for a text without a class or with two.
    """
    if set(texts) == {UNLABELLED}:
        raise UserError(f"{texts[UNLABELLED]}: every label is -1: a split without labels cannot be packed")
    classes = train_classes or sorted_classes(texts.keys())
    try:
        matches = matching_classes(texts, classes)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    unknown = {text: where for text, where in texts.items() if text not in matches}
    if not unknown:
        return ReadTexts(classes, matches)
    indices = {text: int(text) for text in unknown if _is_index(text, len(classes))}
    numeric_classes = any(map(is_number, classes))
    if len(indices) < len(unknown):
        # Name a text that has no reading at all rather than one that has two.
        text = next(text for text in unknown if text not in indices)
        numbers = all(map(is_number, texts)) and not numeric_classes
        raise UserError(_no_class(text, unknown[text], classes, numbers))
    first = next(iter(indices))
    if matches or numeric_classes:
        raise UserError(_name_or_index(first, unknown[first], classes, matches))
    present = set(indices.values())
    if present == set(range(1, len(classes))):
        raise UserError(_from_0_or_1(first, unknown[first], classes))
    return ReadTexts(
        classes, {text: classes[index] for text, index in indices.items()}, _note(source, classes, present)
    )


def _is_index(text: str, classes: int) -> bool:
    return is_number(text) and len(text) <= LONGEST_INDEX and int(text) < classes


def _no_class(text: str, where: str, classes: tuple[str, ...], numbers: bool) -> str:
    known = f"it has {len(classes)} classes, {_ends(classes)}"
    advice = f"; labels that are their indices would be 0 to {len(classes) - 1}" if numbers else ""
    return f"{where}: no class of the train split is called {text!r}: {known}{advice}"


def _name_or_index(text: str, where: str, classes: tuple[str, ...], matches: Mapping[str, str]) -> str:
    named = f"the label {next(iter(matches))} is a name" if matches else f"the classes are called {_ends(classes)}"
    return (
        f"{where}: the label {text} could be an index, of class {classes[int(text)]}; or a name, as {named}, but no "
        f"class of the packed train split is called {text}. Write the names of the train split's classes instead"
    )


def _from_0_or_1(text: str, where: str, classes: tuple[str, ...]) -> str:
    index = int(text)
    return (
        f"{where}: the labels are 1 to {len(classes) - 1}, and the packed train split has {len(classes)} classes: the "
        f"label {text} could be class {classes[index]}, counted from 0, or {classes[index - 1]}, counted from 1. Write "
        "the names of the train split's classes instead"
    )


def _note(source: str, classes: tuple[str, ...], present: set[int]) -> tuple[str]:
    first, last = min(present), max(present)
    absent = "" if first == 0 else "; no label is 0, so check that they do not count from 1"
    return (
        f"{source}: no label is the name of a class of the packed train split, so the labels are read as indices of "
        f"its classes: {first} is {classes[first]}, {last} is {classes[last]}{absent}",
    )


def _ends(classes: tuple[str, ...]) -> str:
    return classes[0] if len(classes) == 1 else f"{classes[0]} to {classes[-1]}"
