"""Grafana's JSON: panels, thresholds, variables and their layout, in the model of Grafana 11.6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Where no value is good or bad in itself; the panel's description says why.
NO_THRESHOLD: dict[float, str] = {}
LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
COLUMNS, STATS_A_LINE, GRAPHS_A_LINE = 24, 4, 3


def panel(kind: str, title: str, description: str, unit: str, queries: Mapping[str, str], **extra: Any) -> Json:
    """Return a panel without id and position; queries: PromQL by legend, whose {{label}} Grafana fills in.

    extra: further keys of the panel, `defaults` for those of its fields, `overrides` for single series.
    """
    targets = [
        {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(queries.items())
    ]
    defaults: Json = {"unit": unit, "min": 0} | extra.pop("defaults", {})
    field_config = {
        "defaults": {key: value for key, value in defaults.items() if value is not None},
        "overrides": extra.pop("overrides", []),
    }
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets,
        "fieldConfig": field_config, "options": {}, **extra,
    }  # fmt: skip


def thresholds(colors: Mapping[float, str], base: str = "green") -> Json:
    """Return Grafana's thresholds: the base colour below the first value, then the colour of each value reached.

    Without values the base is blue: green would say that all is well.
    """
    steps = [{"color": color, "value": value} for value, color in colors.items()]
    return {"mode": "absolute", "steps": [{"color": base if colors else "blue", "value": None}, *steps]}


def stat(
    title: str,
    description: str,
    unit: str,
    queries: Mapping[str, str],
    colors: Mapping[float, str],
    base: str = "green",
    **defaults: Any,
) -> Json:
    """Return a panel that shows the last value of each series in large type; colors: as in `thresholds`."""
    options = {
        "reduceOptions": LAST, "textMode": "value_and_name", "colorMode": "value", "graphMode": "area",
        "justifyMode": "auto", "orientation": "auto", "wideLayout": True, "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }  # fmt: skip
    defaults = {"thresholds": thresholds(colors, base)} | defaults
    return panel("stat", title, description, unit, queries, defaults=defaults, options=options)


def graph(
    title: str,
    description: str,
    unit: str,
    queries: Mapping[str, str],
    colors: Mapping[float, str],
    *,
    stacked: bool = False,
    log: bool = False,
    overrides: list[Json] | None = None,
    **defaults: Any,
) -> Json:
    """Return a panel of curves, or stacked areas, over time; thresholds are lines in it."""
    custom: Json = {"fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}} if stacked else {}
    if log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    if colors:
        custom["thresholdsStyle"] = {"mode": "line"}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"custom": custom, "thresholds": thresholds(colors)} | defaults
    return panel(
        "timeseries", title, description, unit, queries, defaults=defaults, overrides=overrides or [], options=options
    )


def band(upper: str, lower: str, color: str) -> list[Json]:
    """Return the overrides that fill the area between two series of a graph, named by their legends."""

    def override(name: str, **properties: Any) -> Json:
        shown = {"color": {"mode": "fixed", "fixedColor": color}, "custom.lineWidth": 0} | properties
        return {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": key, "value": value} for key, value in shown.items()],
        }

    return [override(upper, **{"custom.fillBelowTo": lower, "custom.fillOpacity": 25}), override(lower)]


def dashed(legend: str) -> Json:
    """Return the override that draws the series whose legend ends so as dashed lines."""
    style = {"fill": "dash", "dash": [10, 10]}
    return {
        "matcher": {"id": "byRegexp", "options": f"/{legend}$/"},
        "properties": [{"id": "custom.lineStyle", "value": style}],
    }


def heatmap(title: str, description: str, unit: str, buckets: str) -> Json:
    """Return a panel that shows how a histogram develops; buckets: PromQL of their increase, by le."""
    options = {
        "calculate": False, "cellGap": 1, "showValue": "never", "rowsFrame": {"layout": "auto"},
        "color": {"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential",
                  "exponent": 0.5, "steps": 64, "reverse": False},
        "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False}, "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False}, "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
    }  # fmt: skip
    defaults: Json = {"min": None, "thresholds": thresholds(NO_THRESHOLD)}
    made = panel("heatmap", title, description, unit, {"{{le}}": buckets}, defaults=defaults, options=options)
    made["targets"][0]["format"] = "heatmap"
    return made


def queried_variable(name: str, query: str, all_value: str | None = None) -> Json:
    """Return a dashboard variable whose choices are queried from Prometheus whenever the time range changes."""
    return {
        "type": "query", "name": name, "label": name, "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 3, "regex": "", "hide": 0,
        "multi": True, "includeAll": True, **({"allValue": all_value} if all_value else {}),
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
    }  # fmt: skip


def fixed_variable(name: str, label: str, choices: Mapping[str, str]) -> Json:
    """Return a dashboard variable with given choices, values by text; the first is chosen."""
    options = [
        {"selected": index == 0, "text": text, "value": value} for index, (text, value) in enumerate(choices.items())
    ]
    return {
        "type": "custom", "name": name, "label": label, "hide": 0, "multi": False, "includeAll": False,
        "query": ", ".join(f"{text} : {value}" for text, value in choices.items()), "options": options,
        "current": options[0],
    }  # fmt: skip


def datasource_variable() -> Json:
    """Return the variable that chooses the Prometheus."""
    return {
        "type": "datasource", "name": "datasource", "label": "data source", "query": "prometheus", "regex": "",
        "hide": 0, "multi": False, "includeAll": False, "refresh": 1, "options": [],
    }  # fmt: skip


def lines(panels: list[Json]) -> Iterator[list[Json]]:
    """Yield the panels of a row line by line, evenly filled; stats and graphs have lines of their own."""
    for small, group in groupby(panels, lambda content: bool(content["type"] == "stat")):
        members = list(group)
        count = -(-len(members) // (STATS_A_LINE if small else GRAPHS_A_LINE))
        ends = [round(len(members) * index / count) for index in range(count + 1)]
        yield from (members[first:end] for first, end in pairwise(ends))


def laid_out(rows: Mapping[str, list[Json]]) -> Iterator[Json]:
    """Yield the panels row by row with their ids and positions on Grafana's grid."""
    number, top = 1, 0
    for title, panels in rows.items():
        position = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        yield {"type": "row", "title": title, "id": number, "collapsed": False, "panels": [], "gridPos": position}
        number, top = number + 1, top + 1
        for line in lines(panels):
            width, height = COLUMNS // len(line), 4 if line[0]["type"] == "stat" else 8
            for index, content in enumerate(line):
                yield content | {"id": number, "gridPos": {"h": height, "w": width, "x": index * width, "y": top}}
                number += 1
            top += height
