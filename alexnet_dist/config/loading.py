"""Merging of files and key=value arguments into a validated configuration, or a report of all their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from alexnet_dist.config import keys
from alexnet_dist.config.schema import CONFLICT, Config, Conflict
from alexnet_dist.config.sources import Diagnostic, Setting, read_file, read_override
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import PAPER_LAYERS

DEFAULT = "default"


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and the origin of each value by dotted key: default, configs/x.yaml:7 or command line.

    A removed layer of the paper's net has one origin, under the layer's key, such as model.layers.conv4.
    """

    config: Config
    origins: Mapping[str, str]


def load(files: Sequence[Path], overrides: Sequence[str]) -> LoadedConfig:
    """Return the paper's configuration changed by YAML files, left to right, then by key=value arguments.

    A file is a path or the name of a configuration (see `named`). A mapping changes the keys it names. The entry of a
    layer changes fields of the paper's layer of that name; null removes the layer until a later source names it again.
    Raises UserError with all errors of all sources, one per line.
    """
    parsed = [item for path in files for item in read_file(path)]
    parsed += [item for argument in overrides for item in read_override(argument)]
    settings = [item for item in parsed if isinstance(item, Setting)]
    diagnostics = [item for item in parsed if isinstance(item, Diagnostic)]
    diagnostics += _unknown_removals(settings)
    merged = _merge(settings)
    try:
        config = Config.model_validate(keys.tree({key: setting.value for key, setting in merged.items()}))
    except ValidationError as error:
        diagnostics += _conflicts(error, settings, diagnostics)
    if diagnostics:
        heading = f"{len(diagnostics)} problems in the configuration:\n" if len(diagnostics) > 1 else ""
        raise UserError(heading + "\n".join(str(diagnostic) for diagnostic in diagnostics))
    origins = {key: merged[key].origin if key in merged else DEFAULT for key in keys.flat(config)}
    return LoadedConfig(config, origins)


def _merge(settings: Iterable[Setting]) -> dict[str, Setting]:
    """Return the last setting of each key; removing a layer discards the earlier settings of its fields."""
    merged: dict[str, Setting] = {}
    for setting in settings:
        layer = keys.layer_key(setting.key)
        if layer is not None and setting.value is None and setting.key == layer:
            merged = {key: kept for key, kept in merged.items() if keys.layer_key(key) != layer}
        elif layer is not None and layer in merged and merged[layer].value is None:
            del merged[layer]
        merged[setting.key] = setting
    return merged


def _unknown_removals(settings: Iterable[Setting]) -> Iterator[Diagnostic]:
    """Yield an error for each null that removes a layer which no earlier source and not the paper defines."""
    known = {f"{keys.LAYERS}.{name}" for name in PAPER_LAYERS}
    for setting in settings:
        layer = keys.layer_key(setting.key)
        if layer is not None and layer not in known and setting.value is None and setting.key == layer:
            yield Diagnostic(setting.origin, f"{layer} = null: there is no such layer to remove", layer)
        elif layer is not None:
            known.add(layer)


def _conflicts(
    error: ValidationError, settings: Sequence[Setting], diagnostics: Sequence[Diagnostic]
) -> Iterator[Diagnostic]:
    """Yield the conflicts between values, except those that an error in one of their sections may have caused."""
    faulty_sections = {diagnostic.key.partition(".")[0] for diagnostic in diagnostics}
    for details in error.errors():
        # keys.fits has checked each value against its key, so only conflicts remain.
        assert details["type"] == CONFLICT, details
        for conflict in details["ctx"]["conflicts"]:
            if not faulty_sections & {"", *(key.partition(".")[0] for key in conflict.keys)}:
                yield Diagnostic(_origin(conflict, settings), conflict.text, conflict.keys[0])


def _origin(conflict: Conflict, settings: Sequence[Setting]) -> str:
    """Return the origin of the last setting of the first of the conflict's keys that a source sets."""
    for key in conflict.keys:
        for setting in reversed(settings):
            if setting.key == key or setting.key.startswith(f"{key}."):
                return setting.origin
    return DEFAULT
