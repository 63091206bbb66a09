"""Formatting of a configuration as YAML, for the run directory, and with the origin of each value, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import yaml

from alexnet_dist.config import keys
from alexnet_dist.config.loading import DEFAULT, LoadedConfig
from alexnet_dist.config.schema import Config
from alexnet_dist.config.sources import FLOAT, FLOAT_TAG


@dataclass(frozen=True)
class _Line:
    text: str
    keys: tuple[str, ...] = ()


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that is a number only in YAML 1.2, such as "1e-2"."""


_Dumper.add_implicit_resolver(FLOAT_TAG, FLOAT, None)


def to_yaml(config: Config) -> str:
    """Return a complete configuration as YAML, one line per layer; `load` parses it to an equal Config."""
    return "".join(f"{line.text}\n" for line in _lines(config))


def print_config(loaded: LoadedConfig) -> str:
    """Return the same YAML with the origin of each value in a comment after it."""
    lines = list(_lines(loaded.config))
    in_table = [keys.layer_key(line.keys[0]) is not None if line.keys else False for line in lines]
    width = {
        kind: max(len(line.text) for line, is_layer in zip(lines, in_table, strict=True) if is_layer is kind)
        for kind in (True, False)
    }
    text = ""
    for line, is_layer in zip(lines, in_table, strict=True):
        comment = _origin(line.keys, loaded.origins) if line.keys else ""
        text += f"{line.text.ljust(width[is_layer])}  # {comment}\n" if comment else f"{line.text}\n"
    return text


def _lines(config: Config) -> Iterator[_Line]:
    values = keys.flat(config)
    for section in Config.model_fields:
        yield _Line(f"{section}:")
        for name in keys.children(section):
            key = f"{section}.{name}"
            if key == "run.events" and values[key]:
                yield _Line(f"  {name}:", (key,))
                yield from (_Line(f"    - {_yaml(event)}") for event in cast("tuple[object, ...]", values[key]))
            elif key in values:
                yield _Line(f"  {name}: {_yaml(values[key])}", (key,))
            elif key == keys.LAYERS:
                yield _Line(f"  {name}:")
                yield from _table(values)
            else:
                yield _Line(f"  {name}: {{{', '.join(_cells(key, values))}}}", _below(key, values))


def _table(values: Mapping[str, object]) -> Iterator[_Line]:
    """Yield one line per layer, with the fields aligned in columns."""
    layers = list(dict.fromkeys(layer for key in values if (layer := keys.layer_key(key))))
    cells = {layer: [f"{cell}, " for cell in _cells(layer, values)] for layer in layers if layer not in values}
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    label_width = max(len(layer) for layer in layers) - len(keys.LAYERS) + 1
    for layer in layers:
        label = f"    {layer[len(keys.LAYERS) + 1 :] + ':':<{label_width}}"
        if layer in values:
            yield _Line(f"{label}null", (layer,))
        else:
            text = "".join(cell.ljust(width) for cell, width in zip(cells[layer], widths, strict=True))
            yield _Line(f"{label}{{{text.rstrip(', ')}}}", _below(layer, values))


def _below(key: str, values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(name for name in values if name.startswith(f"{key}."))


def _cells(key: str, values: Mapping[str, object]) -> list[str]:
    return [f"{name.rpartition('.')[2]}: {_yaml(values[name])}" for name in _below(key, values)]


def _yaml(value: object) -> str:
    value = list(value) if isinstance(value, tuple) else value
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        default_style=style,
        width=1e9,
        allow_unicode=True,
        sort_keys=False,
    )
    return text.removesuffix("...\n").rstrip("\n")


def _origin(names: Sequence[str], origins: Mapping[str, str]) -> str:
    """Return the origin of a line's values: the only one, or each with its fields, the defaults last."""
    fields_by_origin: dict[str, list[str]] = {}
    for name in names:
        fields_by_origin.setdefault(origins[name], []).append(name.rpartition(".")[2])
    if len(fields_by_origin) == 1:
        return next(iter(fields_by_origin))
    rest = ["the rest default"] if fields_by_origin.pop(DEFAULT, None) else []
    return "; ".join([f"{', '.join(fields)}: {origin}" for origin, fields in fields_by_origin.items()] + rest)
