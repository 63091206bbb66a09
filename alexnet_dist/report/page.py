"""The page of a report: its sections in order, for the file and for the live page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TypeVar

from alexnet_dist.report import overview, provenance, sections
from alexnet_dist.report.history import History
from alexnet_dist.report.markup import document, paragraph
from alexnet_dist.report.net import NetPictures
from alexnet_dist.report.ranks import Ranks, recorded_ranks

T = TypeVar("T")


def file_page(runs: Sequence[History], nets: Sequence[NetPictures | str]) -> str:
    """Return the whole page of runs and their nets, as it is written to a file."""
    parts = [
        _head(runs),
        overview.standing(runs),
        _section("Curves", overview.curves(runs)),
        _section("Time", overview.data_waits(runs) + "".join(map(_phases, runs))),
        _section("Errors beside the paper's", sections.errors(runs)),
    ]
    for run, net in zip(runs, nets, strict=True):
        of_run = f": {run.name}" if len(runs) > 1 else ""
        parts += [
            _section(f"Kernels of the first layer{of_run}", sections.kernels(run.name, net)),
            _section(f"Predictions{of_run}", sections.predictions(net)),
            _section(f"Nearest neighbours{of_run}", sections.neighbours(net)),
            _section(f"Faults and restarts{of_run}", sections.happenings(run)),
            _section(f"Provenance{of_run}", provenance.provenance(run)),
            _section(f"Configuration{of_run}", provenance.configuration(run)),
        ]
    return document(overview.title(runs), "\n".join(parts))


def live_body(runs: Sequence[History], nets: Sequence[NetPictures | str], ranks: Sequence[Ranks | str]) -> str:
    """Return what the live page shows of runs, their nets, and the ranks that answer."""
    return "\n".join(
        [
            overview.standing(runs),
            _section("Curves", overview.curves(runs)),
            _section("Phases by rank", _each(overview.phases_by_rank, runs, ranks)),
            _section("Kernels of the first layer", _each(sections.kernels, runs, nets)),
            *(_section(f"Faults: {run.name}", sections.happenings(run)) for run in runs if run.events),
        ]
    )


def _phases(run: History) -> str:
    """Return the phases of a run's ranks in the last start that has recorded them."""
    start = f", start {run.ends[-1].get('start')}" if run.ends else ""
    return overview.phases_by_rank(f"Phases by rank: {run.name}{start}", recorded_ranks(run.ends))


def _each(draw: Callable[[str, T], str], runs: Sequence[History], values: Sequence[T]) -> str:
    return "".join(draw(run.name, value) for run, value in zip(runs, values, strict=True))


def _head(runs: Sequence[History]) -> str:
    written = f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by python -m alexnet_dist.report; it needs no network."
    return f"<h1>{escape(overview.title(runs))}</h1>{paragraph(written, 'soft')}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"
