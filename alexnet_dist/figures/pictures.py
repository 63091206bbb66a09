"""The pictures of a run, by file name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.data.reader import Split
from alexnet_dist.figures.activations import Join, draw_activations
from alexnet_dist.figures.curves import draw_curves, draw_overlay, read_record, run_names
from alexnet_dist.figures.held_out import activations_at_joins, class_probabilities, held_out_images, nearest, varied
from alexnet_dist.figures.kernels import draw_conv1
from alexnet_dist.figures.net import draw_net
from alexnet_dist.figures.page import SUBTITLE_POINTS, percentage, short_name
from alexnet_dist.figures.predictions import draw_neighbours, draw_predictions
from alexnet_dist.runs.load import LoadedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREDICTIONS = 8  # images in predictions.png
QUERIES, NEIGHBOURS = 5, 6  # rows, and columns beside the query, in neighbours.png (figure 4, right)
LABEL_WIDTH = 2.5  # inches, of a class name in activations.png
CURVES = "curves.png"


def draw_all(run: LoadedRun, split: Split | None) -> Iterator[tuple[str, Figure]]:
    """Yield the pictures of a run with their file names; without `split`, only those that need no held-out images."""
    record = read_record(run.directory, run.directory.resolve().name)
    net = run.model.net
    first_layer = next(iter(net.layers))
    kernels = [tower.get_parameter(f"{first_layer}.weight").detach().double().numpy() for tower in run.model.towers]
    yield "net.png", draw_net(record.name, net)
    yield "conv1.png", draw_conv1(record.name, kernels)
    if record.steps:
        yield CURVES, draw_curves(record)
    if split is not None:
        yield from _draw_held_out(record.name, run, split)


def draw_runs(directories: Sequence[Path]) -> Figure:
    """Return the one picture of several runs: their curves on the same axes."""
    names = run_names(directories)
    return draw_overlay([read_record(path, name) for path, name in zip(directories, names, strict=True)])


def _draw_held_out(name: str, run: LoadedRun, split: Split) -> Iterator[tuple[str, Figure]]:
    images = held_out_images(run, split)
    names = [class_.words or class_.name for class_ in run.manifest.classes]
    chosen = varied(images.truth, PREDICTIONS)
    pictures, truth = [images.pictures[index] for index in chosen], [images.truth[index] for index in chosen]
    probabilities = class_probabilities(run, pictures)
    yield "predictions.png", draw_predictions(name, pictures, truth, probabilities, names)
    if len(images.pictures) > 1:
        rows = [[query, *nearest(images.features, query, NEIGHBOURS)] for query in varied(images.truth, QUERIES)]
        yield "neighbours.png", draw_neighbours(name, rows, images.pictures, images.truth, names)
    joins = [Join(into, sent) for into, sent in activations_at_joins(run, pictures[0])]
    if joins:
        best = int(probabilities[0].argmax())
        guess = f"{short_name(names[best], LABEL_WIDTH, SUBTITLE_POINTS)} ({percentage(float(probabilities[0, best]))})"
        label = f"{short_name(names[truth[0]], LABEL_WIDTH, SUBTITLE_POINTS)}; most probable: {guess}"
        yield "activations.png", draw_activations(name, pictures[0], label, joins)
