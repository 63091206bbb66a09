"""A stopped rank is noticed within timeout + 1 s, a dead one within 1 s, by every group; the message names both.

In training every rank reports it within 2 s more: before that the survivors exchange what they know.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
import torch.distributed as dist

from alexnet_dist import config
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import open_groups
from alexnet_dist.distributed.link import P2PLink
from alexnet_dist.distributed.lost_rank import AVERAGING, CONTROL, LostRankError, lost_rank_at, lost_rank_sentence
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import RunError
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.system.environment import launch_info
from alexnet_dist.training import train
from support.ranks import Ranks
from support.training import settings

TIMEOUT_S = 3.0
BOUND_S = {signal.SIGSTOP: TIMEOUT_S + 1, signal.SIGKILL: 1.0}
EXCHANGE_S = 2.0  # so that a dead rank is reported sooner than a wait for it times out
ENDLESS = ("run.steps=1000000", "run.save_every=1000000", "run.evaluate_every=0", "run.record_samples=false")


class Report(NamedTuple):
    """A rank's error message, and when it was raised, by the clock that all processes of a machine share."""

    at_s: float
    message: str


def lose(directory: Path, number: signal.Signals) -> None:
    """Write the time to a file, then stop or kill this process."""
    # Renamed, so that the file is complete as soon as it exists.
    (directory / "writing").write_text(str(time.monotonic()))
    (directory / "writing").rename(directory / "lost")
    os.kill(os.getpid(), number)


def lost_at_s(directory: Path) -> float:
    return float((directory / "lost").read_text())


def on_group(in_world: bool, number: signal.Signals, directory: Path) -> Report | None:
    """Lose rank 1 while the others wait for it, after one round without a fault.

    in_world: all wait in the world group; otherwise rank 0 in the pair's group, rank 3 in its data-parallel group.
    """
    topology = resolve_topology("paired", "cpu", launch_info())
    groups = open_groups(topology, TIMEOUT_S)
    assert groups.pair is not None
    link = P2PLink(groups.pair, topology.rank ^ 1, Timeline(topology.device))
    control = Control(groups.world)

    def wait_in_pair() -> None:
        link.wait(link.start(torch.ones(64), (64,), "conv3 forward"))

    def wait_in_dp() -> None:
        with lost_rank_at(AVERAGING):
            dist.all_reduce(torch.ones(64), group=groups.dp)

    def wait_in_world() -> None:
        control.sums([1.0])

    for wait in (wait_in_pair, wait_in_dp, wait_in_world):
        wait()
    if topology.rank == 1:
        time.sleep(0.2)  # by now the others wait
        lose(directory, number)
    if not in_world and topology.rank == 2:
        return None
    wait = wait_in_world if in_world else wait_in_pair if topology.rank == 0 else wait_in_dp
    with pytest.raises(LostRankError) as caught:
        wait()
    at_s = time.monotonic()
    return Report(at_s, lost_rank_sentence(topology, caught.value.operation, caught.value.reason))


@pytest.mark.parametrize("number", BOUND_S)
@pytest.mark.parametrize("operations", [{0: "conv3 forward", 3: AVERAGING}, dict.fromkeys((0, 2, 3), CONTROL)])
def test_a_group_notices_in_time(
    number: signal.Signals, operations: dict[int, str], tmp_path: Path, run_ranks: Ranks
) -> None:
    in_world = 2 in operations
    answers: list[Report | None] = run_ranks(4, on_group, in_world, number, tmp_path, lost={1})
    reports = {rank: report for rank, report in enumerate(answers) if report is not None}
    assert set(reports) == set(operations)
    for rank, (at_s, message) in reports.items():
        assert at_s - lost_at_s(tmp_path) < BOUND_S[number], message
        lost = "one of ranks" if in_world else r"rank 1 \(replica 0, tower 1\)"
        reporter = rf"rank {rank} \(replica {rank // 2}, tower {rank % 2}\)"
        assert re.match(rf"{reporter} lost {lost}.* at: {operations[rank]} \(", message), message


def in_training(loser: int, number: signal.Signals, at_once: bool, directory: Path, arguments: list[str]) -> Report:
    """Train without end, lose a rank, and return the error of the run.

    at_once: lose it as soon as the groups are built; otherwise in the midst of training.
    """

    def lose_in_the_midst() -> None:
        log = directory / "run" / "metrics.jsonl"
        while not log.exists() or log.read_text().count("\n") < 5:
            time.sleep(0.01)
        lose(directory, number)

    def lose_at_once(*_: Any) -> NoReturn:
        lose(directory, number)
        raise AssertionError("alive")

    if launch_info().rank == loser:
        if at_once:
            vars(train)["build_engine"] = lose_at_once
        else:
            threading.Thread(target=lose_in_the_midst, daemon=True).start()
    with pytest.raises(RunError) as caught:
        train.train(config.load([Path(arguments[1])], arguments[2:]).config)
    return Report(time.monotonic(), str(caught.value))


JOIN = re.compile(r" at: ((conv|fc)\d (forward|backward)|logits|pixels|averaging|status sum) \(")


@pytest.mark.parametrize(
    ("world_size", "loser", "number", "at_once"),
    [(4, 1, signal.SIGSTOP, False), (4, 3, signal.SIGKILL, False), (2, 1, signal.SIGKILL, True)],
)
def test_every_rank_of_a_run_reports_in_time(
    world_size: int,
    loser: int,
    number: signal.Signals,
    at_once: bool,
    shards: Path,
    tmp_path: Path,
    run_ranks: Ranks,
) -> None:
    arguments = settings(shards, tmp_path / "run", *ENDLESS, f"topology.timeout_s={TIMEOUT_S}")
    reports = run_ranks(world_size, in_training, loser, number, at_once, tmp_path, arguments, lost={loser})
    for rank, report in enumerate(reports):
        if rank == loser:
            continue
        assert report.at_s - lost_at_s(tmp_path) < BOUND_S[number] + EXCHANGE_S, report.message
        assert report.message.startswith(f"rank {rank} (replica {rank // 2}, tower {rank % 2}) lost "), report.message
        assert JOIN.search(report.message), report.message
