"""How the name of a shard's member divides into the key of its sample and a field.

WebDataset's convention is that the key ends at the first dot: ``s0.input.jpg`` is the field input.jpg of the sample s0.
Keys that contain dots, as in ``n.0001.v2.jpg``, need another reading.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from alexnet_dist.pack.sources.fields import SampleFields


@dataclass(frozen=True)
class KeyReading:
    """Which key the base name of an image and of a label has; None for the key of the other one that it begins with."""

    description: str
    image_key: Callable[[str], str] | None
    label_key: Callable[[str], str] | None


def first_dot_key(name: str) -> str:
    """Return a name up to its first dot."""
    return name.partition(".")[0]


def last_dot_key(name: str) -> str:
    """Return a name without its last extension."""
    return name.rpartition(".")[0] or name


FIRST_DOT = KeyReading("the key ends at the first dot", first_dot_key, first_dot_key)
LAST_DOT = KeyReading("the key ends at the last dot", last_dot_key, last_dot_key)


def given_fields(fields: SampleFields) -> KeyReading:
    """Return the reading in which the fields that the user gave end the names."""
    images, label = fields.image_members, fields.label_member
    return KeyReading(
        "the fields are as given",
        _without_fields(images) if images else None,
        _without_fields((label,)) if label is not None else None,
    )


def common_fields(images: CommonEnd, labels: CommonEnd) -> KeyReading | None:
    """Return the reading with the longest fields that all images and all labels share; None if it is LAST_DOT."""
    if not images.end and not labels.end:
        return None
    return KeyReading(
        f"the fields are {'.'.join(['*', *images.end, 'EXTENSION'])} and {'.'.join(['*', *labels.end, 'cls'])}",
        _without_end("".join(f".{part}" for part in images.end)),
        _without_end("".join(f".{part}" for part in labels.end)),
    )


class CommonEnd:
    """The longest end that all names added to it share, in whole parts between dots, before their last extension."""

    def __init__(self) -> None:
        self.end: tuple[str, ...] = ()
        self._any = False

    def add(self, name: str) -> None:
        """Add a name; its first part always belongs to the key."""
        parts = tuple(last_dot_key(name).split(".")[1:])
        if not self._any:
            self.end, self._any = parts, True
        while self.end and parts[-len(self.end) :] != self.end:
            self.end = self.end[1:]


def beginnings(name: str) -> list[str]:
    """Return what a member may be a field of: its name up to each of the dots in its base name, longest first."""
    first, end, keys = name.rfind("/") + 2, len(name), list[str]()
    while (end := name.rfind(".", first, end)) > 0:
        keys.append(name[:end])
    return keys


def longest_key(name: str, keys: Collection[str]) -> str:
    """Return the longest of `keys` that a name is a field of; if there is none, the name up to its first dot."""
    of_name = beginnings(name) or [name]
    return next((key for key in of_name if key in keys), of_name[-1])


def _without_fields(fields: tuple[str, ...]) -> Callable[[str], str]:
    longest_first = sorted(fields, key=len, reverse=True)

    def key(name: str) -> str:
        field = next(field for field in longest_first if name.lower().endswith(f".{field}"))
        return name[: -len(field) - 1]

    return key


def _without_end(end: str) -> Callable[[str], str]:
    return lambda name: last_dot_key(name).removesuffix(end)
