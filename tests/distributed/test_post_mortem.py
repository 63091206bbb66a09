"""Which ranks are missing follows from the reports of the others, and the post-mortem fits on one page."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.distributed.lost_rank import AVERAGING, CONTROL
from alexnet_dist.distributed.post_mortem import (
    FAILED,
    RUNNING,
    SILENT,
    STOPPED,
    STORE,
    Diagnosis,
    EndReport,
    diagnose,
    explanation,
    page,
    why,
)
from alexnet_dist.distributed.topology import Topology


def topology(world_size: int = 4, rank: int = 1) -> Topology:
    return Topology(rank, world_size, rank, "paired", torch.device("cpu"))


def report(rank: int, operation: str = CONTROL, **fields: object) -> EndReport:
    whole = EndReport(rank, "node", operation, "Timed out", 7, 100.0 + rank)
    return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]


def by_rank(*reports: EndReport) -> dict[int, EndReport]:
    return {one.rank: one for one in reports}


WAITS = by_rank(report(0, AVERAGING), report(1, AVERAGING), report(3, "fc7 forward"))


def test_the_rank_that_does_not_report_is_missing_and_not_the_one_waited_for() -> None:
    """Rank 1 waits for rank 3, which is alive and waits for rank 2."""
    assert diagnose(topology(), WAITS).lost == {2: SILENT}
    assert not diagnose(topology(), WAITS).certain


def test_a_stopped_sibling_is_certain_at_once() -> None:
    reports = by_rank(report(0, AVERAGING, siblings={1: RUNNING, 2: STOPPED, 3: RUNNING}))
    assert diagnose(topology(), reports) == Diagnosis({2: STOPPED}, certain=True)


def test_what_was_seen_first_counts() -> None:
    """A stopped rank is killed as soon as it is known to be stopped."""
    reports = by_rank(report(0, siblings={2: STOPPED}), report(3, siblings={2: "signal 9"}))
    assert diagnose(topology(), reports).lost == {2: STOPPED}
    reports = by_rank(report(0, siblings={2: RUNNING}), report(3, siblings={2: "signal 9"}))
    assert diagnose(topology(), reports).lost == {2: "signal 9"}


def test_a_rank_that_reported_and_left_is_not_missing() -> None:
    reports = by_rank(report(0, siblings={2: "signal 9"}), report(3, siblings={2: "gone", 0: "gone"}))
    assert diagnose(topology(), reports).lost == {2: "signal 9"}


def test_a_rank_with_an_error_of_its_own_failed_first() -> None:
    failed = report(3, "", reason="the disk is full", time_s=200.0)
    found = diagnose(topology(), by_rank(*WAITS.values(), failed))
    assert (found.lost, found.certain) == ({3: FAILED}, True)
    assert why(found, 3) == "failed first: the disk is full"
    again = report(2, "", reason="the disk is full", time_s=150.0)
    assert list(diagnose(topology(), by_rank(failed, again)).lost) == [2]


def test_silent_ranks_for_which_nobody_waits_are_not_suspected() -> None:
    assert diagnose(topology(), by_rank(report(3, "fc7 forward"))).lost == {2: SILENT}
    hung = report(3, "fc7 forward", siblings={0: RUNNING, 1: RUNNING, 2: RUNNING})
    assert diagnose(topology(), by_rank(hung)).lost == {2: RUNNING}


def test_a_process_that_runs_has_closed_no_connection() -> None:
    """Ranks 2 and 3 were on a lost node; rank 1 still waits for rank 0's part of the sum."""
    lost = report(0, reason="Read error [10.0.0.2]:1: Connection reset by peer", siblings={1: RUNNING})
    assert diagnose(topology(rank=0), by_rank(lost)).lost == {2: SILENT, 3: SILENT}
    silent = report(0, reason="Timed out waiting 20000ms", siblings={1: RUNNING})
    assert diagnose(topology(rank=0), by_rank(silent)).lost == {1: RUNNING, 2: SILENT, 3: SILENT}
    only = report(0, reason=lost.reason, siblings={1: RUNNING, 2: RUNNING, 3: RUNNING})
    assert diagnose(topology(rank=0), by_rank(only)).lost == {1: RUNNING, 2: RUNNING, 3: RUNNING}


def test_if_all_ranks_report_it_was_the_network() -> None:
    reports = by_rank(*map(report, range(4)))
    assert diagnose(topology(), reports) == Diagnosis({}, certain=True)
    assert explanation(topology(), reports, Diagnosis({}, True)).startswith("every rank is alive: the network")


def test_a_store_that_is_gone_points_at_the_rank_that_serves_it() -> None:
    found = diagnose(topology(), by_rank(report(1)), store_is_gone=True, rank_0_serves=True)
    assert found.lost == {0: STORE}
    seen = by_rank(report(1, siblings={0: RUNNING, 2: "signal 9", 3: RUNNING}))
    assert diagnose(topology(), seen, store_is_gone=True, rank_0_serves=True).lost == {2: "signal 9"}


@pytest.mark.parametrize("state", ["gone", "exit code 1"])
def test_a_process_that_ended_without_the_store_may_have_reported(state: str) -> None:
    seen = by_rank(report(3, "fc7 forward", siblings={2: state}))
    assert diagnose(topology(), seen).lost == {2: state}
    assert diagnose(topology(), seen, store_is_gone=True, rank_0_serves=True).lost == {0: STORE}
    served = by_rank(report(1, siblings={0: state}))
    assert diagnose(topology(), served, store_is_gone=True, rank_0_serves=True).lost == {0: state}


@pytest.mark.parametrize(
    ("state", "phrase"),
    [
        (STOPPED, "is stopped (SIGSTOP, or a debugger)"),
        ("signal 9", "was killed by SIGKILL (kill -9, or the kernel because memory ran out)"),
        ("signal 11", "was killed by SIGSEGV"),
        ("signal 63", "was killed by signal 63"),
        ("exit code 3", "has ended with exit code 3 and without a report"),
        ("gone", "has ended without a report"),
        (RUNNING, "does not answer, although its process runs"),
    ],
)
def test_an_end_is_described_as_it_was_seen(state: str, phrase: str) -> None:
    assert why(Diagnosis({2: state}, certain=True), 2) == phrase


def test_a_sentence_says_who_waits_for_whom() -> None:
    found = explanation(topology(), WAITS, Diagnosis({2: STOPPED}, certain=True))
    assert found == (
        "rank 2 is stopped (SIGSTOP, or a debugger); rank 0 waited for rank 2 at averaging;"
        " rank 3 waited for rank 2 at fc7 forward"
    )


def test_the_page_has_a_line_for_each_rank() -> None:
    text = page(topology(), WAITS, Diagnosis({2: "signal 9"}, certain=True), 5, 0.0)
    assert "failed first         rank 2 (replica 1, tower 0) was killed by SIGKILL" in text
    assert "last completed step  7\nresumes from         step 5\n" in text
    lines = text.splitlines()
    assert "   2          -  was killed by SIGKILL (kill -9, or the kernel because memory ran out)" in lines
    assert "   3          7  waited for rank 2 at fc7 forward (Timed out)" in lines
    assert "likely cause  out of memory, or a kill -9 by someone or by the scheduler" in lines


STATES = st.sampled_from([STOPPED, RUNNING, "gone", "signal 9", "signal 15", "exit code 1"])
OPERATIONS = st.sampled_from([CONTROL, AVERAGING, "fc6 backward", ""])


@given(st.data(), st.integers(1, 600).map(lambda half: 2 * half))
def test_any_reports_give_one_page_that_names_only_ranks_that_did_not_wait(data: st.DataObject, world: int) -> None:
    ranks = data.draw(st.sets(st.integers(0, world - 1), min_size=1, max_size=12))
    siblings = st.dictionaries(st.integers(0, world - 1), STATES, max_size=6)
    reports = by_rank(
        *(
            report(rank, data.draw(OPERATIONS), siblings=data.draw(siblings), step=data.draw(st.none()))
            for rank in ranks
        )
    )
    found = diagnose(topology(world), reports)
    assert all(rank not in reports or not reports[rank].operation for rank in found.lost)
    assert bool(found.lost) or reports.keys() == set(range(world))
    lines = page(topology(world), reports, found, None, 0.0).splitlines()
    assert len(lines) <= 60
    assert f"{world - 32} more ranks" in lines[-4] or world <= 32
