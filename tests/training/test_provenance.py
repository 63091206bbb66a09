"""What a run records of itself: every key is documented, and each start and each rank's end has its line."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.runs.directory import read_lines
from support.training import REPOSITORY, STEPS

RECORDS = ("metrics.jsonl", "evaluations.jsonl", "starts.jsonl", "ranks.jsonl", "samples-rank-0.jsonl")
KINDS: dict[str, Callable[[Any], bool]] = {
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def documented(name: str) -> dict[str, list[str]]:
    """Return the types of a record's keys, as the document has them."""
    text = (REPOSITORY / "docs" / "records.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    return {
        key: kinds.split(" or ") for key, kinds in re.findall(r"^\| `(\w+)` \| ([\w ]+?) \|", section, re.MULTILINE)
    }


@pytest.mark.parametrize("name", RECORDS)
def test_every_key_is_documented_and_written(name: str, undisturbed: Path) -> None:
    lines, keys = read_lines(undisturbed / name), documented(name)
    assert lines
    for line in lines:
        assert list(line) == list(keys)
        for key, value in line.items():
            assert any(KINDS[kind](value) for kind in keys[key]), (key, value)


def test_a_start_says_where_it_comes_from(undisturbed: Path) -> None:
    (start,) = read_lines(undisturbed / "starts.jsonl")
    assert (start["start"], start["step"], start["world_size"], start["replicas"]) == (1, 0, 4, 2)
    assert start["ranks_by_host"] == {platform.node(): 4}
    assert start["python"] == platform.python_version()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", start["began"])


def test_the_ranks_say_at_the_end_what_they_have_done(undisturbed: Path) -> None:
    lines = read_lines(undisturbed / "ranks.jsonl")
    assert [line["rank"] for line in lines] == [0, 1, 2, 3]
    recorded_s = sum(line["step_s"] for line in read_lines(undisturbed / "metrics.jsonl"))
    for line in lines:
        assert (line["start"], line["step"], line["steps"], line["skipped_batches"]) == (1, STEPS, STEPS, 0)
        assert set(line["bad_samples"].values()) == {0}
        assert all(seconds >= 0 for seconds in line["phase_s"].values())
    assert sum(lines[0]["phase_s"].values()) == pytest.approx(recorded_s, rel=0.02)  # a line of metrics for each step
