"""The order proof: what whole runs post on their devices completes on the strictest one, and faulty orders do not."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_dist import config
from alexnet_dist.distributed import data_parallel
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.groups import close_groups
from alexnet_dist.distributed.link import P2PLink
from alexnet_dist.distributed.lost_rank import AVERAGING
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.distributed.tower_parallel import LOGITS, PIXELS, UPDATE
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.runs.directory import PREEMPTED
from alexnet_dist.system.environment import launch_info
from alexnet_dist.system.signals import GROUP_SIGNALS, StopRequest
from alexnet_dist.training import graph, step, train
from support.message_faults import posts, reshaped, skipped, swapped
from support.message_order import Buffer, Event, Post, Records, Wait, departures, replay
from support.message_recorder import Recorder
from support.ranks import Ranks
from support.training import evaluations, losses, settings, weights

# Three steps an epoch; an evaluation has three batches or more.
RUN = ("data.global_batch=28", "data.eval_rows=3", "data.workers=0", "run.save_every=2")
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "2x2": (4, ("train.channels_last=true", "run.on_divergence=skip")),
    "3x2": (6, ("train.accumulate=2",)),
    "2 fused": (2, ("topology.layout=fused", "train.channels_last=true")),
}
BROADCAST = "broadcast"
HIDDEN = [f"{join} {direction}" for join in ("conv3", "fc6", "fc7", "fc8") for direction in ("forward", "backward")]


@dataclass(frozen=True)
class Stop:
    """Where a rank is asked to stop: in which call of a function of training/step.py."""

    rank: int
    function: str
    call: int


STOPS = (Stop(1, "train_step", 4), Stop(0, "score", 2), None)  # of the starts of a run


def recorded_start(words: list[str], stop: Stop | None = None, late: Sequence[int] = ()) -> list[Event]:
    """Train in this rank and return its messages; late: the ranks that send the next batch after their first sums."""
    recorder, patch = Recorder(), pytest.MonkeyPatch()
    recorder.install()
    patch.setattr(train, "open_groups", recorder.open_groups)
    patch.setattr(data_parallel, "SMALL", 64)  # the net is small: some of its gradients should be messages of their own
    request, rank = StopRequest(GROUP_SIGNALS), launch_info().rank
    if stop is not None and rank == stop.rank:
        original, calls = vars(step)[stop.function], [0]

        def counted(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == stop.call:
                os.kill(os.getpid(), signal.SIGTERM)
                assert request.wait(30)
            return original(*arguments)

        for module in (step, graph):  # which launches steps
            if stop.function in vars(module):
                patch.setattr(module, stop.function, counted)
    if rank in late:
        arm = Reducer.arm
        patch.setattr(Reducer, "arm", lambda reducer, **_: arm(reducer, lambda: None))
    train.train(config.load([Path(words[1])], words[2:]).config, stop=request)
    return recorder.events


Recordings = Callable[[str], list[Records]]


@pytest.fixture(scope="module")
def recordings(shards: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Ranks) -> Recordings:
    """Return what records, once for each layout, the three starts of a run: STOPS end the first two."""

    @cache
    def record(layout: str) -> list[Records]:
        ranks, changes = LAYOUTS[layout]
        directory = tmp_path_factory.mktemp("runs") / "run"
        words = settings(shards, directory, *RUN, "run.steps=7", *changes)
        starts: list[Records] = []
        for stop, evaluated in zip(STOPS, ([3], [3], [3, 6]), strict=True):
            starts.append(run_ranks(ranks, recorded_start, words, stop))
            assert (directory / PREEMPTED).exists() == (stop is not None)
            assert [one["step"] for one in evaluations(directory)] == evaluated
        assert len(losses(directory)) == 7
        assert weights(directory, 7)
        return starts

    return record


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_messages_complete_between_partners_that_agree(layout: str, recordings: Recordings) -> None:
    for records in recordings(layout):
        assert replay(records) == []
        assert departures(records) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_recordings_hold_every_kind_of_message(layout: str, recordings: Recordings) -> None:
    starts = recordings(layout)
    names = {post.name for records in starts for events in records for post in posts(events)}
    linked = {PIXELS, LOGITS, *HIDDEN} if layout != "2 fused" else set()
    guarded = {UPDATE} if layout == "2x2" else set()
    assert names == {AVERAGING, BROADCAST} | linked | guarded
    first, resumed, _ = (records[0] for records in starts)
    assert len(posts(resumed, BROADCAST)) == 2 * len(posts(first, BROADCAST)) > 0  # weights; velocities, too
    for events in (first, resumed) if linked else ():
        assert len(posts(events, LOGITS)) > len(posts(events, "conv3 backward"))  # evaluations have no backward
    buffers = [part.buffer for events in starts[0] for post in posts(events) for part in post.parts]
    assert len({buffer.dtype for buffer in buffers}) == (2 if linked else 1)
    transposed = [buffer for buffer in buffers if list(buffer.strides) != sorted(buffer.strides, reverse=True)]
    assert bool(transposed) == (layout != "3x2")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_message_is_waited_for_but_the_pixels_that_a_stop_leaves(layout: str, recordings: Recordings) -> None:
    for stop, records in zip(STOPS, recordings(layout), strict=True):
        for events in records:
            waits = [event.number for event in events if isinstance(event, Wait)]
            assert len(waits) == len(set(waits))
            left = [post for post in posts(events) if post.number not in waits]
            assert [post.name for post in left] == ([PIXELS] if stop and layout != "2 fused" else [])
            assert left in ([], posts(events, PIXELS)[-1:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_next_pixels_are_in_flight_with_the_other_group(layout: str, recordings: Recordings) -> None:
    events_of_all = [events for records in recordings(layout) for events in records]
    together = {pair for events in events_of_all for pair in in_flight_together(events)}
    assert together == (set() if layout == "2 fused" else {(PIXELS, AVERAGING)})


def in_flight_together(events: Sequence[Event]) -> set[tuple[str, str]]:
    """Return the names of messages of different groups that were not waited for when the second one was posted."""
    in_flight: dict[int, Post] = {}
    found = set()
    for event in events:
        if isinstance(event, Wait):
            del in_flight[event.number]
        else:
            found |= {(one.name, event.name) for one in in_flight.values() if one.group != event.group}
            in_flight[event.number] = event
    return found


def channels_first(buffer: Buffer) -> Buffer:
    """Return the buffer of channels-last maps as if they lay channels first."""
    n, height, width, channels = buffer.shape
    return Buffer((n, channels, height, width), (buffer.strides[0], height * width, width, 1), buffer.dtype)


Fault = Callable[[Records], Records]
FAULTS: dict[str, tuple[Fault, str]] = {
    "two ranks swap posts of two groups": (
        lambda records: swapped(swapped(records, 0, (PIXELS, 1), (AVERAGING, 0)), 3, (PIXELS, 1), (AVERAGING, 0)),
        r"rank 0 is in message \d+ \(averaging: .* and waits for rank 2, which is in message \d+ \(pixels: ",
    ),
    "one rank swaps sums of different sizes": (
        lambda records: swapped(records, 2, (AVERAGING, 0), (AVERAGING, 3)),
        r"rank 0 in .* and rank 2 in .* differ in size, sum",
    ),
    "one rank swaps exchanges of different sizes": (
        lambda records: swapped(records, 1, ("conv3 forward", 0), ("fc6 forward", 0)),
        r"rank 0 in .*\(conv3 forward.* and rank 1 in .*\(fc6 forward.* differ in size, from rank 0 to rank 1",
    ),
    "one rank skips an exchange": (
        lambda records: skipped(records, 3, "fc6 backward"),
        r"rank 2 in .*\(fc6 backward.* and rank 3 in .*\(conv3 backward.* differ in size",
    ),
    "one rank skips a sum": (lambda records: skipped(records, 0, AVERAGING), "differ in size, sum"),
    "one rank skips its last exchange": (
        lambda records: skipped(records, 1, UPDATE, -1),
        r"rank 0 is in message \d+ \(update: .* and waits for rank 1, which has ended",
    ),
    "one rank waits for an exchange that it skips": (
        lambda records: skipped(records, 1, UPDATE, -1, waits=True),
        r"rank 1 is at the wait for message \d+ \(update\), which it has not posted",
    ),
    "one rank sends another dtype": (
        lambda records: reshaped(records, 1, "fc7 backward", 0, lambda buffer: replace(buffer, dtype="bfloat16")),
        "differ in dtype, from rank 1 to rank 0: .* x float32 .*; .* x bfloat16",
    ),
    "one rank sends fewer rows": (
        lambda records: reshaped(records, 2, PIXELS, 0, lambda buffer: replace(buffer, shape=(1, buffer.shape[1]))),
        "differ in size, from rank 2 to rank 3: 2360 x uint8 as",
    ),
    "one rank sends in another memory format": (
        lambda records: reshaped(records, 3, "conv3 forward", 0, channels_first),
        "differ in memory order, from rank 3 to rank 2",
    ),
    "one rank broadcasts in another memory format": (
        lambda records: reshaped(records, 2, BROADCAST, 0, lambda buffer: replace(buffer, strides=(75, 25, 5, 1))),
        "rank 0 in .* and rank 2 in .* differ in memory order, broadcast from rank 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_rank_does_not_pass(fault: str, recordings: Recordings) -> None:
    change, sentence = FAULTS[fault]
    problems = replay(change(recordings("2x2")[0]))
    assert any(re.search(sentence, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("one", "other"), [((PIXELS, 1), (AVERAGING, 0)), (("fc7 forward", 0), ("fc8 forward", 0))]
)  # of two groups; of one group, in the same size
def test_one_rank_that_only_leaves_the_order_is_named(
    one: tuple[str, int], other: tuple[str, int], recordings: Recordings
) -> None:
    """Its partners' kernels meet all the same: in a mesh of pairs, one rank closes no circle."""
    faulty = swapped(recordings("2x2")[0], 2, one, other)
    assert replay(faulty) == []
    (problem,) = departures(faulty)
    assert re.fullmatch(rf"rank 2 has message \d+ \({other[0]}.* where rank 0 has message \d+ \({one[0]}.*", problem)


def test_an_order_that_gloo_forgives_stalls_the_device(shards: Path, tmp_path: Path, run_ranks: Ranks) -> None:
    words = settings(shards, tmp_path / "run", *RUN, "run.steps=2", "run.evaluate_every=0")
    records = run_ranks(4, recorded_start, words, None, (0, 3))
    assert len(losses(tmp_path / "run")) == 2
    problems = replay(records)
    assert [problem[:6] for problem in problems] == [f"rank {rank}" for rank in range(4)]
    for rank, problem in enumerate(problems):
        names = (AVERAGING, PIXELS) if rank in (0, 3) else (PIXELS, AVERAGING)
        assert re.match(
            rf"rank {rank} is in .*\({names[0]}: .* and waits for rank \d, which is in .*\({names[1]}", problem
        )


def exchange_in_two_formats() -> list[Event]:
    """Send maps that lie in another memory format in each of two ranks."""
    recorder = Recorder()
    recorder.install()
    topology = resolve_topology("paired", "cpu", launch_info())
    pair: Any = recorder.open_groups(topology, 60).pair
    memory_format = (torch.contiguous_format, torch.channels_last)[topology.rank]
    link = P2PLink(pair, 1 - topology.rank, Timeline(torch.device("cpu")), memory_format)
    link.wait(link.start(torch.zeros(2, 3, 4, 5), (2, 3, 4, 5), "conv3 forward"))
    close_groups()
    return recorder.events


def test_links_of_two_memory_formats_do_not_pass(run_ranks: Ranks) -> None:
    problems = replay(run_ranks(2, exchange_in_two_formats))
    assert [problem.partition(" differ in ")[2] for problem in problems] == [
        f"memory order, from rank {sender} to rank {1 - sender}: 120 x float32 as (2, 3, 4, 5) with strides"
        " (60, 20, 5, 1); 120 x float32 as (2, 4, 5, 3) with strides (60, 15, 3, 1)"
        for sender in (0, 1)
    ]
