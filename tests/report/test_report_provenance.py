"""Where a run comes from, as drawn: its starts, what its ranks have counted, and the sources of its configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.report.history import History, read_history
from alexnet_dist.report.page import file_page
from alexnet_dist.report.provenance import configuration, counted, provenance, starts
from alexnet_dist.report.ranks import MOST_RANKS, Ranks, recorded_ranks
from alexnet_dist.runs.directory import RANKS, STARTS
from support.histories import write_lines, write_recorded_run

MARKUP = "<b>"
FIRST: dict[str, Any] = {
    "start": 1, "began": "2026-01-02T03:04:05Z", "step": 0, "world_size": 4, "replicas": 2, "layout": "paired",
    "device": "cpu", "ranks_by_host": {f"node{MARKUP}": 2, "other": 2}, "alexnet_dist": "0.1.0", "torch": "2.13.0",
    "python": "3.11.7", "commit": "0123456789abcdef0123456789abcdef01234567-dirty",
    "command": ["python", "train.py", "run.directory=a b"], "origins": {},
}  # fmt: skip
LAST = FIRST | {"start": 3, "step": 150, "commit": None, "origins": {"model.classes": f"mine{MARKUP}.yaml:7"}}


def end(start: int, rank: int, **changes: Any) -> dict[str, Any]:
    """Return the line of a rank at the end of a start of ten steps, of which each takes 0.3 s."""
    return {
        "start": start, "rank": rank, "host": "node", "step": 100 * start, "steps": 10,
        "phase_s": {"forward": 1.0, "backward": 2.0}, "bad_samples": {"checksum": rank, "damaged": 0},
        "skipped_batches": 0, "checkpoint_failures": 1, **changes,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> History:
    """A run of three starts, of which the second had no end in order."""
    directory = write_recorded_run(tmp_path)
    write_lines(directory / STARTS, [FIRST, FIRST | {"start": 2, "step": 100}, LAST])
    slow = {"phase_s": {"forward": 9.0}}
    ends = [end(start, rank, **(slow if start == 1 else {})) for start in (1, 3) for rank in (1, 0)]
    write_lines(directory / RANKS, ends)
    return read_history(directory, "run")


def plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_each_start_has_a_row(run: History) -> None:
    text = plain(starts(run))
    assert "1 2026-01-02 03:04:05 0 100 4 (2 replicas, paired), cpu node&lt;b&gt; (2), other (2)" in text
    assert "2 2026-01-02 03:04:05 100 no regular end 4" in text
    assert text.count("commit 0123456789ab-dirty") == 2
    assert "A start has a regular end when" in text


def test_what_the_ranks_have_counted_is_summed(run: History) -> None:
    said = dict(counted(run))
    of = " (in 2 of 3 starts: the others had no end)"
    assert said["bad samples, for which others were substituted"] == f"2 (checksum: 2){of}"
    assert said["checkpoints that could not be written"] == f"2{of}"  # not those of each rank, which count the same


def test_the_last_start_is_named(run: History) -> None:
    text = plain(provenance(run))
    assert "command of the last start python train.py &#x27;run.directory=a b&#x27;" in text
    assert "software of the last start alexnet_dist 0.1.0, torch 2.13.0, Python 3.11.7" in text
    assert "commit not known: not run from a git checkout" in text


def test_values_have_their_sources(run: History) -> None:
    text = plain(configuration(run))
    assert "model.classes 7 1000 mine&lt;b&gt;.yaml:7" in text
    assert re.search(r"classes: 7 +# mine&lt;b&gt;\.yaml:7", text)
    assert re.search(r"flip: true +# default", text)


def test_the_phases_are_those_of_the_last_end(run: History) -> None:
    found = recorded_ranks(run.ends)
    assert isinstance(found, Ranks)
    assert [each.rank for each in found.answered] == [0, 1]
    text = file_page([run], ["no net"])
    assert "Phases by rank: run, start 3" in text
    assert re.findall(r">([\d.]+ ms)</text>", text) == ["300.0 ms"] * 2
    many = recorded_ranks([end(1, rank) for rank in range(MOST_RANKS + 3)])
    assert isinstance(many, Ranks)
    assert (len(many.answered), many.not_shown) == (MOST_RANKS, 3)


def test_a_run_of_an_earlier_version_has_a_page(tmp_path: Path) -> None:
    run = read_history(write_recorded_run(tmp_path), "run")
    text = plain(file_page([run], ["no net"]))
    assert "restarts not recorded in the run directory" in text
    assert "the ranks have recorded nothing" in text
    assert "Starts" not in text


@pytest.mark.parametrize(
    "line", [{}, {"start": 1}, end(1, 0, phase_s=3), end(1, 0, steps="x"), end(1, 0, bad_samples=None)]
)
def test_lines_of_something_else_end_nothing(line: dict[str, Any], tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path)
    write_lines(directory / STARTS, [line])
    write_lines(directory / RANKS, [line])
    assert f"{RANKS} has a line that is not one of a rank" in file_page([read_history(directory, "run")], ["no net"])
