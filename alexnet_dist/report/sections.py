"""The lower part of the page: errors beside the paper's; by run, its net, what happened to it, its configuration."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version

import alexnet_dist
from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.report import comparison
from alexnet_dist.report.history import History, Line, best_evaluation, number
from alexnet_dist.report.markup import facts, figure, paragraph, picture, table
from alexnet_dist.report.net import Example, NetPictures
from alexnet_dist.report.overview import UNKNOWN, error_text

NOT_RECORDED = "not recorded in the run directory"
HERE_ALONE = ("data.root", "data.cache", "data.cache_bytes", "data.workers", "run.directory")


def errors(runs: Sequence[History]) -> str:
    """Return the errors of runs beside the paper's, and which of those may be compared."""
    own = []
    for run in runs:
        best = best_evaluation(run)
        lines = {"last": run.record.evaluations[-1] if run.record.evaluations else None, "best": best}
        own += [
            (run.name, f"validation, {which} evaluation", "centre view", *_errors(line), UNKNOWN)
            for which, line in lines.items()
            if line is not None
        ]
    rows = [*own, *(_paper_row(row, runs) for row in comparison.ROWS)]
    columns = ("net", "images", "views", "top-1 error", "top-5 error", "comparable with these runs")
    note = "" if own else paragraph("No run has been evaluated yet.", "soft")
    return note + table(columns, rows)


def _errors(line: Line) -> tuple[str, str]:
    return error_text(number(line, "top1_error")), error_text(number(line, "top5_error"))


def _paper_row(row: comparison.PaperRow, runs: Sequence[History]) -> tuple[str, ...]:
    verdicts = {
        run.name: comparison.verdict(row, comparison.training_set(run.manifest), is_papers_net(run.config))
        for run in runs
    }
    same = len(set(verdicts.values())) == 1
    said = next(iter(verdicts.values())) if same else "; ".join(f"{name}: {text}" for name, text in verdicts.items())
    top1, top5 = (UNKNOWN if value is None else f"{value:.1f} %" for value in (row.top1, row.top5))
    return (f"the paper, {row.net} ({row.source})", row.data, row.views, top1, top5, said)


def is_papers_net(config: Config) -> bool:
    """Return whether a configuration's net is the paper's."""
    try:
        return configs.geometry(config) == Geometry()
    except ValueError:  # a net that this version refuses
        return False


def kernels(name: str, net: NetPictures | str) -> str:
    """Return the first layer's kernels by tower."""
    if isinstance(net, str):
        return figure(name, paragraph(f"No kernels: {net}", "soft"))
    parts = []
    for tower, each in enumerate(net.kernels):
        said = f"tower {tower}: {each.count} kernels of {each.side} × {each.side}, mean colour score {each.colour:.2f}"
        parts.append(f"<figcaption>{said}</figcaption>{picture(each.picture, said, 'kernels')}")
    note = "Grey first. The colour score is the share of a kernel's energy off the grey axis; random weights have 0.67."
    return figure(f"{name}, step {net.step:,}", "".join(parts) + paragraph(note, "soft"))


def predictions(net: NetPictures | str) -> str:
    """Return held-out images with their five most probable classes as bars, or why there are none."""
    if isinstance(net, str):
        return paragraph(f"No predictions: {net}", "soft")
    if isinstance(net.examples, str):
        return paragraph(f"No predictions: {net.examples}", "soft")
    wrong = sum(example.guesses[0].index != example.truth.index for example in net.examples)
    count = f"{len(net.examples)} images of the validation split, {wrong} of them wrong"
    said = f"{count}; the right class is bold and orange."
    return f'{paragraph(said, "soft")}<div class="examples">{"".join(map(_example, net.examples))}</div>'


def _example(example: Example) -> str:
    bars = ""
    for guess in example.guesses:
        is_right = guess.index == example.truth.index
        width, colour = 100 * guess.probability, "c1" if is_right else "c0"
        drawn = f'<rect class="{colour}" width="{width:.2f}" height="6"/>'
        bars += (
            f'<div class="guess{" right" if is_right else ""}"><span>{escape(guess.name)}</span>'
            f"<span>{guess.probability:.1%}</span>"
            f'<svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg></div>'
        ).replace("%</span>", " %</span>")
    name = example.truth.name
    is_wrong = example.guesses[0].index != example.truth.index
    caption = f"{escape(name)}{' <b class=error>(wrong)</b>' if is_wrong else ''}"
    return f'<div class="example">{picture(example.picture, name, "")}<div>{caption}</div>{bars}</div>'


def happenings(run: History) -> str:
    """Return what happened to a run as its directory records it: faults, stops, batches and checkpoints left out."""
    found = "".join(
        f"{paragraph(event.title)}<pre>{escape(event.text.rstrip())}</pre>" for event in run.events if event.text
    )
    unchanged = "not known: no readable checkpoint" if run.unchanged is None else f"{run.unchanged:,}"
    told = facts(
        [
            ("steps skipped because their numbers were not finite", unchanged),
            ("restarts", f"{NOT_RECORDED}; torchrun's output has them"),
            ("bad samples", f"{NOT_RECORDED}; the ranks count them in their metrics and name them on stderr"),
        ]
    )
    return (found or paragraph("No stop, error, rollback or damaged checkpoint is recorded.")) + told


def provenance(run: History) -> str:
    """Return where a run comes from: versions, ranks, times, data, and what its configuration changes."""
    data = UNKNOWN
    if run.manifest is not None:
        images, classes = f"{run.manifest.images:,} training images", f"{len(run.manifest.classes):,} classes"
        data = f"{images}, {classes}, {run.manifest.size} pixels a side"
    software = f"torch {_torch()}, Python {platform.python_version()}"
    rows = [
        ("run directory", str(run.directory.resolve())),
        *run.times,
        ("written last by", run.process or NOT_RECORDED),
        ("data", data),
        ("manifest", UNKNOWN if run.manifest is None else f"sha256 {run.manifest.sha256}"),
        ("packed with", _packed_with(run)),
        ("layout", f"{run.config.topology.layout}, {run.config.data.global_batch} images a step"),
        ("world size, commit, versions of training", NOT_RECORDED),
        (
            "this report",
            f"alexnet_dist {alexnet_dist.__version__}, {software}",
        ),
    ]
    return facts((name, value) for name, value in rows)


def _packed_with(run: History) -> str:
    libraries = {} if run.manifest is None else run.manifest.libraries
    return ", ".join(f"{name} {release}" for name, release in libraries.items()) or NOT_RECORDED


def _torch() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "unknown"


def configuration(run: History) -> str:
    """Return what a run's configuration changes of the paper's, and all of it."""
    paper, own = configs.flat(configs.load([], []).config), configs.flat(run.config)
    changed = [
        (key, str(own.get(key, UNKNOWN)), str(paper.get(key, UNKNOWN)))
        for key in {**own, **paper}
        if own.get(key) != paper.get(key) and key not in HERE_ALONE
    ]
    told = table(("key", "this run", "the paper's run"), changed) if changed else paragraph("That of the paper.")
    whole = escape(configs.to_yaml(run.config))
    return f"{told}<details><summary>Every key</summary><pre>{whole}</pre></details>"
