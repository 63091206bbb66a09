"""python -m alexnet_dist.evaluate RUN [RUN ...]: errors and loss over a whole split; several runs as an ensemble."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from alexnet_dist import process
from alexnet_dist.data.choices import SPLITS
from alexnet_dist.errors import run_command


def main(arguments: list[str]) -> None:
    """Parse, load, evaluate, print."""
    parsed = _parser().parse_args(arguments)
    # These import torch: --help does without it.
    from alexnet_dist.data.loader import worker_death_as_error
    from alexnet_dist.data.reader import Split
    from alexnet_dist.data.remote import locate
    from alexnet_dist.runs.evaluation import evaluate
    from alexnet_dist.runs.inference import find_device
    from alexnet_dist.runs.load import load_run

    process.keep_freed_memory()
    device = find_device(parsed.device)
    runs = [load_run(directory, parsed.step) for directory in parsed.runs]
    data = runs[0].config.data
    root = locate(parsed.data or data.root, data.cache, data.cache_bytes)
    with worker_death_as_error():
        result = evaluate(runs, Split.open(root, parsed.split), parsed.views, device)
    if parsed.json:
        print(json.dumps(asdict(result)))
        return
    top5 = "" if result.top5_error is None else f", top-5 error {result.top5_error:.2%}"
    names = " + ".join(f"{run.directory} (step {run.step:,})" for run in runs)
    print(
        f"{names}: top-1 error {result.top1_error:.2%}{top5}, loss {result.loss:.4f} on {result.images:,} images of"
        f" {result.split}, {result.views} view(s) an image"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory; several are averaged")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="1: centre patch; 10: as the paper tests")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split to evaluate (default: val)")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest that verifies")
    parser.add_argument("--device", help="such as cpu or cuda:1; default: cuda if there is one, else cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
