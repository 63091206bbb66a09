"""Steps in flight: each is finished one step after its launch, and its status applied one step later still."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.training.pipeline import StepPipeline


class Recorded:
    """A pipeline of numbers that records what is done with them; the status of `stop_at` asks to stop."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[str] = []
        self._stop_at = stop_at
        self.pipeline = StepPipeline(self._finish, self._apply)

    def _finish(self, step: int) -> int:
        self.events.append(f"finish {step}")
        return step

    def _apply(self, step: int) -> bool:
        self.events.append(f"apply {step}")
        return step == self._stop_at

    def launch(self, step: int) -> bool:
        self.events.append(f"launch {step}")
        return self.pipeline.launch(step)


def test_a_step_is_finished_after_the_next_launch_and_its_status_applied_after_the_one_after_that() -> None:
    recorded = Recorded()
    assert [recorded.launch(step) for step in (1, 2, 3)] == [False] * 3
    assert recorded.events == ["launch 1", "launch 2", "finish 1", "launch 3", "finish 2", "apply 1"]


def test_draining_finishes_every_step_before_it_applies_what_is_left() -> None:
    recorded = Recorded()
    for step in (1, 2, 3):
        recorded.launch(step)
    recorded.events.clear()
    assert not recorded.pipeline.drain()
    assert recorded.events == ["finish 3", "apply 2", "apply 3"]
    recorded.events.clear()
    assert not recorded.pipeline.drain()
    assert recorded.events == []


@pytest.mark.parametrize(("stop_at", "answers"), [(1, [False, False, True, False]), (2, [False, False, False, True])])
def test_a_request_to_stop_is_answered_once_two_steps_later(stop_at: int, answers: list[bool]) -> None:
    recorded = Recorded(stop_at)
    assert [recorded.launch(step) for step in (1, 2, 3, 4)] == answers


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_request_to_stop_is_not_lost_by_draining(stop_at: int) -> None:
    recorded = Recorded(stop_at)
    assert not any(recorded.launch(step) for step in (1, 2, 3))
    assert recorded.pipeline.drain()


@given(st.lists(st.booleans(), max_size=20))
def test_every_step_is_finished_once_and_in_order_wherever_the_pipeline_is_drained(drains: list[bool]) -> None:
    recorded = Recorded()
    for step, drain in enumerate(drains):
        recorded.launch(step)
        if drain:
            recorded.pipeline.drain()
            assert recorded.events[-1] == f"apply {step}"
    recorded.pipeline.drain()
    for kind in ("launch", "finish", "apply"):
        assert [event for event in recorded.events if kind in event] == [
            f"{kind} {step}" for step in range(len(drains))
        ]
