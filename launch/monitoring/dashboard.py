"""Write dashboard.json, the Grafana dashboard of a run, beside this file.

python launch/monitoring/dashboard.py

The dashboard is generated so that its queries can be read, reviewed and tested; Grafana imports the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import progress_panels
import promql
import source_log
import speed_panels
from grafana import Json, datasource_variable, fixed_variable, laid_out, queried_variable

from alexnet_dist.errors import run_command

OUTPUT = Path(__file__).with_name("dashboard.json")


def variables() -> list[Json]:
    """Return the variables: data source, job, run, node, replica, tower and rank, each filtered by those before it."""
    queries = {
        name: f"label_values({promql.series('world_size', selector)}, {name})"
        for name, selector in promql.CHOICES.items()
    }
    return [
        datasource_variable(),
        # Not ".*": "All" must mean all of *our* jobs, or `up` would count everything that this Prometheus scrapes.
        queried_variable("job", queries.pop("job")),
        *(queried_variable(name, query, ".*") for name, query in queries.items()),
        fixed_variable(source_log.VARIABLE, "paper's figures", source_log.CHOICES),
    ]


def dashboard() -> Json:
    """Return the whole dashboard as Grafana's JSON model."""
    rows = {
        "Overview": progress_panels.overview(),
        "Throughput": speed_panels.throughput(),
        "Step": speed_panels.step(),
        "Stragglers": speed_panels.stragglers(),
        "Link": speed_panels.link(),
        "Optimisation": progress_panels.optimisation(),
        "Data": speed_panels.data(),
        "Resources": speed_panels.resources(),
        "Checkpoints and faults": progress_panels.checkpoints_and_faults(),
    }
    return {
        "title": "AlexNet training", "uid": "alexnet-train", "tags": ["alexnet"], "schemaVersion": 41, "version": 1,
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
