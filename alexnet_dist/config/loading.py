"""Merging of files and key=value arguments into a validated configuration, or a report of all their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from alexnet_dist.config import keys
from alexnet_dist.config.schema import CONFLICT, Config, Conflict
from alexnet_dist.config.sources import COMMAND_LINE, Diagnostic, Setting, read_file, read_override
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
        config = _validated(merged)
    except ValidationError as error:
        diagnostics += _conflicts(error, settings, diagnostics)
    if diagnostics:
        heading = f"{len(diagnostics)} problems in the configuration:\n" if len(diagnostics) > 1 else ""
        raise UserError(heading + "\n".join(str(diagnostic) for diagnostic in diagnostics))
    origins = {key: merged[key].origin if key in merged else DEFAULT for key in keys.flat(config)}
    return LoadedConfig(config, origins)


def _validated(merged: Mapping[str, Setting]) -> Config:
    """Return the configuration of merged settings; pydantic.ValidationError for conflicts."""
    return Config.model_validate(keys.tree({key: setting.value for key, setting in merged.items()}))


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
    faulty_keys = [diagnostic.key for diagnostic in diagnostics]
    # A misspelt section may stand for any: an empty name.
    faulty_sections = {key.partition(".")[0] if keys.is_section(key.partition(".")[0]) else "" for key in faulty_keys}
    for conflict in _conflicts_of(error):
        if not faulty_sections & {"", *(key.partition(".")[0] for key in conflict.keys)}:
            yield _located(conflict, settings)


def _conflicts_of(error: ValidationError) -> Iterator[Conflict]:
    for details in error.errors():
        # keys.fits has checked each value against its key, so only conflicts remain.
        assert details["type"] == CONFLICT, details
        yield from details["ctx"]["conflicts"]


def _located(conflict: Conflict, settings: Sequence[Setting]) -> Diagnostic:
    """Return a conflict with its origin: the command line, unless the files alone have the same conflict."""
    key, text = conflict.keys[0], conflict.text
    culprit = _command_line_culprit(conflict, settings)
    if culprit is None:
        return Diagnostic(_origin(conflict, settings), text, key)
    if culprit.key != key and not key.startswith(f"{culprit.key}."):
        layer = keys.layer_key(culprit.key)
        is_new = layer is not None and layer.removeprefix(f"{keys.LAYERS}.") not in PAPER_LAYERS
        with_it = "with this layer, which the paper's net does not have" if is_new else "with it"
        text = f"{culprit.key} = {keys.format_value(culprit.value)}: {with_it}, {text}"
    return Diagnostic(culprit.origin, text, key)


def _command_line_culprit(conflict: Conflict, settings: Sequence[Setting]) -> Setting | None:
    """Return the last setting of the command line without which there is no such conflict, or None."""
    remaining = list(settings)
    while remaining and remaining[-1].origin == COMMAND_LINE:
        last = remaining.pop()
        try:
            _validated(_merge(remaining))
        except ValidationError as error:
            if conflict.text in [other.text for other in _conflicts_of(error)]:
                continue
        return last
    return None


def _origin(conflict: Conflict, settings: Sequence[Setting]) -> str:
    """Return the origin of the last setting of the first of the conflict's keys that a source sets."""
    for key in conflict.keys:
        for setting in reversed(settings):
            if setting.key == key or setting.key.startswith(f"{key}."):
                return setting.origin
    return DEFAULT
