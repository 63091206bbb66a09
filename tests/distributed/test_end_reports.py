"""Real ranks exchange their end reports: every one names the rank that is stopped, which one of them kills."""

from __future__ import annotations

import os
import signal
import time

import pytest

from alexnet_dist.distributed.end_reports import GATHER_S, EndReports, within
from alexnet_dist.distributed.lost_rank import AVERAGING, LostRankError
from alexnet_dist.distributed.post_mortem import STOPPED, STORE
from alexnet_dist.distributed.preflight import check_ranks, rank_info
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.system.environment import launch_info
from support.ranks import Ranks

Answer = tuple[dict[int, str], list[int], bool, float]


def open_reports(node: str = "node") -> EndReports:
    """Return the reports of this rank; node: on which it says it is."""
    launched = launch_info()
    topology = resolve_topology("paired", "cpu", launched)
    reports = EndReports(topology)
    room = check_ranks(rank_info(launched, "paired", "cpu", "gloo", {}), launched.world_size, 20)
    reports.open(room, node, launched.local_world_size, launched.agent_store)
    return reports


def end(reports: EndReports, operation: str = AVERAGING) -> Answer:
    """Report a lost rank; return which are missing, which this rank killed, whether it writes the page, and seconds."""
    began_s = time.monotonic()
    reports.report(LostRankError(operation, "Timed out"))
    found = reports.diagnose()
    killed = reports.kill(found)
    answer = dict(found.lost), killed, reports.claim_page(), time.monotonic() - began_s
    reports.leave(found)
    return answer


def lose(loser: int, number: signal.Signals, one_node: bool) -> Answer:
    rank = launch_info().rank
    reports = open_reports("node" if one_node else f"node {rank // 2}")
    time.sleep(0.5)  # by now all know each other
    if rank == loser:
        os.kill(os.getpid(), number)
    time.sleep(0.5)  # by now it is lost
    return end(reports)


def survivors(answers: list[Answer | None], loser: int) -> list[Answer]:
    assert [rank for rank, answer in enumerate(answers) if answer is None] == [loser]
    return [answer for answer in answers if answer is not None]


def test_all_name_the_stopped_rank_and_one_kills_it(run_ranks: Ranks) -> None:
    answers = survivors(run_ranks(4, lose, 2, signal.SIGSTOP, True, lost={2}), 2)
    assert all(lost == {2: STOPPED} for lost, *_ in answers)
    assert [2] in [killed for _, killed, *_ in answers]
    assert sum(writes for _, _, writes, _ in answers) == 1
    assert max(seconds for *_, seconds in answers) < GATHER_S


def test_what_the_sibling_of_another_node_saw_is_known_to_all(run_ranks: Ranks) -> None:
    answers = survivors(run_ranks(4, lose, 3, signal.SIGSTOP, False, lost={3}), 3)
    assert [(lost, killed) for lost, killed, *_ in answers] == [
        ({3: STOPPED}, []),
        ({3: STOPPED}, []),
        ({3: STOPPED}, [3]),
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_rank_that_serves_the_store_is_named_too(number: signal.Signals, run_ranks: Ranks) -> None:
    answers = survivors(run_ranks(4, lose, 0, number, False, lost={0}), 0)
    by_sibling, *elsewhere = [next(iter(lost.items())) for lost, *_ in answers]
    assert by_sibling[0] == 0
    assert by_sibling[1] == STOPPED if number == signal.SIGSTOP else by_sibling[1] in ("gone", "signal 9")
    assert elsewhere == [(0, STORE)] * 2
    assert max(seconds for *_, seconds in answers) < GATHER_S + 2


def waits(loser: int) -> list[bool]:
    """Return whether this rank waits in vain: at first, when one is lost, and when it has noticed that."""
    reports = open_reports()
    time.sleep(0.5)  # by now all know each other
    answers = [reports.waits_in_vain()]
    time.sleep(0.5)
    if launch_info().rank == loser:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)  # by now it is lost
    answers.append(reports.waits_in_vain())
    reports.report(LostRankError(AVERAGING, "Connection closed by peer"))
    return [*answers, reports.waits_in_vain()]


def test_a_rank_knows_whether_it_waits_in_vain(run_ranks: Ranks) -> None:
    answers = run_ranks(4, waits, 2, lost={2})
    assert [answer for answer in answers if answer is not None] == [[False, True, False]] * 3


def fail(loser: int) -> Answer | None:
    reports = open_reports()
    if launch_info().rank == loser:
        reports.report(ValueError("a bug"))
        time.sleep(1.0)
        return None
    time.sleep(0.3)
    return end(reports)


def test_the_error_of_a_rank_that_failed_by_itself_reaches_the_others(run_ranks: Ranks) -> None:
    answers = survivors(run_ranks(4, fail, 1), 1)
    assert all(lost == {1: "failed"} and not killed for lost, killed, *_ in answers)


def shared(sentences: list[str]) -> bool:
    reports = open_reports()
    own = reports.report(ValueError(sentences[launch_info().rank]))
    found = reports.is_shared(own)
    time.sleep(1.0)  # rank 0 serves the store
    return found


def test_a_rank_knows_whether_rank_0_reports_the_same_error(run_ranks: Ranks) -> None:
    assert run_ranks(2, shared, ["diverged", "diverged"])[1]
    assert not run_ranks(2, shared, ["diverged", "a bad sample"])[1]


def test_a_call_that_does_not_return_is_left_behind() -> None:
    began_s = time.monotonic()
    assert within(0.1, lambda: time.sleep(5)) is None
    assert time.monotonic() - began_s < 2
    assert within(5.0, lambda: 3) == 3


def test_a_single_process_has_nobody_to_ask() -> None:
    reports = EndReports(resolve_topology("fused", "cpu", launch_info({})))
    own = reports.report(ValueError("a bug"))
    assert (own.operation, own.reason, own.step) == ("", "a bug", None)
    assert reports.reports() == {0: own}
    assert reports.claim_page()
