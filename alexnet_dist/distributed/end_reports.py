"""What ranks report when they end with an error, exchanged through the room, so that the missing rank is named.

A rank that waits in an operation knows only for whom it waits, not who is missing: at 2x2 with rank 2 stopped, rank 1
may wait for rank 3, which itself waits for rank 2. So each rank that ends with an error leaves a report. The first one
that lost another rank reads the reports, decides which ranks are missing, and leaves the diagnosis for all.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from alexnet_dist.distributed.lost_rank import LostRankError
from alexnet_dist.distributed.post_mortem import RUNNING, SILENT, STOPPED, Diagnosis, EndReport, diagnose
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import PermanentError, UserError
from alexnet_dist.system.process import sibling_state

Answer = TypeVar("Answer")
# How long reports are waited for: until nothing is certain any more; for a page; for rank 0's, about the same error.
GATHER_S, PAGE_S, SHARED_S = 3.0, 0.5, 1.0
# How long other processes' ids are waited for at the start, and the other ranks by the one that serves the store.
OPEN_S, SERVE_S, POLL_S = 2.0, 1.0, 0.05
DYING_S = (0.02, 0.05, 0.1)
LOG, DECIDING, DIAGNOSIS, WRITING, DONE = "log", "deciding", "diagnosis", "writing", "done"


def within(limit_s: float, work: Callable[[], Answer]) -> Answer | None:
    """Return what `work` returns, or None if the store fails or does not answer within `limit_s`.

    A store's calls wait for ever for a server that is stopped or cut off, whatever their timeout. So they are made in
    a thread, which is left behind.
    """
    answers: list[Answer] = []

    def answer() -> None:
        with suppress(dist.DistError):
            answers.append(work())

    thread = threading.Thread(target=answer, name="end reports", daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else None


class EndReports:
    """The end reports of the ranks of one attempt, as one rank sees them."""

    def __init__(self, topology: Topology) -> None:
        """Begin without a store: of a single process, or before the ranks have found each other."""
        self._topology = topology
        self._store: Store | None = None
        self._node, self._agent_store = "", True
        self._siblings: dict[int, int] = {}
        self._own: EndReport | None = None
        self._last_step: Callable[[], int] | None = None

    def open(self, store: Store | None, node: str, local_ranks: int, agent_store: bool) -> None:
        """Publish this process's id in the attempt's store, and learn those of the other ranks of the node.

        node: equal for the ranks of one torchrun, `local_ranks` of them. agent_store: whether torchrun serves the
        store; otherwise rank 0 does.
        """
        if store is None:
            return
        self._node, self._agent_store = node, agent_store
        self._store = PrefixStore("ends", store)
        with suppress(dist.DistError):  # a rank is lost already: the creation of the groups reports it
            self._siblings = self._processes(self._store, local_ranks)

    def _processes(self, store: Store, local_ranks: int) -> dict[int, int]:
        """Publish this process's id and return those of the other ranks of the node, by rank."""
        rank, found = self._topology.rank, {}
        store.set(f"process/{rank}", json.dumps([self._node, os.getpid()]))
        first, end = max(0, rank - local_ranks + 1), min(self._topology.world_size, rank + local_ranks)
        end_s = time.monotonic() + OPEN_S
        for other in range(first, end):
            key = f"process/{other}"
            while not store.check([key]) and time.monotonic() < end_s:
                time.sleep(POLL_S)
            if other != rank and store.check([key]):
                node, process = json.loads(store.get(key))
                if node == self._node:
                    found[other] = process
        return found

    def begin(self, last_step: Callable[[], int]) -> None:
        """Take what returns the last completed step: training begins."""
        self._last_step = last_step

    @property
    def training(self) -> bool:
        """Whether training has begun."""
        return self._last_step is not None

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Leave a report at once if what is inside ends with an error, before anything is closed."""
        try:
            yield
        except Exception as error:
            self.report(error)
            raise

    def report(self, error: Exception) -> EndReport:
        """Leave this rank's report, once, and return it."""
        if self._own is None:
            lost = isinstance(error, LostRankError)
            operation, reason = (error.operation, error.reason) if isinstance(error, LostRankError) else ("", "")
            self._own = EndReport(
                rank=self._topology.rank,
                node=self._node,
                operation=operation,
                reason=reason if lost else str(error) or type(error).__name__,
                step=None if self._last_step is None else self._last_step(),
                time_s=time.time(),
                siblings=self._states(),
                permanent=isinstance(error, (UserError, PermanentError)),
            )
            line = json.dumps(asdict(self._own)) + "\n"
            self._call(lambda store: store.append(LOG, line))  # type: ignore[attr-defined]  # torch's stubs lack it
        return self._own

    def _states(self) -> dict[int, str]:
        """Return what the other processes of this node do, by rank.

        A process that is being killed closes its connections a moment before its state shows it.
        """
        for delay_s in (*DYING_S, 0.0):
            states = {rank: sibling_state(process) for rank, process in self._siblings.items()}
            if set(states.values()) != {RUNNING}:
                break
            time.sleep(delay_s)
        return states

    def waits_in_vain(self) -> bool:
        """Return whether another rank of this node has ended, and this one has not noticed it.

        Rarely, gloo does not report a closed connection, and a rank would wait for its timeout.
        """
        states = {sibling_state(process) for process in self._siblings.values()}
        return self._own is None and not states <= {RUNNING, STOPPED}

    def reports(self) -> dict[int, EndReport]:
        """Return the reports so far, by rank; at least this rank's own."""
        reports = self._call(_read) or {}
        return reports if self._own is None else {**reports, self._own.rank: self._own}

    def diagnose(self) -> Diagnosis:
        """Return which ranks are missing, the same on every rank that can reach the store."""
        diagnosis = self._call(self._agree, GATHER_S + 1.0)
        if diagnosis is not None:
            return diagnosis
        return diagnose(self._topology, self.reports(), store_is_gone=True, rank_0_serves=not self._agent_store)

    def kill(self, diagnosis: Diagnosis) -> list[int]:
        """Kill the missing ranks of this node whose processes still exist, and return them.

        torchrun would wait 30 s for a stopped or hung process before it kills it.
        """
        killed = []
        for rank, state in diagnosis.lost.items():
            process = self._siblings.get(rank)
            if process is None or state not in (STOPPED, RUNNING, SILENT):
                continue
            if sibling_state(process) in (STOPPED, RUNNING):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed.append(rank)
        return killed

    def claim_page(self) -> bool:
        """Return whether this rank writes the post-mortem: the first one that asks, or the lowest known to be alive."""
        first = self._call(lambda store: store.add(WRITING, 1) == 1)
        if first is not None:
            return first
        alive = [rank for rank, process in self._siblings.items() if sibling_state(process) == RUNNING]
        return self._topology.rank < min(alive, default=self._topology.world_size)

    def wait_for_reports(self, diagnosis: Diagnosis) -> dict[int, EndReport]:
        """Return the reports once all ranks that are not missing have left one, or after half a second."""
        end_s = time.monotonic() + PAGE_S
        while True:
            reports = self.reports()
            complete = len(reports.keys() | diagnosis.lost.keys()) == self._topology.world_size
            if complete or time.monotonic() > end_s:
                return reports
            time.sleep(POLL_S)

    def is_shared(self, own: EndReport) -> bool:
        """Return whether rank 0 ends with the same error as this rank, and reports it."""
        end_s = time.monotonic() + SHARED_S
        while self._store is not None and time.monotonic() < end_s:
            first = self.reports().get(0)
            if first is not None:
                return first.reason == own.reason
            time.sleep(POLL_S)
        return False

    def leave(self, diagnosis: Diagnosis) -> None:
        """Count this rank as done with the store; if this rank serves it, wait for the others for at most a second."""
        done = self._call(lambda store: store.add(DONE, 1))
        if self._agent_store or self._topology.rank != 0:
            return
        end_s = time.monotonic() + SERVE_S
        while done is not None and done + len(diagnosis.lost) < self._topology.world_size:
            if time.monotonic() > end_s:
                return
            time.sleep(POLL_S)
            done = self._call(lambda store: store.add(DONE, 0))

    def _agree(self, store: Store) -> Diagnosis:
        """Decide which ranks are missing, or wait until the rank that came first has decided it."""
        end_s = time.monotonic() + GATHER_S
        if store.add(DECIDING, 1) == 1:
            diagnosis = diagnose(self._topology, self._seen(store))
            while not diagnosis.certain and time.monotonic() < end_s:
                time.sleep(POLL_S)
                diagnosis = diagnose(self._topology, self._seen(store))
            store.set(DIAGNOSIS, json.dumps(asdict(diagnosis)))
            return diagnosis
        while not store.check([DIAGNOSIS]) and time.monotonic() < end_s + 0.5:
            time.sleep(POLL_S)
        if not store.check([DIAGNOSIS]):
            return diagnose(self._topology, _read(store))
        fields = json.loads(store.get(DIAGNOSIS))
        lost, details = ({int(rank): text for rank, text in fields[name].items()} for name in ("lost", "details"))
        return Diagnosis(lost, fields["certain"], details)

    def _seen(self, store: Store) -> dict[int, EndReport]:
        """Return the reports so far, with what the other processes of this node do by now."""
        # Before the reports: a rank that has left by then has reported.
        now = {rank: sibling_state(process) for rank, process in self._siblings.items()}
        reports = _read(store)
        own = reports.get(self._topology.rank)
        if own is not None:
            seen = {rank: now[rank] if state == RUNNING else state for rank, state in own.siblings.items()}
            reports[own.rank] = replace(own, siblings=seen)
        return reports

    def _call(self, work: Callable[[Store], Answer], limit_s: float = 1.0) -> Answer | None:
        """Return what `work` returns of the store; after a failure the store is not asked again."""
        if not self._agent_store and 0 in self._siblings and sibling_state(self._siblings[0]) != RUNNING:
            self._store = None  # rank 0 serves it
        store = self._store
        if store is None:
            return None
        answer = within(limit_s, lambda: (work(store),))
        if answer is None:
            self._store = None
            return None
        return answer[0]


def _read(store: Store) -> dict[int, EndReport]:
    if not store.check([LOG]):
        return {}
    reports = {}
    for line in store.get(LOG).decode().splitlines():
        fields = json.loads(line)
        fields["siblings"] = {int(rank): state for rank, state in fields["siblings"].items()}
        reports[fields["rank"]] = EndReport(**fields)
    return reports
