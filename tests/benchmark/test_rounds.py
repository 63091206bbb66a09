"""Rounds: every contender in turn, in its own process, and figures that are medians over the rounds."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.benchmark import rounds
from alexnet_dist.benchmark.rounds import (
    OTHERS,
    Contender,
    Result,
    others_cpu_cores,
    ratio,
    run_alone,
    run_rounds,
    table,
)
from alexnet_dist.errors import RunError


def result(name: str, *speeds: float, missing: str = "") -> Result:
    return Result(name, tuple({"images_per_second": speed, OTHERS: 0.1} for speed in speeds), missing)


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(contender: Contender) -> Mapping[str, float]:
        ran.append(contender.name)
        return {"images_per_second": float(len(ran))}

    monkeypatch.setattr(rounds, "run_alone", run)
    a, gone, b = run_rounds(
        [Contender("a", "", {}), Contender("gone", "", {}, "not installed"), Contender("b", "", {})], 3
    )
    assert ran == ["a", "b", "a", "b", "a", "b"]
    assert [figures["images_per_second"] for figures in b.rounds] == [2, 4, 6]
    assert gone.rounds == ()
    assert a.median("images_per_second") == 3
    assert a.spread("images_per_second") == 4 / 3
    assert (gone.median("images_per_second"), gone.spread("images_per_second")) == (None, None)
    # A stall is a difference, which may be zero or negative.
    assert result("stall", 3, -1, 0).spread("images_per_second") is None
    assert table([result("stall", 3, -1, 0)], {"images_per_second": "ms"}).splitlines()[1].split() == [
        "stall",
        "0",
        "-",
    ]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, from_round: int) -> list[str]:
    """Let one contender fail from a round on; return the names of those that ran."""
    ran: list[str] = []

    def run(contender: Contender) -> Mapping[str, float]:
        ran.append(contender.name)
        if contender.name == name and ran.count(name) >= from_round:
            raise RunError(
                f"{name}: its process ended with exit code 1\nTraceback\nValueError: fewer shards than workers"
            )
        return {"images_per_second": 1.0, OTHERS: 0.0}

    monkeypatch.setattr(rounds, "run_alone", run)
    return ran


@pytest.mark.parametrize("from_round", [1, 3])
def test_a_peer_that_fails_is_missing_with_its_reason(monkeypatch: pytest.MonkeyPatch, from_round: int) -> None:
    ran = failing(monkeypatch, "theirs", from_round)
    results = run_rounds([Contender("ours", "", {}), Contender("theirs", "", {}, is_peer=True)], 5)
    assert ran.count("ours") == 5
    assert ran.count("theirs") == from_round  # it is not tried again
    ours, theirs = results
    assert theirs == Result("theirs", (), "fails here: ValueError: fewer shards than workers")
    assert ratio(results, "ours", "theirs") is None
    assert "fails here: ValueError: fewer shards than workers" in table(results, {"images_per_second": "images/s"})
    assert (ours.median("images_per_second"), ours.missing) == (1, "")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Traceback\n  File\nValueError: no samples\nTurn it off", "ValueError: no samples Turn it off"),
        ("ValueError: inner\n\nTraceback\n  File\nlib.OtherError: outer", "lib.OtherError: outer"),
        ("a word\nlibffcv.so: not found", "libffcv.so: not found"),
        ("warning: slow\nerror: losses [nan]\nexpected finite ones", "losses [nan] expected finite ones"),
    ],
)
def test_the_reason_is_the_last_exception(output: str, expected: str) -> None:
    assert rounds.reason(RunError(f"theirs: its process ended with exit code 1\n{output}")) == expected


def test_one_of_ours_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "ours", 2)
    with pytest.raises(RunError, match="ours: its process ended with exit code 1"):
        run_rounds([Contender("ours", "", {}), Contender("theirs", "", {}, is_peer=True)], 5)


def test_a_contender_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "RUN_TIMEOUT_S", 0.01)
    with pytest.raises(RunError, match=r"a: its process was killed after 0\.01 s without a result"):
        run_alone(Contender("a", "", {}))


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=5, max_size=9))
def test_a_ratio_is_taken_within_the_rounds(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    value = ratio([result("ours", *ours), result("theirs", *theirs)], "ours", "theirs")
    assert value == statistics.median(a / b for a, b in pairs)


def test_a_machine_that_slows_down_does_not_change_a_ratio() -> None:
    slowing = [1.0, 0.5, 0.25, 0.1, 0.1]
    results = [
        result("ours", *(600 * speed for speed in slowing)),
        result("theirs", *(100 * speed for speed in slowing)),
    ]
    assert ratio(results, "ours", "theirs") == pytest.approx(6)


def test_a_ratio_to_what_is_missing_is_none() -> None:
    assert ratio([result("ours", 1, 2), result("theirs", missing="not installed")], "ours", "theirs") is None
    assert ratio([result("ours", 1, 2)], "ours", "theirs") is None


def test_rows_are_summed_up_for_json() -> None:
    assert result("a", 1, 2, 4).summary() == {"name": "a", "images_per_second": 2, "spread": 1.5}
    assert result("b", missing="not installed").summary() == {"name": "b", "missing": "not installed"}
    assert others_cpu_cores([result("a", 1), result("b", missing="x")]) == 0.1


def test_others_are_reported_at_their_busiest() -> None:
    rounds_of_a = tuple({"images_per_second": 1.0, OTHERS: cores} for cores in (0.2, 0.7, 0.1))
    assert others_cpu_cores([Result("a", rounds_of_a), result("b", 1)]) == 0.7


@pytest.mark.parametrize(("own_s", "others"), [(6.0, False), (4.0, True)])
def test_a_contenders_own_work_is_not_that_of_others(
    monkeypatch: pytest.MonkeyPatch, own_s: float, others: bool
) -> None:
    done = subprocess.CompletedProcess([], 0, 'chatter\n{"images_per_second": 5}\n', "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(rounds, "busy_s", iter((10.0, 16.0)).__next__)
    monkeypatch.setattr(rounds, "children_s", iter((1.0, 1.0 + own_s)).__next__)
    figures = run_alone(Contender("a", "", {}))
    assert figures["images_per_second"] == 5
    assert (figures[OTHERS] > 0) == others


def test_a_core_that_is_idle_or_waits_for_a_disk_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path: "cpu  100 20 30 4000 500 6 7 0 0 0\ncpu0 1 2 3\n")
    assert rounds.busy_s() == pytest.approx(1.63)


def test_the_table_is_aligned() -> None:
    text = table(
        [result("a", 1234.5), result("a longer name", 0.28), result("gone", missing="not installed")],
        {"images_per_second": "images/s", "first_batch_ms": "first batch ms"},
    )
    head, *lines = text.splitlines()
    assert [line.split()[-3:] for line in lines[:2]] == [["1,234", "-", "0%"], ["0.28", "-", "0%"]]
    assert lines[2].split() == ["gone", "not", "installed"]
    end = head.index("images/s") + len("images/s")
    assert all(re.search(r"\d$", line[:end]) for line in lines[:2])


def test_a_contender_that_fails_is_reported_with_its_last_lines() -> None:
    with pytest.raises(RunError, match=r"mine: its process ended with exit code 1\n(.*\n)*.*KeyError: 'no such task'"):
        run_alone(Contender("mine", "no such task", {}))
