"""What a run logs: which steps, of how many images, how fast; evaluations; bad samples."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexnet_dist.data.reader import BAD_KINDS, BadSample
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import PHASES, Times
from alexnet_dist.nn.geometry import parameter_count, training_flops
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.progress import Progress
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.resume import Start
from alexnet_dist.training.run_logger import Evaluation, RunLogger, StepRecord, decoded_ids
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import StepReport
from support.nets import SMALL
from support.plans import PLAIN
from support.runs import context, settings

TIMES = Times(0.25, dict.fromkeys(PHASES, 0.0) | {"data_wait": 0.125}, {})
REPORT = StepReport(0.0, 0.0, (), TIMES, 10, 20)
RANK_0 = Topology(0, 2, 0, "paired", torch.device("cpu"))
Value = Callable[..., float | None]


@contextmanager
def open_logger(directory: Path, log_every: int = 1, topology: Topology = RANK_0) -> Iterator[tuple[RunLogger, Value]]:
    """Yield a rank's logger of an eight-step run that has trained for 100 s, and what reads its metrics."""
    metrics = Metrics("mine", topology.rank, topology.replica, topology.rank % 2, topology.world_size, BAD_KINDS)
    names = {"run": "mine", "rank": f"{topology.rank}", "replica": "0", "tower": f"{topology.rank % 2}"}
    config = settings(f"run.directory={directory}", f"run.log_every={log_every}", "run.record_samples=true")

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"alexnet_train_{name}", names | labels)

    with RunLogger(context(config, topology=topology, net=SMALL), metrics, Start(time_s=100.0)) as logger:
        yield logger, value


def record(step: int, time_s: float = 101.0) -> StepRecord:
    return StepRecord(step, Rates(0.01 * step, 0.02 * step), REPORT, time_s)


def test_every_log_step_and_the_last_are_logged(tmp_path: Path) -> None:
    with open_logger(tmp_path, log_every=3) as (logger, value):
        for step in range(1, PLAIN.steps + 1):
            logger.log_loss(record(step, 100.0 + step), 0.5 * step, 0.25)
        assert (value("loss"), value("top1_error"), value("learning_rate")) == (4.0, 0.25, 0.08)
    lines = run_directory.read_lines(tmp_path / run_directory.METRICS)
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert lines[2] == {
        "step": 8, "epoch": round(8 / 3, 6), "images": 48, "loss": 4.0, "top1_error": 0.25, "learning_rate": 0.08,
        "step_s": 0.25, "data_wait_s": 0.125, "time_s": 108.0,
    }  # fmt: skip


def test_the_speed_leaves_out_evaluations_and_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_logger(tmp_path) as (logger, _):
        logger.log_loss(record(2, 104.0), 1.0, 0.5)
        logger.log_evaluation(3, Evaluation(1.0, 0.5, 0.25), seconds=5.0)
        logger.log_checkpoint(2.0)
        logger.log_loss(record(4, 104.0 + 5.0 + 2.0 + 1.0), 1.0, 0.5)
    output = capsys.readouterr().out
    assert "step 2/8  epoch 0.67  loss 1.0000  top-1 error 50.00%  learning rate 0.02  3 images/s" in output
    assert "step 4/8  epoch 1.33  loss 1.0000  top-1 error 50.00%  learning rate 0.04  12 images/s" in output


@pytest.mark.parametrize("top5", [0.25, None])
def test_an_evaluation_is_logged(top5: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_logger(tmp_path) as (logger, value):
        logger.log_evaluation(3, Evaluation(1.5, 0.5, top5), 1.0)
        assert [value(f"evaluation_{name}") for name in ("loss", "top1_error", "top5_error")] == [1.5, 0.5, top5]
    (line,) = run_directory.read_lines(tmp_path / run_directory.EVALUATIONS)
    assert 100 <= line.pop("time_s") < 160
    assert line == {"step": 3, "epoch": 1.0, "images": 7, "loss": 1.5, "top1_error": 0.5, "top5_error": top5}
    wanted = "top-1 error 50.00%" + ("" if top5 is None else "  top-5 error 25.00%") + "  loss 1.5000"
    assert f"validation after epoch 1: {wanted}" in capsys.readouterr().out


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_an_evaluation_has_a_bar_and_the_end_is_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with open_logger(tmp_path) as (logger, _):
        logger.log_loss(record(2), 1.0, 0.5)
        with logger.evaluating(2, lambda: True) as poll:
            assert poll()
        assert "validation:   0%|          | 0/7 " in terminal.getvalue()
        logger.log_warning("words")
        shown = len(terminal.getvalue())
        logger.log_end("finished")
        closing = terminal.getvalue()[shown:]
    assert "step/s" in closing
    assert "\nwarning: words\n" in terminal.getvalue().replace("\r", "\n")
    assert terminal.getvalue()[shown:] == closing  # nothing is drawn below the last line
    assert capsys.readouterr().out == "finished\n"


def test_elsewhere_an_evaluation_is_silent_and_is_polled_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(Progress, "add", lambda _, images: counted.append(images))
    for rank in (0, 1):
        counted.clear()
        topology, polls = replace(RANK_0, rank=rank, local_rank=rank), iter([False, True])
        with open_logger(tmp_path, topology=topology) as (logger, _), logger.evaluating(2, polls.__next__) as poll:
            assert [poll(), poll()] == [False, True]
        assert counted == ([] if rank else [4, 4])  # of 7 images
    assert capsys.readouterr() == ("", "")


def test_a_loss_that_has_not_moved_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_logger(tmp_path) as (logger, _):
        for step in range(1, 2010):
            logger.log_loss(record(step, 101.0 + step), 1.95, 0.5)  # ln 7
    said = capsys.readouterr().err
    assert said.count("warning: the loss has not moved from ln(7) = 1.95 in 2,000 steps: ") == 1


def test_only_rank_0_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_logger(tmp_path, topology=replace(RANK_0, rank=1, local_rank=1)) as (logger, value):
        logger.log_loss(record(2), 1.0, 0.5)
        logger.log_evaluation(3, Evaluation(1.0, 0.5, None), 1.0)
        logger.log_samples(2, ["[1]", "[2]"])
        logger.log("words")
        assert (value("loss"), value("evaluation_loss")) == (1.0, 1.0)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_rank_counts_its_half_of_the_images_and_its_bad_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = tuple(BatchSpec(True, 0, 0, np.array(ids), 0) for ids in ([4, 9, 2], [7, 1]))
    bad = BadSample(9, "train-000001.tar", 512, "a damaged JPEG", "damaged")
    with open_logger(tmp_path) as (logger, value):
        logger.log_step(1, replace(REPORT, batches=specs))
        logger.log_samples(1, [decoded_ids(replace(REPORT, batches=specs), (tower,)) for tower in (0, 1)])
        logger.log_bad_samples([bad])
        assert (value("images_total"), value("progress_images")) == (2.5, 2.5)
        assert value("model_flops_total") == 2.5 * training_flops(SMALL)
        assert (value("step"), value("epoch")) == (1, 1 / 3)
        assert [value("link_bytes_total", direction=way) for way in ("send", "recv")] == [10, 20]
        assert value("bad_samples_total", reason="damaged") == 1
    for rank, ids in enumerate(([4, 7], [9, 2, 1])):
        assert run_directory.read_lines(tmp_path / run_directory.samples_file(rank)) == [{"step": 1, "ids": ids}]
    assert (
        "rank 0: another sample substituted for a bad one: sample 9 (train-000001.tar, byte 512)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_the_disk_of_the_run_directory_is_shown_on_rank_0(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7e9))
    with open_logger(tmp_path, topology=replace(RANK_0, rank=rank, local_rank=rank)) as (logger, value):
        assert value("run_disk_free_bytes") == (7e9 if rank == 0 else None)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
        logger.log_loss(record(1), 1.0, 0.5)
        assert value("run_disk_free_bytes") == (5e9 if rank == 0 else None)
        assert value("checkpoint_size_bytes") == (8 * parameter_count(SMALL) if rank == 0 else None)


def test_a_run_directory_that_was_removed_does_not_end_the_run_here(tmp_path: Path) -> None:
    with open_logger(tmp_path / "removed") as (_, value):
        assert value("run_disk_free_bytes") is None


def test_valid_and_failed_checkpoints_are_told_apart(tmp_path: Path) -> None:
    with open_logger(tmp_path) as (logger, value):
        began_s = value("last_checkpoint_timestamp_seconds") or 0
        logger.count_save_failure()
        assert value("last_checkpoint_timestamp_seconds") == began_s
        logger.log_valid_checkpoint()
        assert (value("last_checkpoint_timestamp_seconds") or 0) > began_s
        assert value("checkpoint_failures_total") == 1


@pytest.mark.parametrize(("step", "loads"), [(0, 0), (3, 1)])
def test_a_resumed_run_shows_what_loading_took(step: int, loads: int, tmp_path: Path) -> None:
    metrics = Metrics("mine", 0, 0, 0, 2, BAD_KINDS)
    start = Start(step=step, load_s=4.0 * loads)
    with RunLogger(context(settings(f"run.directory={tmp_path}"), topology=RANK_0, net=SMALL), metrics, start):
        labels = {"run": "mine", "rank": "0", "replica": "0", "tower": "0", "op": "load"}
        name = "alexnet_train_checkpoint_duration_seconds"
        assert metrics.registry.get_sample_value(f"{name}_count", labels) == loads
        assert metrics.registry.get_sample_value(f"{name}_sum", labels) == 4.0 * loads
