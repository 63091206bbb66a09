"""How a run ends with an error: the missing rank is named and killed, and the run directory gets a post-mortem."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.end_reports import EndReports
from alexnet_dist.distributed.lost_rank import LostRankError, lost_rank_sentence
from alexnet_dist.distributed.post_mortem import Diagnosis, diagnose, explanation, page
from alexnet_dist.errors import LostRankRunError, PermanentError, RollbackError, UserError
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG, POST_MORTEM
from alexnet_dist.system.files import replace_file
from alexnet_dist.system.signals import StopRequest
from alexnet_dist.training.context import RunContext

MEET_S = 15.0  # longer than a rank waits for its last scrape


class LastScrape:
    """Keeps a rank's metrics up at its end until they were scraped once more, so that the end is seen.

    Only at an end for good, of a run that is finished, has diverged or met another error that a restart would not cure:
    a run that a signal has stopped or that has lost a rank leaves at once, to be started again.
    """

    def __init__(self, metrics: Metrics, stop: StopRequest, control: Control) -> None:
        """Take what is scraped, and what is told of signals, which end the wait; finished: set when the plan ends."""
        self._metrics, self._stop, self._control, self.finished = metrics, stop, control, False

    def __enter__(self) -> LastScrape:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait, if this is an end for good."""
        if isinstance(error, UserError | PermanentError) if error else self.finished:
            self._metrics.wait_for_scrape(self._stop.wait)
        if self.finished and not error:
            # Rank 0 removes the list of addresses next, and Prometheus then scrapes no rank any more.
            self._control.meet(MEET_S)


@contextmanager
def explained(run: RunContext, reports: EndReports) -> Iterator[None]:
    """Report an error that ends this rank to the others, and write the post-mortem if training had begun.

    Turns a lost rank into LostRankRunError, whose sentence names the missing ranks as all reports show them.
    """
    try:
        yield
    except RollbackError:
        raise  # the same command goes on, in the same processes
    except LostRankError as error:
        raise _explain(run, reports, error) from None
    except Exception as error:
        own = reports.report(error)
        if isinstance(error, UserError) and run.topology.rank and reports.training:
            error.one_rank = not reports.is_shared(own)
        _write_page(run, reports, diagnose(run.topology, {own.rank: own}))
        raise


def _explain(run: RunContext, reports: EndReports, error: LostRankError) -> LostRankRunError:
    """Find the missing ranks, kill those of this node that still exist, and return this rank's last sentence."""
    reports.report(error)
    diagnosis = reports.diagnose()
    killed = reports.kill(diagnosis)
    by_rank = reports.reports()
    known = explanation(run.topology, by_rank, diagnosis)
    if killed:
        numbers = ", ".join(map(str, killed))
        known += f"; rank {run.topology.rank} killed rank {numbers}, for which torchrun would wait 30 s"
    _write_page(run, reports, diagnosis)
    reports.leave(diagnosis)
    end = LostRankRunError(lost_rank_sentence(run.topology, error.operation, error.reason, diagnosis.lost, known))
    # On another node than the failed rank's, torchrun's agent learns it from this rank only.
    end.permanent = any(by_rank[rank].permanent for rank in diagnosis.lost if rank in by_rank)
    return end


def _write_page(run: RunContext, reports: EndReports, diagnosis: Diagnosis) -> None:
    """Write the post-mortem, on one rank whose node has the run directory."""
    try:
        if not reports.training or not (run.directory / CONFIG).exists() or not reports.claim_page():
            return
        steps = checkpoint.finished_steps(run.directory / CHECKPOINTS)
        text = page(run.topology, reports.wait_for_reports(diagnosis), diagnosis, max(steps, default=None), time.time())
        replace_file(run.directory / POST_MORTEM, text.encode())
    except OSError as error:
        print(f"{run.directory / POST_MORTEM}: not written: {error.strerror}", file=sys.stderr, flush=True)
