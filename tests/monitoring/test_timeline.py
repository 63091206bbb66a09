"""Where the time of a step went: phases between marks, without the waits inside them; bytes over the link."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.monitoring.timeline import ALLREDUCE_WAIT, DATA_WAIT, LINK_WAIT, PHASES, StepTrace, Timeline, Wait

WAITS = (DATA_WAIT, LINK_WAIT, ALLREDUCE_WAIT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list; the clock shows its last entry."""
    times_s = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: times_s[-1])
    return times_s


def test_a_wait_is_taken_out_of_the_phase_that_it_falls_into(clock: list[float]) -> None:
    timeline = Timeline(torch.device("cpu"))

    def wait(phase: str, what: str, wait_s: float) -> None:
        with timeline.wait(phase, what):
            clock.append(clock[-1] + wait_s)

    wait(DATA_WAIT, "samples", 0.25)
    clock.append(101.0)
    timeline.mark("other")
    wait(LINK_WAIT, "conv3 forward", 0.5)
    clock.append(103.0)
    timeline.mark("forward")
    wait(LINK_WAIT, "conv3 backward", 0.75)
    wait(LINK_WAIT, "fc6 backward", 0.125)
    wait(LINK_WAIT, "conv3 backward", 0.125)
    wait(ALLREDUCE_WAIT, "averaging", 0.5)
    clock.append(107.0)
    timeline.mark("backward")
    clock.append(108.0)
    timeline.mark("backward")
    timeline.sent_bytes += 7
    times = (trace := timeline.take()).read()
    assert times.phase_s == {
        "data_wait": 0.25, "forward": 1.5, "link_wait": 1.5, "backward": 3.5, "allreduce_wait": 0.5, "optimizer": 0.0,
        "graph": 0.0, "other": 0.75,
    }  # fmt: skip
    assert times.step_s == sum(times.phase_s.values()) == 8.0
    assert times.join_wait_s == {"conv3 forward": 0.5, "conv3 backward": 0.875, "fc6 backward": 0.125}
    assert (trace.sent_bytes, trace.received_bytes) == (7, 0)


SECONDS = st.floats(1e-6, 10.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(PHASES), SECONDS, st.lists(st.tuples(st.sampled_from(WAITS), SECONDS), max_size=3))
    )
)
def test_phases_sum_to_the_step_whatever_is_waited_for(
    marks: list[tuple[str, float, list[tuple[str, float]]]],
) -> None:
    """Each phase lasts for its own seconds and the waits that fall into it."""
    now_s, recorded, waits = 0.0, list[tuple[str, float]](), list[Wait]()
    for interval, (phase, own_s, waited) in enumerate(marks):
        for kind, wait_s in waited:
            waits.append(Wait(interval, kind, "conv3 forward", now_s, now_s + wait_s))
            now_s += wait_s
        now_s += own_s
        recorded.append((phase, now_s))
    times = StepTrace(0.0, tuple(recorded), tuple(waits), 0, 0).read()
    assert times.step_s == pytest.approx(now_s)
    assert sum(times.phase_s.values()) == pytest.approx(times.step_s, rel=1e-6)
    assert min(times.phase_s.values()) > -1e-9
    assert sum(times.join_wait_s.values()) == pytest.approx(
        sum(wait_s for _, _, waited in marks for kind, wait_s in waited if kind == LINK_WAIT)
    )


def test_a_timeline_that_was_taken_is_empty(clock: list[float]) -> None:
    timeline = Timeline(torch.device("cpu"))
    with timeline.wait(LINK_WAIT, "fc7 forward"):
        clock.append(105.0)
    timeline.received_bytes += 3
    timeline.take()
    clock.append(106.0)
    timeline.mark("optimizer")
    trace = timeline.take()
    assert (trace.read().step_s, trace.read().join_wait_s, trace.received_bytes) == (1.0, {}, 0)
