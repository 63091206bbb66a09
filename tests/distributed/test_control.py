"""Decisions of all ranks: sums of their numbers, their texts, work that rank 0 does for all, requests to stop."""

from __future__ import annotations

from alexnet_dist.distributed.control import Control, StopPoll
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import UserError
from alexnet_dist.system.environment import launch_info
from support.ranks import Ranks


def control_of_all_ranks() -> Control:
    return Control(open_groups(resolve_topology("fused", "cpu", launch_info()), 60).world)


def answer_or_refuse(refuse: bool) -> tuple[object, str]:
    """Let rank 0 answer or raise UserError; return this rank's answer, or the message of the error that it raised."""
    control = control_of_all_ranks()

    def work() -> list[object]:
        if refuse:
            raise UserError("the disk is full")
        return [7, None, "seven"]

    try:
        return control.run_on_rank0(work), ""
    except UserError as error:
        return None, str(error)
    finally:
        close_groups()


def test_rank_0_answers_for_all(run_ranks: Ranks) -> None:
    assert run_ranks(2, answer_or_refuse, False) == [([7, None, "seven"], "")] * 2
    rejection = "rank 0 rejected the run; see its error"
    assert run_ranks(2, answer_or_refuse, True) == [(None, "the disk is full"), (None, rejection)]


def test_a_run_of_one_process_answers_itself() -> None:
    assert Control(None).run_on_rank0(lambda: 7) == 7


def rank_0_alone_works() -> tuple[bool, bool]:
    """Return whether this rank did the work of rank 0, and whether the answer came from rank 0."""
    control, worked = control_of_all_ranks(), []

    def work() -> int:
        worked.append(True)
        return launch_info().rank

    answer = control.run_on_rank0(work)
    close_groups()
    return bool(worked), answer == 0


def test_only_rank_0_does_its_work(run_ranks: Ranks) -> None:
    assert run_ranks(3, rank_0_alone_works) == [(True, True), (False, True), (False, True)]


def shared() -> tuple[list[float], list[float], list[str]]:
    """Return the sums of two posts that are waited for in order, and every rank's text."""
    control, rank = control_of_all_ranks(), launch_info().rank
    pending = [control.post([rank, 0.5]), control.post([10.0 * rank])]
    sums = [control.wait(post) for post in pending]
    texts = control.gather(f"rank {rank}")
    close_groups()
    return sums[0], sums[1], texts


def test_every_rank_has_the_same_sums_and_texts(run_ranks: Ranks) -> None:
    assert run_ranks(3, shared) == [([3.0, 1.5], [30.0], ["rank 0", "rank 1", "rank 2"])] * 3


def test_a_run_of_one_process_shares_with_itself() -> None:
    control = Control(None)
    assert control.sums([1.0, 2.5]) == [1.0, 2.5]
    assert control.gather("alone") == ["alone"]


def polled(requested_at: int) -> tuple[list[bool], bool]:
    """Poll four times, while rank 1 is asked to stop from the call `requested_at` on; return the answers and the rest.

    requested_at: index of a call, or 4 for never.
    """
    control, rank = control_of_all_ranks(), launch_info().rank
    calls = iter(range(4))
    poll = StopPoll(control, lambda: rank == 1 and next(calls) >= requested_at)
    answers = [poll() for _ in range(4)]
    rest = poll.drain()
    assert poll.drain() is False  # nothing is open any more
    close_groups()
    return answers, rest


def test_a_request_to_stop_reaches_every_rank_one_call_later(run_ranks: Ranks) -> None:
    assert run_ranks(3, polled, 1) == [([False, False, True, True], True)] * 3
    assert run_ranks(3, polled, 3) == [([False] * 4, True)] * 3  # of the last call: only drain returns it
    assert run_ranks(3, polled, 4) == [([False] * 4, False)] * 3


def test_a_poll_of_one_process_also_answers_one_call_later() -> None:
    requests = [False, True, False]
    poll = StopPoll(Control(None), lambda: requests.pop(0))
    assert [poll(), poll(), poll()] == [False, False, True]
    assert not poll.drain()
