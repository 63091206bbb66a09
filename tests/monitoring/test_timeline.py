"""Where a step's time went: laps, the waits inside them, and who is named when another rank does not answer."""

from __future__ import annotations

import time

import pytest
import torch

from alexnet_dist.distributed.lost_rank import LostRankError, lost_rank_at
from alexnet_dist.monitoring.timeline import ALLREDUCE_WAIT, DATA_WAIT, LINK_WAIT, Timeline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows what the last entry says."""
    shown = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: shown[-1])
    return shown


def test_a_wait_is_taken_out_of_the_lap_that_it_falls_into(clock: list[float]) -> None:
    timeline = Timeline(torch.device("cpu"))

    def wait(phase: str, what: str, seconds: float) -> None:
        with timeline.wait(phase, what):
            clock.append(clock[-1] + seconds)

    wait(DATA_WAIT, "samples", 0.25)
    clock.append(101.0)
    timeline.lap("other")
    wait(LINK_WAIT, "conv3 forward", 0.5)
    clock.append(103.0)
    timeline.lap("forward")
    wait(LINK_WAIT, "conv3 backward", 0.75)
    wait(LINK_WAIT, "fc6 backward", 0.125)
    wait(LINK_WAIT, "conv3 backward", 0.125)
    wait(ALLREDUCE_WAIT, "averaging", 0.5)
    clock.append(107.0)
    timeline.lap("backward")
    clock.append(108.0)
    timeline.lap("backward")
    timeline.sent_bytes += 7
    times = (stretch := timeline.cut()).read()
    assert times.phase_s == {
        "data_wait": 0.25, "forward": 1.5, "link_wait": 1.5, "backward": 3.5, "allreduce_wait": 0.5, "optimizer": 0.0,
        "other": 0.75,
    }  # fmt: skip
    assert times.step_s == sum(times.phase_s.values()) == 8.0
    assert times.join_wait_s == {"conv3 forward": 0.5, "conv3 backward": 0.875, "fc6 backward": 0.125}
    assert (stretch.sent_bytes, stretch.received_bytes) == (7, 0)


def test_a_cut_begins_anew(clock: list[float]) -> None:
    timeline = Timeline(torch.device("cpu"))
    with timeline.wait(LINK_WAIT, "fc7 forward"):
        clock.append(105.0)
    timeline.received_bytes += 3
    timeline.cut()
    clock.append(106.0)
    timeline.lap("optimizer")
    stretch = timeline.cut()
    assert (stretch.read().step_s, stretch.read().join_wait_s, stretch.received_bytes) == (1.0, {}, 0)


@pytest.mark.parametrize(
    "words",
    [
        "Connection closed by peer [127.0.0.1]:1",
        "Read error [127.0.0.1]:1: Connection reset by peer",
        "Write error: Broken pipe",
        "Timed out waiting 3000ms",
        "NCCL error: ncclRemoteError: A call failed possibly due to a network error",
        "Gloo connectFullMesh failed",
        "got 0 bytes. Connection was likely closed",
    ],
)
def test_a_lost_rank_is_told_by_what_it_was_wanted_for(words: str) -> None:
    timeline = Timeline(torch.device("cpu"))
    with pytest.raises(LostRankError) as told, timeline.wait(LINK_WAIT, "conv3 forward"):
        raise RuntimeError(f"{words}\nmore")
    assert (told.value.what, told.value.reason) == ("conv3 forward", words)


def test_a_source_line_of_the_library_is_not_told() -> None:
    with pytest.raises(LostRankError) as told, lost_rank_at("fc6 backward"):
        raise RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:4. This is often")
    assert told.value.reason == "Connection closed by peer [::1]:4"


def test_what_nccl_says_last_is_told() -> None:
    with pytest.raises(LostRankError) as told, lost_rank_at("conv3 forward"):
        raise RuntimeError("NCCL error in: x.cpp:1, ncclRemoteError\nncclRemoteError: A call\nLast error:\n no route\n")
    assert told.value.reason == "NCCL error in: x.cpp:1, ncclRemoteError; no route"


def test_a_misuse_of_nccl_is_no_lost_rank() -> None:
    with pytest.raises(RuntimeError, match="invalid usage") as told, lost_rank_at("conv3 forward"):
        raise RuntimeError("NCCL error in: x.cpp:1, invalid usage (run with NCCL_DEBUG=WARN for details)")
    assert type(told.value) is RuntimeError


def test_another_fault_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape") as told, lost_rank_at("conv3 forward"):
        raise RuntimeError("shape mismatch")
    assert type(told.value) is RuntimeError
