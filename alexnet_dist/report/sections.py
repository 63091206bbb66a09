"""The middle of the page: errors beside the paper's; by run, its net, and what happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.report import comparison
from alexnet_dist.report.history import History, Line, best_evaluation, number
from alexnet_dist.report.markup import facts, figure, paragraph, picture, table
from alexnet_dist.report.net import Example, NetPictures, Photo
from alexnet_dist.report.overview import UNKNOWN, error_text
from alexnet_dist.report.provenance import NOT_RECORDED, counted, starts


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
    if isinstance(net.held_out, str):
        return paragraph(f"No predictions: {net.held_out}", "soft")
    examples = net.held_out.examples
    wrong = sum(example.guesses[0].index != example.truth.index for example in examples)
    said = f"{len(examples)} images of the validation split, {wrong} of them wrong; the right class is bold and orange."
    return f'{paragraph(said, "soft")}<div class="examples">{"".join(map(_example, examples))}</div>'


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


def neighbours(net: NetPictures | str) -> str:
    """Return rows of held-out images that are near to each other in the last hidden layer, or why there are none."""
    if isinstance(net, str) or isinstance(net.held_out, str):
        reason = net if isinstance(net, str) else str(net.held_out)
        return paragraph(f"No neighbours: {reason}", "soft")
    if not net.held_out.rows:
        return paragraph("No neighbours: there is only one held-out image.", "soft")
    pairs = [(row[0], each) for row in net.held_out.rows for each in row[1:]]
    other = sum(query.label != each.label for query, each in pairs)
    said = (
        f"At the left an image of the validation split, beside it the nearest of {net.held_out.searched:,}, by the"
        " distance between the activations of the last hidden layer (figure 4 of the paper)."
        f" {other} of {len(pairs)} are of another class" + (": their names are orange." if other else ".")
    )
    return paragraph(said, "soft") + "".join(map(_row, net.held_out.rows))


def _row(row: Sequence[Photo]) -> str:
    tiles = "".join(
        f'<div class="{"query" if each is row[0] else "near"}">{picture(each.picture, each.name, "")}'
        f'<span class="{"other" if each.label != row[0].label else "same"}" title="{escape(each.name)}">'
        f"{escape(each.name.split(',')[0])}</span></div>"
        for each in row
    )
    return f'<div class="row">{tiles}</div>'


def happenings(run: History) -> str:
    """Return what happened to a run as its directory records it: starts, faults, what was left out or substituted."""
    found = "".join(
        f"{paragraph(event.title)}<pre>{escape(event.text.rstrip())}</pre>" for event in run.events if event.text
    )
    unchanged = "not known: no readable checkpoint" if run.unchanged is None else f"{run.unchanged:,}"
    told = facts(
        [
            ("restarts", f"{len(run.starts) - 1:,}" if run.starts else NOT_RECORDED),
            ("steps skipped because their numbers were not finite", unchanged),
            *counted(run),
        ]
    )
    quiet = paragraph("No stop, error, rollback or damaged checkpoint is recorded.")
    return (found or quiet) + told + starts(run)
