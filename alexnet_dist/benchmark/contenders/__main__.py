"""The process of one contender: ``python -m alexnet_dist.benchmark.contenders TASK SETTINGS`` prints its figures.

TASK is a key of TASKS, SETTINGS the JSON of its arguments. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys

from alexnet_dist.errors import run_command

# Only the task's own module is imported: one contender's dependencies must not slow another down, or be required by it.
TASKS = {
    "loader": "loader_timing:measure",
    "read": "our_loader:measure_reading",
    "boundary": "our_loader:measure_boundary",
    "prepare_ffcv": "optional_loaders:prepare_ffcv",
    "prepare_streaming": "optional_loaders:prepare_streaming",
    "pack": "packing:measure_ours",
    "pack_pil": "packing:measure_pil",
    "plain_step": "training_steps:measure_plain",
    "fused_step": "training_steps:measure_fused",
    "norm": "norm:measure",
    "run": "whole_run:measure",
    "plain_run": "plain_run:measure",
    "checkpoint": "checkpoints:measure",
    "metrics_calls": "metrics_cost:measure_calls",
    "metrics_scrape": "metrics_cost:measure_scrape",
    # Several processes: the task `ranks` starts one of the tasks below in each.
    "ranks": "ranks:measure",
    "rank_step": "training_steps:measure_rank",
    "rank_link": "link_joins:measure_link",
    "rank_wire": "link_joins:measure_wire",
    "rank_allreduce": "torch_wire:measure_allreduce",
    "rank_status": "status_sums:measure",
}


def main(arguments: list[str]) -> None:
    """Run one task and print its figures."""
    task, settings = arguments
    module, function = TASKS[task].split(":")
    measure = getattr(importlib.import_module(f"alexnet_dist.benchmark.contenders.{module}"), function)
    figures = measure(**json.loads(settings))
    # A single write, so that ranks that share a stdout do not mix their lines.
    sys.stdout.write(json.dumps(figures or {}) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
