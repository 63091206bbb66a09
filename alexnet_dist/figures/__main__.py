"""python -m alexnet_dist.figures RUN OUT/: draw a run's curves, kernels, predictions and nearest neighbours.

curves.png and conv1.png need only the run directory; predictions.png and neighbours.png also need the held-out shards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.data.manifest import SPLITS, manifest_path
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import locate
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.figures.drawing import draw_conv1, draw_curves, draw_neighbours, draw_predictions, new_figure
from alexnet_dist.figures.held_out import held_out_images, nearest, varied
from alexnet_dist.runs.directory import EVALUATIONS, METRICS, read_lines
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.runs.weights import named_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREDICTIONS = 8  # images in predictions.png
QUERIES, NEIGHBOURS = 5, 6  # rows, and columns beside the query, in neighbours.png (figure 4, right)


def draw_all(run: LoadedRun, split: Split | None) -> dict[str, Figure]:
    """Return the pictures of a run by file name; without `split`, only those that need no held-out images."""
    steps = read_lines(run.directory / METRICS)
    name = run.directory.resolve().name
    first_layer = next(iter(run.model.net.layers))
    kernels = named_weights(run.model)[f"{first_layer}.weight"].double().numpy()
    figures = {"conv1.png": draw_conv1(name, kernels)}
    if steps:
        figures["curves.png"] = draw_curves(name, steps, read_lines(run.directory / EVALUATIONS))
    return figures if split is None else figures | _draw_held_out(run, split)


def _draw_held_out(run: LoadedRun, split: Split) -> dict[str, Figure]:
    images = held_out_images(run, split)
    names = [class_.words or class_.name for class_ in run.manifest.classes]
    chosen = varied(images.truth, PREDICTIONS)
    pictures, truth = [images.pictures[index] for index in chosen], [images.truth[index] for index in chosen]
    figures = {"predictions.png": draw_predictions(pictures, truth, images.probabilities[chosen], names)}
    if len(images.pictures) > 1:
        rows = [[query, *nearest(images.features, query, NEIGHBOURS)] for query in varied(images.truth, QUERIES)]
        figures["neighbours.png"] = draw_neighbours([[images.pictures[index] for index in row] for row in rows])
    return figures


def main(arguments: list[str]) -> None:
    """Parse the arguments, load the run, and draw and write its pictures."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.figures", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split to take images from (default: val)")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest complete one")
    options = parser.parse_args(arguments)
    new_figure(1.0, 1.0)  # fail before a long load if matplotlib is missing
    run = load_run(options.run, options.step)
    data = run.config.data
    root = locate(options.data or data.root, data.cache, data.cache_bytes)
    has_shards = options.data is not None or not isinstance(root, Path) or manifest_path(root, options.split).exists()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, figure in draw_all(run, Split.open(root, options.split) if has_shards else None).items():
            figure.savefig(options.out / name, facecolor="white")
            print(options.out / name)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written: {error.strerror}; choose another folder") from None
    if not has_shards:
        print(f"predictions.png and neighbours.png skipped: no shards of {options.split} in {root}; pass --data")


if __name__ == "__main__":
    sys.exit(run_command(main))
