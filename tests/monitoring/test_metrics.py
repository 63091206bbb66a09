"""The series of a rank, their exposition, and the server that exposes them."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest

from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.monitoring import metrics, server
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import PHASES, Times

RANK_LABELS = {"run": "demo", "rank": "3", "replica": "1", "tower": "1"}
PHASE_S = {"data_wait": 0.1, "forward": 0.05, "link_wait": 0.02, "backward": 0.1, "optimizer": 0.03}
JOIN_WAIT_S = {"conv3 forward": 0.015, "fc6 backward": 0.005}


def rank_3() -> Metrics:
    return Metrics(run="demo", rank=3, replica=1, tower=1, world_size=4, bad_sample_reasons=BAD_KINDS)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"alexnet_train_{name}", RANK_LABELS | labels)


def take_step(metrics: Metrics, number: int = 1, images: float = 6.5) -> None:
    metrics.observe_step(
        step=number, epoch=number / 10, images_share=images, times=Times(0.3, PHASE_S, JOIN_WAIT_S),
        link_bytes_sent=100, link_bytes_received=200, flops=1e9,
    )  # fmt: skip


@contextlib.contextmanager
def served(metrics: Metrics, address: str = "127.0.0.1", port: int = 0) -> Iterator[int | None]:
    """Serve during a with block, and yield the port."""
    try:
        yield metrics.serve(address, port)
    finally:
        metrics.close()


def scraped(port: int | None) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        text: str = response.read().decode()
    return text


def test_a_step_is_counted() -> None:
    metrics = rank_3()
    for number in (1, 2):
        take_step(metrics, number)
    assert value(metrics, "images_total") == 13
    assert value(metrics, "steps_total") == 2
    assert value(metrics, "model_flops_total") == 2e9
    assert value(metrics, "step") == 2
    assert value(metrics, "epoch") == 0.2
    assert value(metrics, "link_bytes_total", direction="send") == 200
    assert value(metrics, "link_bytes_total", direction="recv") == 400
    assert value(metrics, "step_duration_seconds_count") == 2
    assert value(metrics, "step_duration_seconds_sum") == pytest.approx(0.6)
    assert value(metrics, "step_duration_seconds_bucket", le="0.2") == 0
    assert value(metrics, "step_duration_seconds_bucket", le="0.3") == 2
    for phase in PHASES:
        assert value(metrics, "phase_seconds_total", phase=phase) == pytest.approx(2 * PHASE_S.get(phase, 0))
    for join, seconds in JOIN_WAIT_S.items():
        assert value(metrics, "link_wait_seconds_total", join=join) == pytest.approx(2 * seconds)
    assert (value(metrics, "last_step_timestamp_seconds") or 0) == pytest.approx(time.time(), abs=60)


def test_bad_samples_are_counted_by_what_the_reader_calls_them() -> None:
    assert BAD_KINDS == ("checksum", "damaged", "size")
    metrics = rank_3()
    assert [value(metrics, "bad_samples_total", reason=kind) for kind in BAD_KINDS] == [0, 0, 0]
    for kind in ("size", "checksum", "size"):
        metrics.add_bad_sample(kind)
    assert [value(metrics, "bad_samples_total", reason=kind) for kind in BAD_KINDS] == [1, 0, 2]


def test_a_phase_that_rounding_left_below_nothing_does_not_end_the_run() -> None:
    metrics = rank_3()
    metrics.observe_step(
        step=1, epoch=1, images_share=1, times=Times(0, {"forward": -1e-12}, {"fc6 forward": -1e-12}),
        link_bytes_sent=0, link_bytes_received=0, flops=0,
    )  # fmt: skip
    assert value(metrics, "phase_seconds_total", phase="forward") == 0
    assert value(metrics, "link_wait_seconds_total", join="fc6 forward") == 0


def test_counters_stand_at_zero_and_gauges_of_what_has_not_happened_are_absent() -> None:
    metrics = rank_3()
    for name in ("images_total", "steps_total", "nonfinite_loss_total", "model_flops_total"):
        assert value(metrics, name) == 0, name
    assert all(value(metrics, "phase_seconds_total", phase=phase) == 0 for phase in PHASES)
    assert [value(metrics, "checkpoint_duration_seconds_count", op=op) for op in ("save", "load")] == [0, 0]
    assert value(metrics, "running") == 0
    assert value(metrics, "world_size") == 4
    assert (value(metrics, "last_step_timestamp_seconds") or 0) == pytest.approx(time.time(), abs=60)
    for name in ("step", "epoch", "loss", "learning_rate", "evaluation_loss", "progress_images"):
        assert value(metrics, name) is None, name


def test_what_a_run_logs_is_exposed() -> None:
    metrics = rank_3()
    metrics.set_running(True)
    metrics.observe_log(loss=2.5, top1_error=0.75, learning_rate=0.01)
    metrics.observe_evaluation(loss=2.0, top1_error=0.5, top5_error=None)
    assert value(metrics, "evaluation_top5_error") is None
    metrics.observe_evaluation(loss=1.5, top1_error=0.4, top5_error=0.2)
    metrics.observe_checkpoint("save", 1.5)
    metrics.add_nonfinite(1)
    exposed = {"running": 1, "loss": 2.5, "top1_error": 0.75, "learning_rate": 0.01, "evaluation_loss": 1.5}
    exposed |= {"evaluation_top1_error": 0.4, "evaluation_top5_error": 0.2}
    exposed |= {"nonfinite_loss_total": 1}
    assert {name: value(metrics, name) for name in exposed} == exposed
    assert value(metrics, "checkpoint_duration_seconds_sum", op="save") == 1.5
    metrics.set_running(False)
    assert value(metrics, "running") == 0


@given(world_size=st.integers(1, 8), done=st.integers(0, 10**6), batch=st.integers(1, 300), steps=st.integers(0, 5))
def test_progress_sums_to_the_runs_images_over_all_restarts(world_size: int, done: int, batch: int, steps: int) -> None:
    total = 0.0
    for rank in range(world_size):
        metrics = Metrics(
            run="demo", rank=rank, replica=rank, tower="0+1", world_size=world_size, bad_sample_reasons=()
        )
        metrics.restore(progress_images=done * batch, step=done)
        # The world size need not divide the global batch.
        share = (rank + 1) * batch // world_size - rank * batch // world_size
        for number in range(steps):
            take_step(metrics, done + number + 1, share)
        labels = {"run": "demo", "rank": str(rank), "replica": str(rank), "tower": "0+1"}
        total += metrics.registry.get_sample_value("alexnet_train_progress_images", labels) or 0
        assert metrics.registry.get_sample_value("alexnet_train_step", labels) == done + steps
    assert total == pytest.approx((done + steps) * batch)


def test_every_series_of_ours_names_the_rank_and_says_what_it_is() -> None:
    metrics = rank_3()
    take_step(metrics)
    families = [family for family in metrics.registry.collect() if not family.name.startswith("process_")]
    assert len(families) > 20
    for family in families:
        assert family.name.startswith("alexnet_train_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.labels.items() >= RANK_LABELS.items(), sample
    assert any(family.name == "process_resident_memory_bytes" for family in metrics.registry.collect())


def test_created_series_are_left_out_here_and_nowhere_else() -> None:
    other = CollectorRegistry()
    Counter("visits", "A series of another registry.", registry=other)
    metrics = rank_3()
    take_step(metrics)
    assert b"_created" not in generate_latest(metrics.registry)
    assert b"visits_created" in generate_latest(other)


def test_two_ranks_fit_into_one_process_and_leave_the_global_registry_alone() -> None:
    before = generate_latest(prometheus_client.REGISTRY).count(b"# HELP")
    first, second = rank_3(), rank_3()
    take_step(first)
    assert value(second, "steps_total") == 0
    assert generate_latest(prometheus_client.REGISTRY).count(b"# HELP") == before


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_accepts_the_exposition() -> None:
    metrics = rank_3()
    take_step(metrics)
    metrics.observe_log(loss=float("nan"), top1_error=0.75, learning_rate=0.01)
    metrics.observe_evaluation(loss=2.0, top1_error=0.5, top5_error=0.1)
    with served(metrics) as port:
        check = subprocess.run(["promtool", "check", "metrics"], input=scraped(port), capture_output=True, text=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_a_scrape_sees_the_run_grow(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAGE_S", 0.0)
    metrics = rank_3()
    threads = threading.active_count()
    with served(metrics) as port:
        for number in (1, 2):
            take_step(metrics, number, images=8)
            line = 'alexnet_train_images_total{rank="3",replica="1",run="demo",tower="1"} '
            assert f"{line}{8.0 * number}\n" in scraped(port)
    assert threading.active_count() == threads
    with pytest.raises(OSError, match="refused"):
        scraped(port)
    metrics.close()  # a second time: there is nothing to close
    assert capsys.readouterr().err == ""


def test_a_taken_port_is_reported_and_another_used(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        with served(rank_3(), port=taken) as port:
            assert port not in (taken, None)
            assert "alexnet_train_world_size" in scraped(port)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: rank 3: metrics")
    assert str(taken) in line
    assert str(port) in line


def test_a_port_beyond_the_last_is_reported_and_another_used(capsys: pytest.CaptureFixture[str]) -> None:
    with served(rank_3(), port=65536) as port:
        assert port
    assert "65536" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["192.0.2.1", "999.1.1.1", "a..b"])
def test_an_address_that_is_not_ours_does_not_end_the_run(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served(rank_3(), address) as port:
        assert port is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "not served" in line
    assert address in line


def test_an_open_address_is_reported_once_a_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warnings(rank: int, address: str = "localhost") -> int:
        rank_metrics = Metrics(run="demo", rank=rank, replica=0, tower=rank, world_size=2, bad_sample_reasons=())
        with served(rank_metrics, address):
            return capsys.readouterr().err.count("anyone who can reach it")

    assert warnings(0) == 0
    # The server still listens on the loopback interface only.
    monkeypatch.setattr(metrics, "is_loopback", lambda _: False)
    assert (warnings(0), warnings(1)) == (1, 0)
    assert warnings(0, "192.0.2.1") == 0  # not an address of this machine, so nothing listens on it


def test_failed_saves_and_skipped_batches_are_counted() -> None:
    metrics = rank_3()
    for _ in range(2):
        metrics.add_checkpoint_failure()
    metrics.add_skipped_batch()
    page = generate_latest(metrics.registry).decode()
    assert re.search(r"^alexnet_train_checkpoint_failures_total\{.*\} 2\.0$", page, re.MULTILINE)
    assert re.search(r"^alexnet_train_skipped_batches_total\{.*\} 1\.0$", page, re.MULTILINE)


def test_restarts_checkpoints_and_the_disk_are_exposed() -> None:
    metrics = rank_3()
    assert (value(metrics, "last_checkpoint_timestamp_seconds") or 0) == pytest.approx(time.time(), abs=60)
    for name in ("restarts", "run_disk_free_bytes", "checkpoint_size_bytes"):
        assert value(metrics, name) is None, name
    began_s = time.time()
    metrics.observe_valid_checkpoint()
    metrics.set_restarts(2, preemptions=1)
    metrics.observe_disk(free_bytes=10**12, checkpoint_bytes=5 * 10**8)
    assert began_s <= (value(metrics, "last_checkpoint_timestamp_seconds") or 0) <= time.time()
    assert (value(metrics, "restarts"), value(metrics, "preemptions")) == (2, 1)
    assert value(metrics, "run_disk_free_bytes") == 10**12
    assert value(metrics, "checkpoint_size_bytes") == 5 * 10**8
