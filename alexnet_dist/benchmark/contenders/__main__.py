"""The process of one contender: ``python -m alexnet_dist.benchmark.contenders TASK SETTINGS`` prints its figures.

TASK is a name below, SETTINGS the JSON of its arguments. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys

# Only the task's own module is imported: what one contender needs must not weigh on another, or be missing for it.
TASKS = {
    "loader": "alexnet_dist.benchmark.contenders.loader_timing:measure",
    "read": "alexnet_dist.benchmark.contenders.our_loader:measure_reading",
    "boundary": "alexnet_dist.benchmark.contenders.our_loader:measure_boundary",
    "prepare_ffcv": "alexnet_dist.benchmark.contenders.optional_loaders:prepare_ffcv",
    "prepare_streaming": "alexnet_dist.benchmark.contenders.optional_loaders:prepare_streaming",
    "pack": "alexnet_dist.benchmark.contenders.packing:measure_ours",
    "pack_pil": "alexnet_dist.benchmark.contenders.packing:measure_pil",
    "plain_step": "alexnet_dist.benchmark.contenders.training_steps:measure_plain",
    "fused_step": "alexnet_dist.benchmark.contenders.training_steps:measure_fused",
    "norm": "alexnet_dist.benchmark.contenders.norm:measure",
    # Several processes: the task `ranks` starts one of those below in each.
    "ranks": "alexnet_dist.benchmark.contenders.ranks:measure",
    "rank_step": "alexnet_dist.benchmark.contenders.training_steps:measure_rank",
    "rank_link": "alexnet_dist.benchmark.contenders.link_joins:measure_link",
    "rank_wire": "alexnet_dist.benchmark.contenders.link_joins:measure_wire",
    "rank_allreduce": "alexnet_dist.benchmark.contenders.torch_wire:measure_allreduce",
}


def main(arguments: list[str]) -> None:
    """Run one task and print its figures."""
    task, settings = arguments
    module, function = TASKS[task].split(":")
    found = getattr(importlib.import_module(module), function)(**json.loads(settings))
    # In one write, so that of ranks that share a stdout each has a line of its own.
    sys.stdout.write(json.dumps(found or {}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
