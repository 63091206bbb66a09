"""The dotted keys of the configuration: which there are, what each may hold, and the nearest to a mistyped one."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from alexnet_dist.config.schema import CONTRADICTION, RANGES, Config
from alexnet_dist.nn.geometry import NAME, PAPER_LAYERS, Layer, Norm

LAYERS = "model.layers"
# What other trainers call a key, where no likeness of letters leads to ours.
ELSEWHERE = {
    "lr": "optim.learning_rate", "wd": "optim.weight_decay", "batch": "data.global_batch",
    "batch_size": "data.global_batch", "max_steps": "run.steps", "num_workers": "data.workers",
}  # fmt: skip
NOUNS: Mapping[type, tuple[str, str]] = {int: ("an integer", "integers"), float: ("a number", "numbers")}
WORDS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a key with a value may hold: its type, and pydantic's constraints on it or on each of its numbers."""

    annotation: Any
    limits: tuple[Any, ...] = ()


def _leaves() -> Iterator[tuple[str, Leaf]]:
    for section, info in Config.model_fields.items():
        assert isinstance(info.annotation, type)
        assert issubclass(info.annotation, BaseModel)
        for name, field in info.annotation.model_fields.items():
            key = f"{section}.{name}"
            if key == "model.norm":
                yield from _row_leaves(key, Norm)
            elif key == LAYERS:
                for layer in PAPER_LAYERS:
                    yield from _row_leaves(f"{key}.{layer}", Layer)
            else:
                yield key, Leaf(field.annotation, tuple(field.metadata))


def _row_leaves(key: str, row: type[Layer] | type[Norm]) -> Iterator[tuple[str, Leaf]]:
    for name, annotation in get_type_hints(row).items():
        limits = RANGES[row][name].metadata if name in RANGES[row] else ()
        yield f"{key}.{name}", Leaf(annotation, tuple(limits))


LEAVES: Mapping[str, Leaf] = types.MappingProxyType(dict(_leaves()))
SECTIONS = frozenset(key[:dot] for key in LEAVES for dot, letter in enumerate(key) if letter == ".")


def row_of(key: str) -> str | None:
    """Return the key of the layer's row that a key is or lies in, such as model.layers.conv1; None elsewhere."""
    parts = key.split(".")
    return ".".join(parts[:3]) if key.startswith(f"{LAYERS}.") and NAME.fullmatch(parts[2]) else None


def _known(key: str) -> str:
    """Return the key under which the tables hold what a key may hold: every layer has the fields of conv1."""
    row = row_of(key)
    return key if row is None else f"{LAYERS}.conv1{key[len(row) :]}"


def leaf(key: str) -> Leaf | None:
    """Return what a key may hold, or None if it is not a key with a value."""
    return LEAVES.get(_known(key))


def is_section(key: str) -> bool:
    """Return whether other keys lie below a key; the empty key is above all."""
    return not key or _known(key) in SECTIONS


def children(key: str) -> list[str]:
    """Return the names of the keys directly below a section."""
    prefix = f"{_known(key)}." if key else ""
    return list(dict.fromkeys(name[len(prefix) :].split(".")[0] for name in LEAVES if name.startswith(prefix)))


def hint(key: str) -> str:
    """Return what helps against an unknown key: the known one it most likely means, or those of its section."""
    above, _, name = key.rpartition(".")
    known = [other for other in (*LEAVES, *SECTIONS) if not key.startswith(f"{other}.")]
    same_name = [other for other in known if other.rpartition(".")[2] == name]
    siblings = children(above) if is_section(above) else []
    meant = (
        difflib.get_close_matches(key, same_name, 1, 0.0)
        or [f"{above}.{child}".lstrip(".") for child in difflib.get_close_matches(name, siblings, 1)]
        or difflib.get_close_matches(key, known, 1, 0.75)
    )
    if name in ELSEWHERE or meant:
        return f"did you mean {ELSEWHERE.get(name) or meant[0]!r}?"
    return f"{above or 'the configuration'} has {', '.join(siblings)}" if siblings else "no key is near"


def tree(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the nested mapping for Config.model_validate of values by dotted key, its rows as dataclasses.

    A row's own key with None removes the paper's layer of that name, with {} adds one. A row's other fields are the
    paper's, or of a new layer the default.
    """
    rows: dict[str, dict[str, Any]] = {f"{LAYERS}.{name}": _fields(row) for name, row in PAPER_LAYERS.items()}
    nested: dict[str, Any] = {"model": {"norm": {}}}
    for key, value in values.items():
        row = row_of(key)
        if row is None:
            *above, name = key.split(".")
            inner = nested
            for part in above:
                inner = inner.setdefault(part, {})
            inner[name] = value
        elif value is None and key == row:
            rows.pop(row, None)
        else:
            rows.setdefault(row, {}).update({} if key == row else {key[len(row) + 1 :]: value})
    nested["model"]["norm"] = Norm(**nested["model"]["norm"])
    nested["model"]["layers"] = {row[len(LAYERS) + 1 :]: Layer(**fields) for row, fields in rows.items()}
    return nested


def _fields(row: Layer | Norm) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def position(layer: str) -> tuple[bool, int]:
    """Return what sorts the names of layers as the net runs: convolutions by number, then fully connected ones."""
    return layer.startswith("fc"), int(layer.lstrip("convf"))


def flat(config: Config) -> dict[str, object]:
    """Return a configuration's values by dotted key, in the schema's order; None for a removed layer of the paper."""
    values: dict[str, object] = {}
    for section in Config.model_fields:
        for name, value in getattr(config, section):
            key = f"{section}.{name}"
            if isinstance(value, Norm):
                values |= {f"{key}.{field}": item for field, item in _fields(value).items()}
            elif isinstance(value, Mapping):
                for layer in sorted({*PAPER_LAYERS, *value}, key=position):
                    row = _fields(value[layer]) if layer in value else {}
                    values |= {f"{key}.{layer}.{field}": item for field, item in row.items()} or {
                        f"{key}.{layer}": None
                    }
            else:
                values[key] = value
    return values


def fits(key: str, value: object) -> bool:
    """Return whether a key may hold a value, whatever the other keys hold."""
    try:
        Config.model_validate(tree({key: value}))
    except ValidationError as error:
        return all(problem["type"] == CONTRADICTION for problem in error.errors())
    return True


def expected(key: str) -> str:
    """Return in words what a key with a value may hold, such as "an integer of at least 1 or null"."""
    held = leaf(key)
    assert held is not None
    return _words(held.annotation, held.limits)


def _words(annotation: Any, limits: tuple[Any, ...], plural: bool = False) -> str:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        inner = [
            limit for item in arguments[1:] for limit in (item.metadata if isinstance(item, FieldInfo) else [item])
        ]
        return _words(arguments[0], (*limits, *inner), plural)
    if kind in (Union, types.UnionType):
        return ", or ".join(_words(argument, limits) for argument in arguments)
    if kind is Literal:
        return " or ".join(arguments)
    if kind is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_words(arguments[0], limits, plural=True)}"
    if annotation in NOUNS:
        words = (f"{WORDS[at]} {getattr(limit, at)}" for limit in limits for at in WORDS if hasattr(limit, at))
        return " ".join([NOUNS[annotation][plural], " and ".join(words)]).strip()
    return {bool: "true or false", str: "text (not empty; a number in quotes)", type(None): "null"}[annotation]


def show(value: object) -> str:
    """Return a value as a message shows it: short, text in quotes, the rest as in YAML."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 60
    return shortened.repr(list(value) if isinstance(value, tuple) else value)
