"""python -m alexnet_dist.evaluate RUN [RUN ...]: errors and loss over a whole split; several runs as an ensemble."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import add_device_argument, add_step_argument
from alexnet_dist.data.choices import SPLITS
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.system import resources
from alexnet_dist.system.wording import counted, percent

if TYPE_CHECKING:
    from alexnet_dist.data.manifest import Manifest
    from alexnet_dist.runs.class_counts import ClassCounts
    from alexnet_dist.runs.evaluation import Result, Scores

SEARCH = "search"


def main(arguments: list[str]) -> None:
    """Parse, load, evaluate, print."""
    parsed = _parser().parse_intermixed_args(arguments)
    weights = _weights(parsed.weights, len(parsed.runs))
    # These import torch: --help does without it.
    from alexnet_dist.data.loader import worker_death_as_error
    from alexnet_dist.data.reader import Split
    from alexnet_dist.data.remote import locate
    from alexnet_dist.figures.page import blank_figure
    from alexnet_dist.runs.class_counts import ClassCounts
    from alexnet_dist.runs.evaluation import evaluate
    from alexnet_dist.runs.inference import find_device
    from alexnet_dist.runs.load import load_run

    resources.keep_freed_memory()
    device = find_device(parsed.device)
    runs = [load_run(directory, parsed.step) for directory in parsed.runs]
    data = runs[0].config.data
    root = locate(parsed.data or data.root, data.cache, data.cache_bytes)
    split = Split.open(root, parsed.split)
    search_on = Split.open(root, "val") if parsed.weights == SEARCH else None
    counts = None if parsed.by_class is None else ClassCounts(len(split.manifest.classes))
    if counts is not None:  # before hours of evaluation
        blank_figure(1.0, 1.0)  # needs matplotlib
        with _refusing(parsed.by_class):
            parsed.by_class.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=parsed.by_class).close()
    with worker_death_as_error():
        result = evaluate(runs, split, parsed.views, device, weights=weights, search_on=search_on, counts=counts)
    print(json.dumps(asdict(result)) if parsed.json else report(result), flush=True)
    if counts is not None:
        _write_by_class(parsed.by_class, counts, split.manifest, result)


def _write_by_class(folder: Path, counts: ClassCounts, manifest: Manifest, result: Result) -> None:
    """Write the errors by class and the confusion matrix, as tables and as a picture."""
    from alexnet_dist.figures import confusion
    from alexnet_dist.runs.prediction import class_names

    views = "one view" if result.views == 1 else f"{result.views} views"
    nets = "" if len(result.steps) == 1 else f", mean of {len(result.steps)} nets"
    title = f"Confusion on {result.images:,} images of {result.split}, {views} of each{nets}"
    with _refusing(folder):
        counts.write(folder, manifest.classes)
        picture = confusion.draw(counts.confusion.numpy(), class_names(manifest), title)
        picture.savefig(folder / "confusion.png", facecolor="white")
    print(f"{folder}: classes.csv, confusion.csv and confusion.png are written", file=sys.stderr, flush=True)


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Raise a UserError for a folder into which nothing can be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}; choose another folder for --by-class") from None


def report(result: Result) -> str:
    """Return a result as text: for an ensemble a line for each run alone, then the plain and the weighted mean."""
    where = f"on {counted(result.images, 'image')} of {result.split}, {counted(result.views, 'view')} an image"
    names = [f"{run.directory} (step {step:,})" for run, step in zip(result.runs, result.steps, strict=True)]
    if len(names) == 1:
        return f"{names[0]}: {_scores(result)} {where}"
    lines = [f"{name}: {_scores(run)}" for name, run in zip(names, result.runs, strict=True)]
    lines.append(f"the plain mean of {len(names)} runs: {_scores(result.plain_mean)} {where}")
    if result.weights.kind != "equal":
        values = ", ".join(f"{value:.4g}" for value in result.weights.values)
        top = "top-1" if result.top5_error is None else "top-5"
        searched = f"searched for the {top} error on {result.weights.searched_on}"
        origin = "as given" if result.weights.kind == "given" else searched
        lines.append(f"the mean with weights {values}, {origin}: {_scores(result)} {where}")
    if result.optimistic:
        lines.append(
            "this last error is optimistic: its weights were searched on the same images; --split test, or other images"
            " with these --weights, give an error to report"
        )
    return "\n".join(lines)


def _scores(scores: Scores) -> str:
    top5 = "" if scores.top5_error is None else f", top-5 error {percent(scores.top5_error)}"
    return f"top-1 error {percent(scores.top1_error)}{top5}, loss {scores.loss:.4f}"


def _weights(text: str | None, runs: int) -> Sequence[float] | None:
    """Return the weights of --weights, divided by their sum; None if they are equal or to be searched."""
    if text is None:
        return None
    if runs == 1:
        raise UserError(f"--weights {text}: one RUN, which needs none; name several, or leave out --weights")
    if text == SEARCH:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) and value >= 0 for value in values) or not 0 < sum(values) < math.inf:
        raise UserError(f"--weights: {text!r}; expected {SEARCH}, or numbers of at least 0 such as 0.3,0.7")
    if len(values) != runs:
        raise UserError(f"--weights: {len(values)} for {runs} runs; expected one for each RUN, in their order")
    return [value / sum(values) for value in values]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory; several are averaged")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="1: centre patch; 10: as the paper tests")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split to evaluate (default: val)")
    parser.add_argument(
        "--weights",
        metavar="W,W,...",
        help="weights of several runs, divided by their sum; search: find them by coordinate descent on val's top-5"
        " error (top-1 below six classes); default: the plain mean",
    )
    add_step_argument(parser)
    parser.add_argument(
        "--by-class", type=Path, metavar="FOLDER", help="write classes.csv, confusion.csv and confusion.png there"
    )
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
