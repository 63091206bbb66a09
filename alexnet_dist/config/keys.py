"""The dotted keys of the configuration: their types and ranges, and suggestions for unknown keys."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from alexnet_dist.config.schema import CONFLICT, Config
from alexnet_dist.config.sections import RANGES, Event
from alexnet_dist.nn.geometry import NAME, PAPER_LAYERS, SPATIAL_NORM, Layer, Norm

LAYERS = "model.layers"
NORMS: Mapping[str, Norm] = types.MappingProxyType({"model.norm": Norm(), "model.spatial_norm": SPATIAL_NORM})
# Names that other trainers use for a key, if they are spelt too differently for a close match.
ALIASES = {
    "lr": "optim.learning_rate", "wd": "optim.weight_decay", "batch": "data.global_batch",
    "batch_size": "data.global_batch", "max_steps": "run.steps", "num_workers": "data.workers",
}  # fmt: skip
NOUNS: Mapping[type, tuple[str, str]] = {int: ("an integer", "integers"), float: ("a number", "numbers")}
COMPARISONS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclasses.dataclass(frozen=True)
class KeySpec:
    """The type of a key's value, and pydantic's constraints on it or, for a list, on each of its numbers."""

    annotation: Any
    limits: tuple[Any, ...] = ()


def _key_specs() -> Iterator[tuple[str, KeySpec]]:
    for section, info in Config.model_fields.items():
        assert isinstance(info.annotation, type)
        assert issubclass(info.annotation, BaseModel)
        for name, field in info.annotation.model_fields.items():
            key = f"{section}.{name}"
            if key in NORMS:
                yield from _block_specs(key, Norm)
            elif key == LAYERS:
                for layer in PAPER_LAYERS:
                    yield from _block_specs(f"{key}.{layer}", Layer)
            else:
                yield key, KeySpec(field.annotation, tuple(field.metadata))


def _block_specs(key: str, block: type[Layer] | type[Norm]) -> Iterator[tuple[str, KeySpec]]:
    for name, annotation in get_type_hints(block).items():
        limits = RANGES[block][name].metadata if name in RANGES[block] else ()
        yield f"{key}.{name}", KeySpec(annotation, tuple(limits))


KEY_SPECS: Mapping[str, KeySpec] = types.MappingProxyType(dict(_key_specs()))
SECTIONS = frozenset(key[:dot] for key in KEY_SPECS for dot, letter in enumerate(key) if letter == ".")


def layer_key(key: str) -> str | None:
    """Return the key of the layer that a key names or is below, such as model.layers.conv1; None for other keys."""
    parts = key.split(".")
    return ".".join(parts[:3]) if key.startswith(f"{LAYERS}.") and NAME.fullmatch(parts[2]) else None


def _table_key(key: str) -> str:
    """Return the key to look up in KEY_SPECS and SECTIONS: every layer, also a new one, has the fields of conv1."""
    layer = layer_key(key)
    return key if layer is None else f"{LAYERS}.conv1{key[len(layer) :]}"


def key_spec(key: str) -> KeySpec | None:
    """Return the specification of a key with a value, None for sections and unknown keys."""
    return KEY_SPECS.get(_table_key(key))


def is_section(key: str) -> bool:
    """Return whether a key has keys below it; the empty key is the root."""
    return not key or _table_key(key) in SECTIONS


def is_text(key: str) -> bool:
    """Return whether any text is a value of this key, such as a path."""
    spec = key_spec(key)
    return spec is not None and spec.annotation is str


def children(key: str) -> list[str]:
    """Return the names of the keys directly below a section."""
    prefix = f"{_table_key(key)}." if key else ""
    return list(dict.fromkeys(name[len(prefix) :].split(".")[0] for name in KEY_SPECS if name.startswith(prefix)))


def suggestion(key: str) -> str:
    """Return a suggestion for an unknown key: the known key it most likely means, or the keys of its section."""
    parent, _, name = key.rpartition(".")
    known = [other for other in (*KEY_SPECS, *SECTIONS) if not key.startswith(f"{other}.")]
    same_name = [other for other in known if other.rpartition(".")[2] == name]
    siblings = children(parent) if is_section(parent) else []
    matches = (
        difflib.get_close_matches(key, same_name, 1, 0.0)
        or [f"{parent}.{child}".lstrip(".") for child in difflib.get_close_matches(name, siblings, 1)]
        or difflib.get_close_matches(key, known, 1, 0.75)
    )
    if name in ALIASES or matches:
        return f"did you mean {ALIASES.get(name) or matches[0]!r}?"
    return f"{parent or 'the configuration'} has {', '.join(siblings)}" if siblings else "no known key is similar"


def tree(values: Mapping[str, object]) -> dict[str, Any]:
    """Return values by dotted key as the nested mapping for Config.model_validate, with layers as dataclasses.

    A layer's own key with None removes the paper's layer of that name, with {} adds a layer. Fields that are not given
    are the paper's, or for a new layer the defaults of `Layer`.
    """
    layers: dict[str, dict[str, Any]] = {f"{LAYERS}.{name}": _fields(layer) for name, layer in PAPER_LAYERS.items()}
    nested: dict[str, Any] = {"model": {}}
    for key, value in values.items():
        layer = layer_key(key)
        if layer is None:
            *parents, name = key.split(".")
            inner = nested
            for part in parents:
                inner = inner.setdefault(part, {})
            inner[name] = value
        elif value is None and key == layer:
            layers.pop(layer, None)
        else:
            layers.setdefault(layer, {}).update({} if key == layer else {key[len(layer) + 1 :]: value})
    model = nested["model"]
    for name, default in ((key.rpartition(".")[2], norm) for key, norm in NORMS.items()):
        model[name] = Norm(**_fields(default) | model.get(name, {}))
    nested["model"]["layers"] = {layer[len(LAYERS) + 1 :]: Layer(**fields) for layer, fields in layers.items()}
    return nested


def _fields(block: Layer | Norm) -> dict[str, Any]:
    return {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}


def _net_order(layer: str) -> tuple[bool, int]:
    """Return a sort key that orders layer names as the net runs: convolutions by number, then fully connected ones."""
    return layer.startswith("fc"), int(layer.lstrip("convf"))


def flat(config: Config) -> dict[str, object]:
    """Return the values of a configuration by dotted key, in the schema's order; None for a removed paper layer."""
    values: dict[str, object] = {}
    for section in Config.model_fields:
        for name, value in getattr(config, section):
            key = f"{section}.{name}"
            if isinstance(value, Norm):
                values |= {f"{key}.{field}": item for field, item in _fields(value).items()}
            elif key == LAYERS:
                for layer in sorted({*PAPER_LAYERS, *value}, key=_net_order):
                    fields = _fields(value[layer]) if layer in value else {}
                    values |= {f"{key}.{layer}.{field}": item for field, item in fields.items()} or {
                        f"{key}.{layer}": None
                    }
            elif isinstance(value, Mapping):
                values[key] = dict(value)
            elif value and isinstance(value, tuple) and isinstance(value[0], Event):
                values[key] = tuple(event.changes() for event in value)
            else:
                values[key] = value
    return values


def fits(key: str, value: object) -> bool:
    """Return whether a value has the type and range of its key, regardless of other keys."""
    try:
        Config.model_validate(tree({key: value}))
    except ValidationError as error:
        return all(details["type"] == CONFLICT for details in error.errors())
    return True


def expected(key: str) -> str:
    """Return a phrase for the type and range of a key's value, such as "an integer of at least 1, or null"."""
    spec = key_spec(key)
    assert spec is not None
    return _phrase(spec.annotation, spec.limits)


def _phrase(annotation: Any, limits: tuple[Any, ...], plural: bool = False) -> str:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        inner = [
            limit for item in arguments[1:] for limit in (item.metadata if isinstance(item, FieldInfo) else [item])
        ]
        return _phrase(arguments[0], (*limits, *inner), plural)
    if kind in (Union, types.UnionType):
        return ", or ".join(_phrase(argument, limits) for argument in arguments)
    if kind is Literal:
        return " or ".join(map(str, arguments))
    if kind is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_phrase(arguments[0], limits, plural=True)}"
    if kind is Mapping:
        return f"a mapping of names to {_phrase(arguments[1], limits, plural=True)}"
    if annotation is Event:
        fields = [
            f"{name} ({_phrase(info.annotation, (*info.metadata,))})" for name, info in Event.model_fields.items()
        ]
        return f"mappings with {', '.join(fields)}"
    if annotation in NOUNS:
        bounds = (
            f"{text} {getattr(limit, op)}" for limit in limits for op, text in COMPARISONS.items() if hasattr(limit, op)
        )
        return " ".join([NOUNS[annotation][plural], " and ".join(bounds)]).strip()
    return {bool: "true or false", str: "text (not empty; a number in quotes)", type(None): "null"}[annotation]


def format_value(value: object) -> str:
    """Return a value formatted for a message: shortened, text in quotes, null and booleans as in YAML."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 60
    return shortened.repr(list(value) if isinstance(value, tuple) else value)
