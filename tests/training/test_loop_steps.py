"""The loop around the steps: learning rates, what is saved when, what the schedule sees, what ends it; the ports."""

from __future__ import annotations

import errno
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
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.status_sum import PendingSum
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.monitoring.access import Access
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import PHASES, Times
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.system.resources import host_name
from alexnet_dist.training import step
from alexnet_dist.training.loop import Loop
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.resume import Start
from alexnet_dist.training.run_logger import RunLogger
from alexnet_dist.training.run_plan import RunPlan
from alexnet_dist.training.saver import Saver
from alexnet_dist.training.schedule import Progress
from alexnet_dist.training.step import StepReport
from alexnet_dist.training.train import open_metrics
from support.nets import SMALL
from support.plans import PLAIN
from support.runs import context, settings

ALONE = Topology(0, 1, 0, "fused", torch.device("cpu"))
TIMES = Times(0.25, dict.fromkeys(PHASES, 0.0), {})
TOP1, TOP5, IMAGES = 4.0, 2.0, 7.0


@dataclass
class Trained:
    """What a loop has done: (step, learning rate) of each step, the states it saved by step, all events in order.

    metrics: what it has counted.
    """

    rates: list[tuple[int, float]] = field(default_factory=list)
    saved: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    metrics: Metrics = field(default_factory=lambda: Metrics("mine", 0, 0, "0+1", 1, BAD_KINDS))

    def counted(self, name: str) -> float | None:
        labels = {"run": "mine", "rank": "0", "replica": "0", "tower": "0+1"}
        return self.metrics.registry.get_sample_value(f"alexnet_train_{name}", labels)


class OtherRank(Control):
    """Status sums to which another rank adds its numbers, if they are a step's."""

    def __init__(self, numbers: Sequence[float]) -> None:
        super().__init__(None)
        self._numbers = numbers

    def wait(self, pending: PendingSum) -> list[float]:
        own = super().wait(pending)
        return [a + b for a, b in zip(own, self._numbers, strict=True)] if len(own) == len(self._numbers) else own


Play = Callable[..., Trained]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return a function that runs the loop over a plan from a start, with steps that compute nothing."""

    def go(
        plan: RunPlan,
        *words: str,
        at: Start | None = None,
        loss: float = 1.0,
        control: Control | None = None,
        topology: Topology = ALONE,
        into: Trained | None = None,
        save_error: OSError | None = None,
    ) -> Trained:
        trained = into or Trained()

        def train_step(_engine: Any, _feed: Any, number: int, rates: Rates) -> Any:
            trained.rates.append((number, rates.weights))
            trained.events.append(f"step {number}")
            report = StepReport(loss, 3.0, (), TIMES, 0, 0)
            return SimpleNamespace(read=lambda: report)

        def validate(_engine: Any, _feed: Any, steps: int, _asked: Any) -> Tensor:
            assert steps == plan.validation_steps(1)
            trained.events.append("evaluate")
            return torch.tensor([14.0, TOP1, TOP5, IMAGES], dtype=torch.float64)

        def commit(home: Path, number: int, state: dict[str, Any], *_: object) -> None:
            if save_error is not None:
                raise save_error
            home.mkdir(exist_ok=True)
            trained.events.append(f"save {number}")
            trained.saved[number] = state

        monkeypatch.setattr(step, "validate", validate)
        monkeypatch.setattr(checkpoint, "write_tower", lambda *_: None)
        monkeypatch.setattr(checkpoint, "commit", commit)
        start, engine, feed = (
            at or Start(),
            SimpleNamespace(tensors=lambda _: {}, weights={0: {}, 1: {}}),
            SimpleNamespace(take_bad=list),
        )
        run = context(settings(f"run.directory={tmp_path}", *words), plan=plan, topology=topology, net=SMALL)
        with RunLogger(run, trained.metrics, start) as logger:
            shared = control or Control(None)
            parts: Any = (engine, feed, shared, logger, Saver(run, shared), lambda: False, train_step)
            Loop(run, *parts).train(start, lambda: None)
        return trained

    return go


BLIND = replace(PLAIN, validation_images=0)  # eight steps, three an epoch


def test_each_step_has_the_learning_rate_of_the_schedule(play: Play) -> None:
    words = ("optim.learning_rate=0.6", "optim.warmup_epochs=1", "optim.schedule=epochs", "optim.drop_epochs=[2]")
    wanted = [0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.06, 0.06]
    for first in (0, 1, 5, 6):
        rates = play(BLIND, *words, at=Start(step=first)).rates
        assert [number for number, _ in rates] == list(range(first, 8))
        assert [learning_rate for _, learning_rate in rates] == pytest.approx(wanted[first:])


def test_a_checkpoint_is_due_every_so_often_and_at_the_end(play: Play) -> None:
    assert list(play(BLIND, "run.save_every=3").saved) == [3, 6, 8]
    assert list(play(BLIND, "run.save_every=100").saved) == [8]
    state = play(BLIND, "run.save_every=4", at=Start(step=1, time_s=50.0)).saved[4]
    assert (state["position"]["step"], state["evaluated_step"]) == (4, 0)
    assert 50 <= state["time_s"] < 110


def test_an_epochs_checkpoint_holds_its_evaluation_and_what_the_schedule_made_of_it(play: Play) -> None:
    trained = play(replace(PLAIN, steps=6), "run.save_every=100", "optim.learning_rate=0.1", "optim.patience=1")
    before = ["step 0", "step 1", "step 2", "save 3", "evaluate", "save 3"]
    assert trained.events == [*before, "step 3", "step 4", "step 5", "save 6", "evaluate", "save 6"]
    assert [trained.saved[number]["evaluated_step"] for number in (3, 6)] == [3, 6]
    assert trained.saved[3]["progress"] == {"drops": 0, "best_error": TOP1 / IMAGES, "evaluations_since_best": 0}
    assert trained.saved[6]["progress"] == {"drops": 1, "best_error": TOP1 / IMAGES, "evaluations_since_best": 0}


def test_a_run_that_was_stopped_before_an_evaluation_makes_it_first(play: Play) -> None:
    at = Start(step=3, progress=Progress(best_error=0.1))
    assert play(replace(PLAIN, steps=4), at=at).events == ["evaluate", "save 3", "step 3", "save 4"]


def test_what_is_logged_is_of_the_global_batch(play: Play, tmp_path: Path) -> None:
    play(PLAIN, "run.log_every=1")
    (first, *_), (evaluation, _) = (
        run_directory.read_lines(tmp_path / name) for name in (run_directory.METRICS, run_directory.EVALUATIONS)
    )
    assert (first["step"], first["loss"], first["top1_error"]) == (1, 1.0, 3 / 6)
    logged = [evaluation[name] for name in ("step", "loss", "top1_error", "top5_error")]
    assert logged == [3, 2.0, TOP1 / IMAGES, TOP5 / IMAGES]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(play: Play, tmp_path: Path) -> None:
    for loss in (math.nan, math.inf):
        with pytest.raises(UserError, match=rf"step 1: the loss is {loss} at .*: training has diverged"):
            play(BLIND, "run.save_every=1", loss=loss)
    assert not (tmp_path / run_directory.CHECKPOINTS).exists()


def test_a_loss_beyond_the_limit_ends_the_run_and_is_not_saved(play: Play, tmp_path: Path) -> None:
    limit = "train.max_loss=50"
    with pytest.raises(
        UserError, match=r"step 1: the loss is 51, above train\.max_loss = 50 .*, at .*: training has diverged"
    ):
        play(BLIND, "run.save_every=1", limit, loss=51.0)
    assert not (tmp_path / run_directory.CHECKPOINTS).exists()
    play(BLIND, "run.save_every=1", limit, loss=50.0)
    assert (tmp_path / run_directory.SAVED).read_text() == "1\n"


def test_a_signal_to_one_rank_stops_all_when_they_have_saved(play: Play, tmp_path: Path) -> None:
    trained = play(
        BLIND,
        "run.save_every=100",
        control=OtherRank([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        topology=replace(ALONE, world_size=4),
    )
    assert len(trained.saved) == 1
    (number,) = trained.saved
    assert len(trained.rates) == number < BLIND.steps
    assert (tmp_path / run_directory.PREEMPTED).read_text() == f"stopped and saved at step {number}\n"


def test_a_run_that_is_asked_to_stop_at_its_last_step_is_finished(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = play(replace(BLIND, steps=1), control=OtherRank([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert list(trained.saved) == [1]
    assert not (tmp_path / run_directory.PREEMPTED).exists()
    assert "finished: 1 step in" in capsys.readouterr().out


def test_saves_that_fail_and_divergences_are_counted(play: Play) -> None:
    trained = Trained()
    began_s = trained.counted("last_checkpoint_timestamp_seconds")
    with pytest.raises(RunError, match="checkpoint of step 8 not written: no answer"):
        play(BLIND, "run.on_save_error=stop", into=trained, save_error=OSError(errno.EIO, "no answer"))
    assert trained.counted("checkpoint_failures_total") == 1
    assert trained.counted("last_checkpoint_timestamp_seconds") == began_s
    with pytest.raises(UserError, match="diverged"):
        play(BLIND, loss=math.nan, into=trained)
    assert trained.counted("nonfinite_loss_total") == 1
    play(BLIND, into=trained)
    assert (trained.counted("last_checkpoint_timestamp_seconds") or 0) > (began_s or 0)
    assert (trained.counted("checkpoint_failures_total"), trained.counted("nonfinite_loss_total")) == (1, 1)


def test_a_rank_serves_on_the_base_port_and_its_local_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def serve(_metrics: Metrics, address: str, port: int, _access: Access) -> int:
        asked.append((address, port))
        return port or 40_000

    monkeypatch.setattr(Metrics, "serve", serve)
    for port, local_rank in (("9410", 0), ("9410", 3), ("0", 3), ("null", 3)):
        config = settings(f"metrics.port={port}", f"run.directory={tmp_path}")
        open_metrics(context(config, topology=replace(ALONE, local_rank=local_rank)), Control(None))
    assert asked == [("127.0.0.1", 9410), ("127.0.0.1", 9413), ("127.0.0.1", 0)]
    (group,) = json.loads((tmp_path / run_directory.TARGETS).read_text())
    assert group == {"targets": ["127.0.0.1:40000"], "labels": {"node": host_name()}}
