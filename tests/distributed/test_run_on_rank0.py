"""Work that rank 0 does for all ranks: its answer, or its error, reaches every one."""

from __future__ import annotations

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import UserError
from alexnet_dist.process import launch_info
from support.ranks import Ranks


def answer_or_refuse(refuse: bool) -> tuple[object, str]:
    """Let rank 0 answer or raise UserError; return this rank's answer, or the message of the error that it raised."""
    control = Control(open_groups(resolve_topology("fused", "cpu", launch_info()), 60).world)

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
