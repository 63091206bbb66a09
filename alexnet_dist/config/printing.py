"""The resolved configuration as YAML: for the run directory, and for people with where each value came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from alexnet_dist.config import keys
from alexnet_dist.config.loading import DEFAULT, Resolved
from alexnet_dist.config.schema import Config
from alexnet_dist.config.sources import FLOAT, FLOAT_TAG


@dataclass(frozen=True)
class _Line:
    text: str
    keys: tuple[str, ...] = ()


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that only YAML 1.2 takes for a number, such as "1e-2"."""


_Dumper.add_implicit_resolver(FLOAT_TAG, FLOAT, None)


def to_yaml(config: Config) -> str:
    """Return a configuration as complete YAML, a layer a line; load gives an equal Config back."""
    return "".join(f"{line.text}\n" for line in _lines(config))


def print_config(resolved: Resolved) -> str:
    """Return the same YAML with a comment after each value that says where it came from."""
    lines = list(_lines(resolved.config))
    rows = [keys.row_of(line.keys[0]) is not None if line.keys else False for line in lines]
    width = {
        kind: max(len(line.text) for line, row in zip(lines, rows, strict=True) if row is kind)
        for kind in (True, False)
    }
    text = ""
    for line, row in zip(lines, rows, strict=True):
        comment = _origin(line.keys, resolved.origins) if line.keys else ""
        text += f"{line.text.ljust(width[row])}  # {comment}\n" if comment else f"{line.text}\n"
    return text


def _lines(config: Config) -> Iterator[_Line]:
    values = keys.flat(config)
    for section in Config.model_fields:
        yield _Line(f"{section}:")
        for name in keys.children(section):
            key = f"{section}.{name}"
            if key in values:
                yield _Line(f"  {name}: {_yaml(values[key])}", (key,))
            elif key == keys.LAYERS:
                yield _Line(f"  {name}:")
                yield from _table(values)
            else:
                yield _Line(f"  {name}: {{{', '.join(_cells(key, values))}}}", _below(key, values))


def _table(values: Mapping[str, object]) -> Iterator[_Line]:
    """Yield the rows of the layers with their fields in columns."""
    rows = list(dict.fromkeys(row for key in values if (row := keys.row_of(key))))
    cells = {row: [f"{cell}, " for cell in _cells(row, values)] for row in rows if row not in values}
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    label = max(len(row) for row in rows) - len(keys.LAYERS) + 1
    for row in rows:
        name = f"    {row[len(keys.LAYERS) + 1 :] + ':':<{label}}"
        if row in values:
            yield _Line(f"{name}null", (row,))
        else:
            text = "".join(cell.ljust(width) for cell, width in zip(cells[row], widths, strict=True))
            yield _Line(f"{name}{{{text.rstrip(', ')}}}", _below(row, values))


def _below(key: str, values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(name for name in values if name.startswith(f"{key}."))


def _cells(key: str, values: Mapping[str, object]) -> list[str]:
    return [f"{name.rpartition('.')[2]}: {_yaml(values[name])}" for name in _below(key, values)]


def _yaml(value: object) -> str:
    value = list(value) if isinstance(value, tuple) else value
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, default_style=style, width=1e9, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def _origin(names: Sequence[str], origins: Mapping[str, str]) -> str:
    """Return where a line's values came from: one place, or each place with its fields, the defaults last."""
    places: dict[str, list[str]] = {}
    for name in names:
        places.setdefault(origins[name], []).append(name.rpartition(".")[2])
    if len(places) == 1:
        return next(iter(places))
    rest = ["the rest default"] if places.pop(DEFAULT, None) else []
    return "; ".join([f"{', '.join(fields)}: {place}" for place, fields in places.items()] + rest)
