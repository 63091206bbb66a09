"""Write dashboard.json, the Grafana dashboard of a run, beside this file.

python launch/monitoring/dashboard.py

The dashboard is generated so that its queries can be read, reviewed and tested; Grafana imports the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_dist.errors import run_command

Json = dict[str, Any]

OUTPUT = Path(__file__).with_name("dashboard.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WINDOW = "[$__rate_interval]"
RUN = '{job=~"$job", run=~"$run"}'
CHOSEN = ("node", "replica", "tower", "rank")
RANKS = RUN.replace("}", "".join(f', {name}=~"${name}"' for name in CHOSEN) + "}")
RANK, WAITS = "run, node, replica, tower, rank", "data_wait|link_wait|allreduce_wait"
LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
NAMED_VALUE = {"reduceOptions": LAST, "textMode": "value_and_name"}
# The filter of each variable's choices: by the variables chosen before it.
CHOICES = {"job": "", "run": '{job=~"$job"}'}
CHOICES |= {name: RANKS.partition(f", {name}=")[0] + "}" for name in CHOSEN}


def series(name: str, ranks: str = RANKS) -> str:
    """Return the PromQL selector of one of our metrics, for the runs and ranks chosen on the dashboard."""
    return f"alexnet_train_{name}{ranks}"


def rate(name: str) -> str:
    """Return the PromQL rate of a counter, per second."""
    return f"rate({series(name)}{WINDOW})"


def phase_rate(phase: str) -> str:
    """Return the PromQL rate of the time in one phase, in seconds per second, for the chosen ranks."""
    selector = RANKS.replace("{", f'{{phase="{phase}", ')
    return f"rate(alexnet_train_phase_seconds_total{selector}{WINDOW})"


def own_compute(ranks: str = RANKS) -> str:
    """Return the PromQL of each rank's mean step time less its waits, in seconds.

    All steps of a run are as long as those of its slowest rank: the others wait for it.
    """
    working = ranks.replace("{", f'{{phase!~"{WAITS}", ')
    time_s = f"sum by ({RANK}) (rate(alexnet_train_phase_seconds_total{working}{WINDOW}))"
    return f"{time_s} / sum by ({RANK}) (rate({series('steps_total', ranks)}{WINDOW}))"


def step_quantile(quantile: float) -> str:
    """Return the PromQL of a quantile of the step time, over the chosen ranks of each run."""
    return f"histogram_quantile({quantile}, sum by (run, le) ({rate('step_duration_seconds_bucket')}))"


# The median is that of the whole run, whatever is chosen.
TO_MEDIAN = f"({own_compute()}) / on (run) group_left () quantile by (run) (0.5, {own_compute(RUN)})"
DATA_WAIT_SHARE = f"sum by (run) ({phase_rate('data_wait')}) / sum by (run) ({rate('phase_seconds_total')})"
MEAN_JOIN_WAIT = (
    f"sum by (run, join) ({rate('link_wait_seconds_total')}) / ignoring (join) group_left sum by (run)"
    f" ({rate('steps_total')})"
)
MEAN_PHASE = (
    f"sum by (run, phase) ({rate('phase_seconds_total')}) / on (run) group_left () sum by (run) ({rate('steps_total')})"
)
# A series disappears as soon as its scrape fails, so counting is enough. Both cover the whole run, whatever is chosen.
RANKS_UP = f"count by (run) ({series('running', RUN)})"
WORLD_SIZE = f"max by (run) ({series('world_size', RUN)})"
SINCE_LAST_STEP = f"time() - {series('last_step_timestamp_seconds')}"
UNREACHABLE = 'count(up{job=~"$job"} == 0) or vector(0)'


def panel(kind: str, title: str, description: str, unit: str, queries: dict[str, str], **extra: Any) -> Json:
    """Return a panel without id and position; queries: PromQL by legend, whose {{label}} Grafana fills in."""
    targets = [
        {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(queries.items())
    ]
    defaults: Json = {"unit": unit, "min": 0} | extra.pop("defaults", {})
    field_config = {"defaults": {key: value for key, value in defaults.items() if value is not None}, "overrides": []}
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets,
        "fieldConfig": field_config, "options": {}, **extra,
    }  # fmt: skip


def stat(title: str, description: str, unit: str, queries: dict[str, str], **defaults: Any) -> Json:
    """Return a panel that shows the last value in large type; green by default."""
    options = {"reduceOptions": LAST, "textMode": "auto"}
    return panel(
        "stat", title, description, unit, queries, defaults={"thresholds": thresholds({})} | defaults, options=options
    )


def graph(
    title: str, description: str, unit: str, queries: dict[str, str], stacked: bool = False, **defaults: Any
) -> Json:
    """Return a panel of curves, or stacked areas, over time."""
    custom: Json = {"fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}} if stacked else {}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel(
        "timeseries", title, description, unit, queries, defaults={"custom": custom} | defaults, options=options
    )


def thresholds(colors: dict[float, str]) -> Json:
    """Return Grafana's thresholds: green below the first value, then the colour of each value reached."""
    steps = [{"color": color, "value": value} for value, color in colors.items()]
    return {"mode": "absolute", "steps": [{"color": "green", "value": None}, *steps]}


def overview() -> list[Json]:
    """Return the panels for a quick overview."""
    return [
        stat("Throughput", "Training images per second. Each rank counts its share of its replica's images, so the sum"
             " is the run's throughput.", "cps", {"{{run}}": f"sum by (run) ({rate('images_total')})"}),
        stat("Step time", "Median over the chosen ranks' steps.", "s", {"{{run}}": step_quantile(0.5)}),
        stat("Data-wait share", "Fraction of the step time spent waiting for decoded images.", "percentunit",
             {"{{run}}": DATA_WAIT_SHARE}, thresholds=thresholds({0.05: "yellow", 0.2: "red"}), max=1),
        stat("Epoch", "Completed epochs, with part of the current one.", "none",
             {"{{run}}": f"max by (run) ({series('epoch')})"}, decimals=2),
        stat("Since the last step", "Longest time since a rank's last step. It grows during an evaluation.", "s",
             {"{{run}}": f"max by (run) ({SINCE_LAST_STEP})"}, thresholds=thresholds({60: "yellow", 300: "red"})),
        stat("Unreachable", "Ranks that Prometheus cannot scrape, in all runs.", "none",
             {"ranks": UNREACHABLE}, thresholds=thresholds({1: "red"})),
    ]  # fmt: skip


def throughput() -> list[Json]:
    """Return the throughput by run, replica and rank."""
    by_rank = f"sum by (run, replica, tower, rank) ({rate('images_total')})"
    return [
        graph("By run", "Training images per second.", "cps", {"{{run}}": f"sum by (run) ({rate('images_total')})"}),
        graph("By replica", "Replicas step together: a slow one slows all of them.", "cps",
              {"{{run}} replica {{replica}}": f"sum by (run, replica) ({rate('images_total')})"}),
        graph("By rank", "Each rank's share of its replica's images.", "cps",
              {"{{run}} rank {{rank}} (replica {{replica}}, tower {{tower}})": by_rank}),
    ]  # fmt: skip


def step_time() -> list[Json]:
    """Return the breakdown of the step time."""
    quantiles = {"{{run}} p50": step_quantile(0.5), "{{run}} p90": step_quantile(0.9)}
    mean = f"sum by (run) ({rate('step_duration_seconds_sum')}) / sum by (run) ({rate('step_duration_seconds_count')})"
    return [
        graph("Step time", "Over the chosen ranks; quantiles are interpolated within the histogram's buckets.", "s",
              quantiles | {"{{run}} mean": mean}),
        graph("Mean step by phase", "Choose one run. The stacked phases add up to the step time. The rank that the"
              " others wait for waits least itself.", "s", {"{{run}} {{phase}}": MEAN_PHASE}, stacked=True),
        graph("Link wait by join", "Wait for the link to the other tower that is not hidden by computation: mean per"
              " step and rank, by layer and pass. The next batch's pixels also use this link.", "s",
              {"{{run}} {{join}}": MEAN_JOIN_WAIT}, stacked=True),
        graph("Data-wait share", "Fraction of the step time spent waiting for decoded images; 0 if loading keeps up.",
              "percentunit", {"{{run}}": DATA_WAIT_SHARE}, max=1),
    ]  # fmt: skip


def stragglers() -> list[Json]:
    """Return the panels that name the rank for which the others wait."""
    waiting = RANKS.replace("{", f'{{phase=~"{WAITS}", ')
    waits = (
        f"sum by (run, rank, phase) (rate(alexnet_train_phase_seconds_total{waiting}{WINDOW}))"
        f" / on (run, rank) group_left () sum by (run, rank) ({rate('steps_total')})"
    )
    return [
        graph("Own compute by rank", "Mean step time less the waits for images, the other tower and the other"
              " replicas. With train.cuda_graph the graph's waits are in it.", "s",
              {"{{run}} rank {{rank}} on {{node}}": own_compute()}),
        graph("Own compute, relative to the median rank", "The alert Straggler fires above 1.1 after ten minutes. With"
              " two ranks the median is their mean.", "none", {"{{run}} rank {{rank}} on {{node}}": TO_MEDIAN},
              decimals=2, thresholds=thresholds({1.1: "red"}),
              custom={"thresholdsStyle": {"mode": "line"}}, min=None),
        stat("Slowest rank", "The rank with the most own compute, relative to the median rank.", "none",
             {"{{run}} rank {{rank}} on {{node}}": f"topk by (run) (1, {TO_MEDIAN})"}, decimals=2,
             thresholds=thresholds({1.1: "red"})) | {"options": NAMED_VALUE},
        graph("Waits by rank", "Mean per step. The rank that the others wait for waits least for them.", "s",
              {"{{run}} rank {{rank}} {{phase}}": waits}),
    ]  # fmt: skip


def learning() -> list[Json]:
    """Return loss, error and learning rate; every rank has the values of the global batch, so any rank's will do."""

    def newest(name: str) -> str:
        return f"max by (run) ({series(name)})"

    return [
        graph("Loss", "Mean cross-entropy in nats, of the last logged global batch and of the validation set.", "none",
              {"{{run}} training": newest("loss"), "{{run}} validation": newest("evaluation_loss")}),
        graph("Error", "Fraction of wrong predictions. No top-5 curve for fewer than six classes.", "percentunit",
              {"{{run}} training top-1": newest("top1_error"),
               "{{run}} validation top-1": newest("evaluation_top1_error"),
               "{{run}} validation top-5": newest("evaluation_top5_error")}, max=1),
        graph("Learning rate", "At the last logged step.", "none", {"{{run}}": newest("learning_rate")},
              custom={"scaleDistribution": {"type": "log", "log": 10}}, min=None),
    ]  # fmt: skip


def health() -> list[Json]:
    """Return the panels that show whether all ranks respond and make progress."""
    return [
        graph("Ranks up and world size", "Ranks that respond, of all replicas, and the number expected.", "none",
              {"{{run}} up": RANKS_UP, "{{run}} world size": WORLD_SIZE}, decimals=0),
        graph("Since the last step, by rank", "A hung rank may still answer Prometheus; it shows here.", "s",
              {"{{run}} rank {{rank}}": SINCE_LAST_STEP}),
    ]  # fmt: skip


def variable(name: str, query: str, all_value: str | None = None) -> Json:
    """Return a dashboard variable whose choices are queried from Prometheus whenever the time range changes."""
    return {
        "type": "query", "name": name, "label": name, "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 3, "regex": "", "hide": 0,
        "multi": True, "includeAll": True, **({"allValue": all_value} if all_value else {}),
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
    }  # fmt: skip


def variables() -> list[Json]:
    """Return the variables: data source, job, run, node, replica, tower and rank, each filtered by those before it."""
    source = {
        "type": "datasource", "name": "datasource", "label": "data source", "query": "prometheus", "regex": "",
        "hide": 0, "multi": False, "includeAll": False, "refresh": 1, "options": [],
    }  # fmt: skip
    choices = {name: series("world_size", selector) for name, selector in CHOICES.items()}
    return [
        source,
        # Not ".*": "All" must mean all of *our* jobs, or `up` would count everything that this Prometheus scrapes.
        variable("job", f"label_values({choices['job']}, job)"),
        *(variable(name, f"label_values({choices[name]}, {name})", ".*") for name in ("run", *CHOSEN)),
    ]


def laid_out(rows: dict[str, list[Json]]) -> Iterator[Json]:
    """Yield the panels row by row with their ids and positions on Grafana's grid, which is 24 wide."""
    number, top = 1, 0
    for title, panels in rows.items():
        position = {"h": 1, "w": 24, "x": 0, "y": top}
        yield {"type": "row", "title": title, "id": number, "collapsed": False, "panels": [], "gridPos": position}
        number, top = number + 1, top + 1
        width, height = 24 // len(panels), 4 if panels[0]["type"] == "stat" else 8
        for index, content in enumerate(panels):
            yield content | {"id": number, "gridPos": {"h": height, "w": width, "x": index * width, "y": top}}
            number += 1
        top += height


def dashboard() -> Json:
    """Return the whole dashboard as Grafana's JSON model."""
    rows = {
        "Overview": overview(), "Throughput": throughput(), "Step time": step_time(), "Learning": learning(),
        "Stragglers": stragglers(), "Ranks": health(),
    }  # fmt: skip
    return {
        "title": "AlexNet training", "uid": "alexnet-train", "tags": ["alexnet"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"}, "timepicker": {}, "annotations": {"list": []}, "links": [],
        "templating": {"list": variables()}, "panels": list(laid_out(rows)),
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    """Write dashboard.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    OUTPUT.write_text(json.dumps(dashboard(), indent=1) + "\n")
    print(f"{OUTPUT}: {len(dashboard()['panels'])} panels")


if __name__ == "__main__":
    sys.exit(run_command(main))
