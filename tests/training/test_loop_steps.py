"""The loop around the steps: the rate of each, what is saved when, what the schedule sees, what ends it; the ports."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.distributed.control import Control, PendingSum
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import PHASES, Times
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training import step
from alexnet_dist.training.loop import Loop
from alexnet_dist.training.optim import Progress
from alexnet_dist.training.resume import Start
from alexnet_dist.training.run_logger import RunLogger
from alexnet_dist.training.run_plan import RunPlan
from alexnet_dist.training.step import Report
from alexnet_dist.training.train import open_metrics
from support.nets import SMALL
from support.plans import PLAIN
from support.runs import settings

ALONE = Topology(0, 1, 0, "fused", torch.device("cpu"))
TIMES = Times(0.25, dict.fromkeys(PHASES, 0.0), {})
TOP1, TOP5, IMAGES = 4.0, 2.0, 7.0


@dataclass
class Seen:
    """What a loop has done: (step, rate) of each step, the states it saved by step, all by name in order."""

    rates: list[tuple[int, float]] = field(default_factory=list)
    saved: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)


class Others(Control):
    """A control word to which another rank adds its part, where it is a step's."""

    def __init__(self, numbers: Sequence[float]) -> None:
        super().__init__(None)
        self._numbers = numbers

    def wait(self, word: PendingSum) -> list[float]:
        own = super().wait(word)
        return [a + b for a, b in zip(own, self._numbers, strict=True)] if len(own) == len(self._numbers) else own


Play = Callable[..., Seen]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return a function that goes through a programme from a start, with steps that compute nothing."""

    def go(
        programme: RunPlan,
        *words: str,
        at: Start | None = None,
        loss: float = 1.0,
        control: Control | None = None,
        place: Topology = ALONE,
    ) -> Seen:
        seen = Seen()

        def train_step(_trainer: Any, _feed: Any, number: int, rate: float) -> Any:
            seen.rates.append((number, rate))
            seen.events.append(f"step {number}")
            report = Report(loss, 3.0, (), TIMES, 0, 0)
            return SimpleNamespace(read=lambda: report)

        def validate(_trainer: Any, _feed: Any, steps: int, _asked: Any) -> Tensor:
            assert steps == programme.validation_steps(1)
            seen.events.append("evaluate")
            return torch.tensor([14.0, TOP1, TOP5, IMAGES], dtype=torch.float64)

        def commit(home: Path, number: int, state: dict[str, Any], _keep: int) -> None:
            home.mkdir(exist_ok=True)
            seen.events.append(f"save {number}")
            seen.saved[number] = state

        monkeypatch.setattr(step, "train_step", train_step)
        monkeypatch.setattr(step, "validate", validate)
        monkeypatch.setattr(checkpoint, "write_tower", lambda *_: None)
        monkeypatch.setattr(checkpoint, "commit", commit)
        start, trainer, feed = at or Start(), SimpleNamespace(state=lambda _: {}), SimpleNamespace(take_bad=list)
        chosen = settings(f"run.directory={tmp_path}", *words)
        metrics = Metrics("mine", 0, 0, "0+1", 1, BAD_KINDS)
        with RunLogger(tmp_path, place, programme, SMALL, metrics, 1, False, start.step, start.time_s) as journal:
            parts: Any = (trainer, feed, control or Control(None), journal, False)
            Loop(chosen, place, programme, programme.position(0, "abc"), *parts).go(start, lambda: None)
        return seen

    return go


BLIND = replace(PLAIN, validation_images=0)  # eight steps, three an epoch


def test_each_step_has_the_rate_of_its_place_in_the_schedule(play: Play) -> None:
    words = ("optim.learning_rate=0.6", "optim.warmup_epochs=1", "optim.schedule=epochs", "optim.drop_epochs=[2]")
    wanted = [0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.06, 0.06]
    for first in (0, 1, 5, 6):
        found = play(BLIND, *words, at=Start(step=first)).rates
        assert [number for number, _ in found] == list(range(first, 8))
        assert [rate for _, rate in found] == pytest.approx(wanted[first:])


def test_a_checkpoint_is_due_every_so_often_and_at_the_end(play: Play) -> None:
    assert list(play(BLIND, "run.save_every=3").saved) == [3, 6, 8]
    assert list(play(BLIND, "run.save_every=100").saved) == [8]
    state = play(BLIND, "run.save_every=4", at=Start(step=1, time_s=50.0)).saved[4]
    assert (state["position"]["step"], state["evaluated_step"]) == (4, 0)
    assert 50 <= state["time_s"] < 110


def test_an_epochs_checkpoint_holds_its_evaluation_and_what_the_schedule_made_of_it(play: Play) -> None:
    seen = play(replace(PLAIN, steps=6), "run.save_every=100", "optim.learning_rate=0.1", "optim.patience=1")
    before = ["step 0", "step 1", "step 2", "save 3", "evaluate", "save 3"]
    assert seen.events == [*before, "step 3", "step 4", "step 5", "save 6", "evaluate", "save 6"]
    assert [seen.saved[number]["evaluated_step"] for number in (3, 6)] == [3, 6]
    assert seen.saved[3]["progress"] == {"drops": 0, "best_error": TOP1 / IMAGES, "evaluations_since_best": 0}
    assert seen.saved[6]["progress"] == {"drops": 1, "best_error": TOP1 / IMAGES, "evaluations_since_best": 0}


def test_a_run_that_was_stopped_before_an_evaluation_makes_it_first(play: Play) -> None:
    owed = Start(step=3, progress=Progress(best_error=0.1))
    assert play(replace(PLAIN, steps=4), at=owed).events == ["evaluate", "save 3", "step 3", "save 4"]


def test_what_is_told_is_of_the_global_batch(play: Play, tmp_path: Path) -> None:
    play(PLAIN)
    (first, *_), (evaluation, _) = (
        run_directory.read_lines(tmp_path / name) for name in (run_directory.METRICS, run_directory.EVALUATIONS)
    )
    assert (first["step"], first["loss"], first["top1_error"]) == (1, 1.0, 3 / 6)
    told = [evaluation[name] for name in ("step", "loss", "top1_error", "top5_error")]
    assert told == [3, 2.0, TOP1 / IMAGES, TOP5 / IMAGES]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(play: Play, tmp_path: Path) -> None:
    for loss in (math.nan, math.inf):
        with pytest.raises(UserError, match=rf"step 1: the loss is {loss} at .*: training has diverged"):
            play(BLIND, "run.save_every=1", loss=loss)
    assert not (tmp_path / run_directory.CHECKPOINTS).exists()


def test_a_signal_to_one_rank_stops_all_when_they_have_saved(play: Play, tmp_path: Path) -> None:
    seen = play(BLIND, "run.save_every=100", control=Others([1.0, 0.0, 0.0]), place=replace(ALONE, world_size=4))
    assert len(seen.saved) == 1
    (number,) = seen.saved
    assert len(seen.rates) == number < BLIND.steps
    assert (tmp_path / run_directory.PREEMPTED).read_text() == f"stopped and saved at step {number}\n"


def test_a_run_that_is_asked_to_stop_at_its_last_step_is_finished(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = play(replace(BLIND, steps=1), control=Others([1.0, 0.0, 0.0]))
    assert list(seen.saved) == [1]
    assert not (tmp_path / run_directory.PREEMPTED).exists()
    assert "finished: 1 steps in" in capsys.readouterr().out


def test_a_rank_serves_on_the_base_port_and_its_local_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def serve(_metrics: Metrics, address: str, port: int) -> int:
        asked.append((address, port))
        return port or 40_000

    monkeypatch.setattr(Metrics, "serve", serve)
    for port, local_rank in (("9410", 0), ("9410", 3), ("0", 3), ("null", 3)):
        place = replace(ALONE, local_rank=local_rank)
        open_metrics(settings(f"metrics.port={port}"), tmp_path, place, Control(None))
    assert asked == [("127.0.0.1", 9410), ("127.0.0.1", 9413), ("127.0.0.1", 0)]
    assert json.loads((tmp_path / run_directory.TARGETS).read_text()) == [{"targets": ["127.0.0.1:40000"]}]
