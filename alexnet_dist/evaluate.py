"""python -m alexnet_dist.evaluate RUN [RUN ...]: errors and loss over a whole split; several runs as an ensemble."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from alexnet_dist import process
from alexnet_dist.data.loader import BatchRequest, Loader, labels, pixels, worker_death_as_error
from alexnet_dist.data.manifest import SPLITS
from alexnet_dist.data.plan import validation_ids, validation_steps
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import Remote, locate
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.nn.scoring import score
from alexnet_dist.runs.inference import SMALLEST, view_probabilities
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.training.build import set_precision

ROWS = 100  # images a batch


@dataclass(frozen=True)
class Result:
    """The result of an evaluation; errors are fractions, top-5 null below six classes, loss is the mean over images."""

    top1_error: float
    top5_error: float | None
    loss: float
    images: int
    views: int
    split: str
    steps: list[int]


def evaluate(runs: list[LoadedRun], split: Split, views: int, device: torch.device, workers: int = 2) -> Result:
    """Evaluate the mean of several runs' probabilities over a whole split, each image once."""
    classes = [described.name for described in split.manifest.classes]
    for run in runs:
        if [described.name for described in run.manifest.classes] != classes:
            raise UserError(
                f"{run.directory} was trained on other classes than {split.root} has; give --data the shards packed"
                " with its training set"
            )
        if run.manifest.size != split.manifest.size:
            raise UserError(
                f"{run.directory} was trained on {run.manifest.size}-pixel images, {split.root} has"
                f" {split.manifest.size}; pack with --size {run.manifest.size}"
            )
        run.model.to(device)
    set_precision(runs[0].config)
    sums = torch.zeros(4, dtype=torch.float64)
    for images, truth in _batches(split, workers):
        probabilities = torch.stack([view_probabilities(run, images, views, device) for run in runs]).mean(0)
        sums += score(probabilities.clamp_min(SMALLEST).log(), truth.to(device))
    loss, top1, top5, count = sums.tolist()
    if count != split.images:
        raise RuntimeError(f"evaluated {count:.0f} images of {split.images}")
    return Result(
        top1_error=top1 / count,
        top5_error=top5 / count if len(classes) > 5 else None,
        loss=loss / count,
        images=split.images,
        views=views,
        split=split.manifest.split,
        steps=[run.step for run in runs],
    )


def _batches(split: Split, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images at packed size, uint8 (n, size, size, 3), and labels (n,); empty rows at the end are labelled -1."""
    name, size = split.manifest.split, split.manifest.size
    ahead_bytes = split.root.cache.max_bytes if isinstance(split.root, Remote) else 0
    batches = (validation_ids(k, 0, 1, split.images, ROWS) for k in range(validation_steps(split.images, 1, ROWS)))
    with Loader(
        {name: split}, seed=0, crop=size, rows=ROWS, workers=workers, max_bad_fraction=0.0, ahead_bytes=ahead_bytes
    ) as loader:
        for batch in loader.run(BatchRequest(name, 0, ids, False) for ids in batches):
            if batch.bad:
                raise UserError(f"{split.root}: {batch.bad[0]}; an evaluation must see every image: pack it again")
            yield pixels(batch.rows, size), labels(batch.rows)


def device_of(name: str) -> torch.device:
    """Return a device by its name; UserError if torch cannot use it here."""
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {name} cannot be used ({reason}); expected such as cpu or cuda:1") from None


def main(arguments: list[str]) -> None:
    """Parse, load, evaluate, print."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory; several are averaged")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="1: centre patch; 10: as the paper tests")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split to evaluate (default: val)")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest that verifies")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="such as cpu or cuda:1"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)
    process.keep_freed_memory()
    device = device_of(parsed.device)
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


if __name__ == "__main__":
    sys.exit(run_command(main))
