"""A stopped rank is noticed within timeout + 1 s, a dead one within 1 s, by every group; the message says where."""

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
from alexnet_dist.distributed import topology
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.link import P2PLink
from alexnet_dist.distributed.lost_rank import AVERAGING, lost_rank_at
from alexnet_dist.errors import RunError
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.process import launch_info
from alexnet_dist.training import train
from support.ranks import Ranks
from support.training import settings

TIMEOUT_S = 3.0
BOUND_S = {signal.SIGSTOP: TIMEOUT_S + 1, signal.SIGKILL: 1.0}
ENDLESS = ("run.steps=1000000", "run.save_every=1000000", "run.evaluate_every=0", "run.record_samples=false")


class Told(NamedTuple):
    """What a rank has said of the loss, and when, by the clock that all processes of a machine share."""

    at_s: float
    said: str


def lose(directory: Path, number: signal.Signals) -> None:
    """Stop or kill this process, and leave when that was."""
    # Renamed into place: written in full or not there.
    (directory / "writing").write_text(str(time.monotonic()))
    (directory / "writing").rename(directory / "lost")
    os.kill(os.getpid(), number)


def lost_at_s(directory: Path) -> float:
    return float((directory / "lost").read_text())


def on_group(everyone: bool, number: signal.Signals, directory: Path) -> Told | None:
    """Lose rank 1 while the others wait for it, after one round in which nothing is wrong.

    everyone: all wait in the group of all ranks; otherwise rank 0 in the pair's, rank 3 in the row's.
    """
    place = topology.place("paired", "cpu", launch_info())
    groups = topology.open_groups(place, TIMEOUT_S)
    assert groups.pair is not None
    timeline = Timeline(place.device)
    link, control = P2PLink(groups.pair, place.rank ^ 1, timeline), Control(groups.world)

    def wait_in_pair() -> None:
        link.wait(link.start(torch.ones(64), (64,), "conv3 forward"))

    def wait_in_row() -> None:
        with lost_rank_at(AVERAGING):
            dist.all_reduce(torch.ones(64), group=groups.dp)

    def wait_in_all() -> None:
        control.sums([1.0])

    for meet in (wait_in_pair, wait_in_row, wait_in_all):
        meet()
    if place.rank == 1:
        time.sleep(0.2)  # the others wait already
        lose(directory, number)
    if not everyone and place.rank == 2:
        return None
    wait = wait_in_all if everyone else wait_in_pair if place.rank == 0 else wait_in_row
    with pytest.raises(RunError) as told, topology.lost_rank_as_error(place):
        wait()
    return Told(time.monotonic(), str(told.value))


@pytest.mark.parametrize("number", BOUND_S)
@pytest.mark.parametrize("joins", [{0: "conv3 forward", 3: "averaging"}, dict.fromkeys((0, 2, 3), "control word")])
def test_a_group_notices_in_time(
    number: signal.Signals, joins: dict[int, str], tmp_path: Path, run_ranks: Ranks
) -> None:
    everyone = 2 in joins
    answers: list[Told | None] = run_ranks(4, on_group, everyone, number, tmp_path, lost={1})
    told = {rank: answer for rank, answer in enumerate(answers) if answer is not None}
    assert set(told) == set(joins)
    for rank, (at_s, said) in told.items():
        assert at_s - lost_at_s(tmp_path) < BOUND_S[number], said
        whom = "one of ranks" if everyone else r"rank 1 \(replica 0, tower 1\)"
        mine = rf"rank {rank} \(replica {rank // 2}, tower {rank % 2}\)"
        assert re.match(rf"{mine} lost {whom}.* at: {joins[rank]} \(", said), said


def in_training(loser: int, number: signal.Signals, at_once: bool, directory: Path, words: list[str]) -> Told:
    """Train without end, lose a rank, and return what the run ended with.

    at_once: lose it when the groups have just been built; otherwise in the midst of training.
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
    with pytest.raises(RunError) as told:
        train.train(config.load([Path(words[1])], words[2:]).config)
    return Told(time.monotonic(), str(told.value))


JOIN = re.compile(r" at: ((conv|fc)\d (forward|backward)|logits|pixels|averaging|control word) \(")


@pytest.mark.parametrize(
    ("world_size", "loser", "number", "at_once"),
    [(4, 1, signal.SIGSTOP, False), (4, 3, signal.SIGKILL, False), (2, 1, signal.SIGKILL, True)],
)
def test_every_rank_of_a_run_tells_in_time(
    world_size: int,
    loser: int,
    number: signal.Signals,
    at_once: bool,
    shards: Path,
    tmp_path: Path,
    run_ranks: Ranks,
) -> None:
    words = settings(shards, tmp_path / "run", *ENDLESS, f"topology.timeout_s={TIMEOUT_S}")
    answers = run_ranks(world_size, in_training, loser, number, at_once, tmp_path, words, lost={loser})
    for rank, told in enumerate(answers):
        if rank == loser:
            continue
        # The rank that shares neither pair nor row with the lost one hears of it as those that do leave.
        bounds = 2 if rank == loser ^ 3 else 1
        assert told.at_s - lost_at_s(tmp_path) < bounds * BOUND_S[number], told.said
        assert told.said.startswith(f"rank {rank} (replica {rank // 2}, tower {rank % 2}) lost "), told.said
        assert JOIN.search(told.said), told.said
