"""The process of one contender: ``python -m alexnet_dist.benchmark.contender TASK SETTINGS`` prints its figures.

TASK is a name below, SETTINGS the JSON of its arguments. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys

# Only the task's own module is imported: what one contender needs must not weigh on another, or be missing for it.
TASKS = {
    "loader": "alexnet_dist.benchmark.stream:measure",
    "read": "alexnet_dist.benchmark.ours:measure_reading",
    "boundary": "alexnet_dist.benchmark.ours:measure_boundary",
    "prepare_ffcv": "alexnet_dist.benchmark.optional:prepare_ffcv",
    "prepare_streaming": "alexnet_dist.benchmark.optional:prepare_streaming",
    "pack": "alexnet_dist.benchmark.packing:measure_ours",
    "pack_pil": "alexnet_dist.benchmark.packing:measure_pil",
}


def main(arguments: list[str]) -> None:
    """Run one task and print its figures."""
    task, settings = arguments
    module, function = TASKS[task].split(":")
    found = getattr(importlib.import_module(module), function)(**json.loads(settings))
    print(json.dumps(found or {}))


if __name__ == "__main__":
    main(sys.argv[1:])
