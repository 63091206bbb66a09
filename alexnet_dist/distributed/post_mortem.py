"""Which rank failed first, and why: decided from what the ranks reported at their ends, and described on one page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from signal import SIGKILL, Signals

from alexnet_dist.distributed.lost_rank import awaited, closed, rank_name
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.system.wording import noun

# Why a rank is missing: it failed by itself, its process is stopped, it does not answer although it runs, nothing is
# known of it, it served the store that is gone. Or how its process has ended: "signal 9", "exit code 1", "gone".
FAILED, STOPPED, RUNNING, SILENT, STORE = "failed", "stopped", "running", "silent", "store"
EXIT_CODE, GONE = "exit code", "gone"
MOST_LINES = 32  # ranks on the page, which stays below 60 lines


@dataclass(frozen=True)
class EndReport:
    """What a rank reports when it ends with an error.

    node: equal for the ranks of one torchrun. operation: what it was waiting for; empty if it failed by itself.
    reason: torch.distributed's message, or the rank's own error. step: the last completed one, None before the first.
    time_s: since the epoch. siblings: by rank, what the other processes of its node were doing, as
    process.sibling_state returns it. permanent: whether a restart would end in the same error.
    """

    rank: int
    node: str
    operation: str
    reason: str
    step: int | None
    time_s: float
    siblings: Mapping[int, str] = field(default_factory=dict)
    permanent: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What is known about the ranks that are missing.

    lost: by rank, why. certain: whether waiting for more reports cannot change it. details: by rank, its own error.
    """

    lost: Mapping[int, str]
    certain: bool
    details: Mapping[int, str] = field(default_factory=dict)


def diagnose(
    topology: Topology, reports: Mapping[int, EndReport], store_is_gone: bool = False, rank_0_serves: bool = False
) -> Diagnosis:
    """Return which ranks are missing, from the reports so far, by rank.

    A rank that reports a wait is alive. A rank is missing if it reports an error of its own, or if a process of its
    node has seen it stopped or ended. Only if there is no such rank, those that have not reported are suspected, first
    those for which others wait.
    """
    failed = {report.rank: report.reason for report in by_time(reports)[::-1] if not report.operation}
    first = list(failed)[-1:]
    seen: dict[int, str] = {}
    for report in by_time(reports):  # the first one: a stopped process is killed soon afterwards
        for rank, state in report.siblings.items():
            if rank not in reports and seen.get(rank, RUNNING) == RUNNING:
                seen[rank] = state
    lost = dict.fromkeys(first, FAILED) | {
        rank: state
        for rank, state in sorted(seen.items())
        if state != RUNNING
        and not (store_is_gone and (rank or not rank_0_serves) and (state == GONE or state.startswith(EXIT_CODE)))
    }
    if lost:
        return Diagnosis(lost, certain=True, details={rank: failed[rank] for rank in first})
    silent = [rank for rank in range(topology.world_size) if rank not in reports]
    if store_is_gone and rank_0_serves and 0 in silent and 0 not in seen:
        return Diagnosis({0: STORE}, certain=False)
    wanted = {rank for report in reports.values() for rank in awaited(topology, report.rank, report.operation)}
    states = {rank: seen.get(rank, SILENT) for rank in [rank for rank in silent if rank in wanted] or silent}
    if SILENT in states.values() and any(closed(report.reason) for report in reports.values()):
        # A process that runs has closed no connection, and may itself wait for the one that did.
        states = {rank: state for rank, state in states.items() if state != RUNNING}
    return Diagnosis(states, certain=not silent)


def by_time(reports: Mapping[int, EndReport]) -> list[EndReport]:
    """Return the reports, the earliest first."""
    return sorted(reports.values(), key=lambda report: (report.time_s, report.rank))


def why(diagnosis: Diagnosis, rank: int) -> str:
    """Return why a rank is missing, as a phrase that follows its name."""
    state = diagnosis.lost[rank]
    kind, _, number = state.rpartition(" ")
    if kind == "signal":
        cause = {int(SIGKILL): " (kill -9, or the kernel because memory ran out)"}
        known = int(number) in set(Signals)
        return f"was killed by {Signals(int(number)).name if known else state}{cause.get(int(number), '')}"
    if kind == EXIT_CODE:
        return f"has ended with exit code {number} and without a report"
    return {
        FAILED: f"failed first: {diagnosis.details.get(rank, '')}",
        STOPPED: "is stopped (SIGSTOP, or a debugger)",
        RUNNING: "does not answer, although its process runs",
        SILENT: "does not answer, and nothing is known of its process",
        STORE: "serves the store, which is gone or out of reach",
    }.get(state, "has ended without a report")


def explanation(topology: Topology, reports: Mapping[int, EndReport], diagnosis: Diagnosis) -> str:
    """Return what is known of the missing ranks, and for whom the other ranks but this one waited, four of each."""
    facts = [f"rank {rank} {why(diagnosis, rank)}" for rank in list(diagnosis.lost)[:4]]
    if not facts:
        facts = ["every rank is alive: the network between them was interrupted"]
    waits = [report for report in by_time(reports) if report.operation and report.rank != topology.rank]
    return "; ".join(facts + [f"rank {report.rank} waited for {_waited_for(topology, report)}" for report in waits[:4]])


def _waited_for(topology: Topology, report: EndReport) -> str:
    ranks = awaited(topology, report.rank, report.operation)
    if len(ranks) == topology.world_size - 1 and len(ranks) > 1:
        return f"all others at {report.operation}"
    numbers = ", ".join(map(str, ranks[:4])) + (", ..." if len(ranks) > 4 else "")
    return f"{noun(len(ranks), 'rank')} {numbers} at {report.operation}"


def page(
    topology: Topology, reports: Mapping[int, EndReport], diagnosis: Diagnosis, checkpoint: int | None, wall_s: float
) -> str:
    """Return the text of post-mortem.txt, at most one page.

    checkpoint: the step of the newest one; None if there is none. wall_s: when it is written, since the epoch.
    """
    steps = [report.step for report in reports.values() if report.step is not None]
    resumes = "there is no checkpoint: it starts from step 0" if checkpoint is None else f"step {checkpoint}"
    lines = [
        f"The run ended on {time.strftime('%Y-%m-%d at %H:%M:%S %z', time.localtime(wall_s))}.",
        "",
        f"failed first         {_first(topology, diagnosis)}",
        f"last completed step  {max(steps) if steps else 'unknown'}",
        f"resumes from         {resumes}",
        "",
        "rank  last step  when it ended",
        *_rank_lines(topology, reports, diagnosis),
        "",
        f"likely cause  {likely_cause(diagnosis)}",
        f"to try        {to_try(diagnosis)}",
    ]
    return "\n".join(lines) + "\n"


def _first(topology: Topology, diagnosis: Diagnosis) -> str:
    if not diagnosis.lost:
        return "no rank: all are alive, and lost their connections"
    first, *others = diagnosis.lost
    more = f"; also missing: {', '.join(map(str, others[:8]))}{', ...' if len(others) > 8 else ''}" if others else ""
    return f"{rank_name(topology, first)} {why(diagnosis, first)}{more}"


def _rank_lines(topology: Topology, reports: Mapping[int, EndReport], diagnosis: Diagnosis) -> list[str]:
    """Return a line a rank: the missing ones, then those that reported, then the others."""
    known = [*diagnosis.lost, *(rank for rank in sorted(reports) if rank not in diagnosis.lost)]
    order = known + [rank for rank in range(topology.world_size) if rank not in known]
    lines = []
    for rank in order[:MOST_LINES]:
        report = reports.get(rank)
        step = "-" if report is None or report.step is None else str(report.step)
        if rank in diagnosis.lost:
            text = why(diagnosis, rank)
        elif report is None:
            text = "did not report in time"
        else:
            text = _ended(topology, report, diagnosis)
        lines.append(f"{rank:>4}  {step:>9}  {text}")
    left_out = len(order) - MOST_LINES
    return lines + ([f"      {left_out} more ranks"] if left_out > 0 else [])


def _ended(topology: Topology, report: EndReport, diagnosis: Diagnosis) -> str:
    if report.operation:
        return f"waited for {_waited_for(topology, report)} ({report.reason})"
    return "the same error" if report.reason in diagnosis.details.values() else report.reason


def likely_cause(diagnosis: Diagnosis) -> str:
    """Return what the evidence supports, and no more."""
    states = set(diagnosis.lost.values())
    if not states or states == {STORE}:
        return "the network, or the node of rank 0"
    if FAILED in states:
        return "the error above"
    if STOPPED in states:
        return "a debugger, a job scheduler or kill -STOP stopped the process"
    if states & {RUNNING}:
        return "a hang: in a driver, a file system or the code; or a step that takes longer than topology.timeout_s"
    if states == {SILENT}:
        return "its node or the network: no process there has reported"
    if "signal 9" in states:
        return "out of memory, or a kill -9 by someone or by the scheduler"
    return "the process ended by itself or was killed; its own output says more"


def to_try(diagnosis: Diagnosis) -> str:
    """Return what to look at first."""
    states = set(diagnosis.lost.values())
    if FAILED in states:
        return "what the error says; then the same command resumes the run"
    if states & {STOPPED, RUNNING}:
        return "the same command resumes the run; if it hangs again: py-spy dump, a longer topology.timeout_s"
    if not states or states <= {SILENT, STORE}:
        return "look at the node and its network; the same command resumes the run"
    return "dmesg | grep -i oom on its node, fewer data.workers; the same command resumes the run"
