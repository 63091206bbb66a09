"""A rank that fails by itself is named by all others, also if it is rank 0."""

from __future__ import annotations

import os
import time

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.end_reports import EndReports
from alexnet_dist.errors import LostRankRunError, PermanentError
from alexnet_dist.system.environment import rendezvous_address
from alexnet_dist.training.ending import explained
from alexnet_dist.training.train import connect
from support.ranks import Ranks
from support.runs import context, settings


def fail(loser: int) -> tuple[str, bool]:
    """Return how this rank ends when another one fails, and whether it says that a restart would end in the same way.

    The last rank serves the store and leaves later, as torchrun's agent does.
    """
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    run = context(settings("topology.layout=paired", "topology.timeout_s=20", "run.directory=/proc/nowhere"))
    reports = EndReports(run.topology)
    if run.topology.rank == run.topology.world_size - 1:
        served = TCPStore("localhost", rendezvous_address()[1], is_master=True, wait_for_workers=False)
    try:
        with explained(run, reports):
            control = Control(connect(run, reports).world)
            control.sums([0.0])
            reports.begin(lambda: 5)
            if run.topology.rank == loser:
                raise PermanentError("checkpoint not written")
            control.sums([0.0])
    except PermanentError as error:
        answer = str(error), True
    except LostRankRunError as error:
        answer = str(error), error.permanent
    if run.topology.rank == run.topology.world_size - 1:
        time.sleep(2.0)
        del served
    return answer


@pytest.mark.parametrize("loser", [0, 1])
def test_the_error_of_a_rank_reaches_all_others(loser: int, run_ranks: Ranks) -> None:
    answers = run_ranks(4, fail, loser)
    assert answers.pop(loser) == ("checkpoint not written", True)
    for message, permanent in answers:
        assert f"rank {loser} failed first: checkpoint not written" in message
        assert permanent
