"""Where a dashboard departs from Grafana's published schema, in the form of the classes of its foundation SDK.

The SDK's own from_json drops unknown keys and checks no types, so its classes are only read here: which keys each
object may and must have, and of which types they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grafana_foundation_sdk.models import common, heatmap, prometheus, stat, timeseries, units
from grafana_foundation_sdk.models.dashboard import Dashboard, FieldConfig, Panel, RowPanel

# Of each kind of panel that we have: its options, and the options of its fields. The schema leaves both open in Panel.
KINDS: dict[str, tuple[Any, Any]] = {
    "timeseries": (timeseries.Options, common.GraphFieldConfig),
    "stat": (stat.Options, None),
    "heatmap": (heatmap.Options, heatmap.FieldConfig),
}
UNITS = {value for value in vars(units).values() if isinstance(value, str)}


@cache
def fields(model: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of an object's values by JSON key, and the keys that it must have."""
    shapes = get_type_hints(model)
    marks = {name: object() for name in shapes}
    filled, empty = model.__new__(model), model.__new__(model)
    vars(filled).update(marks)
    vars(empty).update(dict.fromkeys(shapes))
    attributes = {mark: name for name, mark in marks.items()}
    types = {key: shapes[attributes[mark]] for key, mark in filled.to_json().items()}
    return types, frozenset(empty.to_json())


def departures(value: object, shape: Any, where: str) -> Iterator[str]:
    """Yield what is wrong with a value that should have a type: a class of the SDK, or a type of its annotations."""
    origin, inner = get_origin(shape), get_args(shape)
    if origin is Union:
        found = [list(departures(value, one, where)) for one in inner if one is not NoneType or value is None]
        # Of several alternatives, what is wrong with the one that fits best.
        yield from min(found, key=len)
    elif origin is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from departures(item, inner[0], f"{where}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from departures(item, inner[1], f"{where}.{key}")
    elif origin is Literal or (isinstance(shape, type) and issubclass(shape, Enum)):
        allowed = inner or [member.value for member in shape]
        if value not in allowed:
            yield f"{where}: {value!r} is none of {', '.join(map(str, allowed))}"
    elif hasattr(shape, "to_json") and isinstance(value, dict):
        yield from object_departures(value, shape, where)
    elif not _is_of_plain_type(value, shape):
        yield f"{where}: {value!r} is no {getattr(shape, '__name__', shape)}"


def _is_of_plain_type(value: object, shape: Any) -> bool:
    if shape is NoneType:
        return value is None
    if isinstance(value, bool):
        return shape in (bool, object)
    return isinstance(shape, type) and isinstance(value, (int, float) if shape is float else shape)


def object_departures(value: dict[str, Any], model: Any, where: str, **open_keys: Any) -> Iterator[str]:
    """Yield what is wrong with an object; open_keys: the classes of keys whose type the schema leaves open."""
    types, required = fields(model)
    for key in sorted(required - value.keys()):
        yield f"{where}: no {key}"
    for key, item in value.items():
        if key not in types:
            yield f"{where}: unknown key {key}"
        else:
            yield from departures(item, open_keys.get(key, types[key]), f"{where}.{key}")


def panel_departures(panel: dict[str, Any], where: str) -> Iterator[str]:
    """Yield what is wrong with a panel of one of KINDS."""
    kind = panel.get("type", "")
    if kind not in KINDS:
        yield f"{where}: unknown type {kind!r}"
        return
    options, custom = KINDS[kind]
    yield from object_departures(panel, Panel, where, options=options, targets=list[prometheus.Dataquery])
    config = panel.get("fieldConfig", {"defaults": {}, "overrides": []})  # then it has no unit, which is reported
    yield from object_departures(config["defaults"], FieldConfig, f"{where}.defaults", custom=custom or NoneType)
    if (unit := config["defaults"].get("unit", "")) not in UNITS and not unit.startswith("suffix:"):
        yield f"{where}: unknown unit {unit!r}"
    known = {*fields(FieldConfig)[0], *(f"custom.{key}" for key in (fields(custom)[0] if custom else {}))}
    for override in config["overrides"]:
        for changed in override["properties"]:
            if changed["id"] not in known:
                yield f"{where}: an override sets {changed['id']}, which is unknown"


def schema_departures(dashboard: dict[str, Any]) -> list[str]:
    """Return where a dashboard departs from the schema; empty if it is valid."""
    found = list(departures({**dashboard, "panels": []}, Dashboard, "dashboard"))
    for panel in dashboard["panels"]:
        where = str(panel.get("title"))
        if panel.get("type") == "row":
            found += object_departures(panel, RowPanel, where)
        else:
            found += panel_departures(panel, where)
    return found
