"""How the end of a run is seen by who scrapes it: the last values are read before the process leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
from prometheus_client.parser import text_string_to_metric_families

from alexnet_dist.distributed.lost_rank import LostRankError
from alexnet_dist.errors import PermanentError, RollbackError, RunError, UserError
from alexnet_dist.runs.directory import TARGETS
from alexnet_dist.training.ending import LastScrape
from support.agents import wait_for_step
from support.training import TRAIN, finished, settings, torchrun

STEPS = 60
LIMIT_BLOCKS = 24  # of 1024 bytes: enough for the records


class Scraped:
    """Metrics that count how often a scrape is waited for, signals that never come, and other ranks."""

    def __init__(self) -> None:
        """Begin with no wait."""
        self.waits = self.meetings = 0

    def wait_for_scrape(self, stopped: Callable[[float], bool]) -> None:
        """Count."""
        assert not stopped(0.0)
        assert self.meetings == 0
        self.waits += 1

    def meet(self, _timeout_s: float) -> None:
        """Count."""
        self.meetings += 1

    def wait(self, _timeout_s: float) -> bool:
        """Return that there was no signal."""
        return False


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (UserError("diverged"), 1),
        (PermanentError("disk full"), 1),
        (RunError("restarted"), 0),
        (RollbackError("goes on"), 0),
        (LostRankError("fc6 forward", "closed by peer"), 0),
        (KeyboardInterrupt(), 0),
        (OSError("restarted"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_shown_if_no_restart_would_cure_it(error: BaseException, waits: int) -> None:
    scraped: Any = Scraped()
    with suppress(BaseException), LastScrape(scraped, scraped, scraped):
        raise error
    assert (scraped.waits, scraped.meetings) == (waits, 0)


@pytest.mark.parametrize("ended", [True, False])
def test_a_finished_run_is_shown_on_all_ranks_and_a_stopped_one_leaves(ended: bool) -> None:
    scraped: Any = Scraped()
    with LastScrape(scraped, scraped, scraped) as last_scrape:
        last_scrape.finished = ended
    assert (scraped.waits, scraped.meetings) == (int(ended), int(ended))


def scrape_to_the_end(run: Path, process: subprocess.Popen[str]) -> dict[str, float]:
    """Scrape a run of one rank every tenth of a second until its process has ended, and return the last values."""
    while not (run / TARGETS).exists():
        assert process.poll() is None, finished(process)
        time.sleep(0.01)
    (group,) = json.loads((run / TARGETS).read_text())
    direct, text = build_opener(ProxyHandler({})), ""
    while process.poll() is None:
        with suppress(OSError), direct.open(f"http://{group['targets'][0]}/metrics", timeout=10) as response:
            text = response.read().decode()
        time.sleep(0.1)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name.removeprefix("alexnet_train_"): sample.value for sample in samples}


def start(shards: Path, run: Path, steps: int, *options: str, limit_blocks: int = 0) -> subprocess.Popen[str]:
    """Start a run of one rank; limit_blocks: the largest file that it may write, 0: any."""
    words = settings(shards, run, f"run.steps={steps}", "run.save_every=1000000", "metrics.port=0", "data.workers=0")
    limited = ["bash", "-c", f'ulimit -f {limit_blocks} && exec "$@"', "bash"] if limit_blocks else []
    return subprocess.Popen(
        [*limited, sys.executable, str(TRAIN), *words, *options], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_last_scrape_sees_that_the_run_is_finished(shards: Path, tmp_path: Path) -> None:
    process = start(shards, tmp_path / "run", STEPS)
    seen = scrape_to_the_end(tmp_path / "run", process)
    finished(process)
    assert (seen["running"], seen["steps_total"], seen["nonfinite_loss_total"], seen["restarts"]) == (0, STEPS, 0, 0)
    assert seen["last_checkpoint_timestamp_seconds"] > seen["last_step_timestamp_seconds"]
    assert 0 < seen["checkpoint_size_bytes"] < seen["run_disk_free_bytes"]
    assert not (tmp_path / "run" / TARGETS).exists()


def test_the_last_scrape_sees_that_training_has_diverged(shards: Path, tmp_path: Path) -> None:
    faults = [f"--unsafe-fault=rank=0,step={step},phase=load,kind=nan" for step in (STEPS // 2, STEPS)]
    process = start(shards, tmp_path / "run", 10**6, *faults, "run.on_divergence=skip", "run.max_skipped=1")
    seen = scrape_to_the_end(tmp_path / "run", process)
    assert "training has diverged" in finished(process, 2)
    assert (seen["running"], seen["nonfinite_loss_total"], seen["skipped_batches_total"]) == (0, 1, 2)


def test_the_last_scrape_sees_that_the_last_checkpoint_was_not_written(shards: Path, tmp_path: Path) -> None:
    process = start(shards, tmp_path / "run", STEPS, "run.evaluate_every=0", limit_blocks=LIMIT_BLOCKS)
    seen = scrape_to_the_end(tmp_path / "run", process)
    assert "checkpoint of step 60 not written: File too large" in finished(process, 1)
    assert (seen["running"], seen["checkpoint_failures_total"]) == (0, 1)
    assert seen["checkpoint_size_bytes"] / 2 > 1024 * LIMIT_BLOCKS  # a tower's file


@pytest.mark.slow
def test_no_rank_leaves_the_list_before_all_have_shown_their_end(shards: Path, tmp_path: Path) -> None:
    """Prometheus scrapes the ranks one after the other, and none any more once the list of their addresses is gone."""
    directory, direct = tmp_path / "run", build_opener(ProxyHandler({}))
    words = settings(shards, directory, f"run.steps={10 * STEPS}", "run.record_samples=false", "data.workers=0")
    process = torchrun(2, words)
    while not (directory / TARGETS).exists():
        assert process.poll() is None, finished(process)
        time.sleep(0.01)
    seen = dict[str, str]()
    while True:
        for rank in range(2):
            try:
                (group,) = json.loads((directory / TARGETS).read_text())
            except FileNotFoundError:
                break
            with suppress(OSError), direct.open(f"http://{group['targets'][rank]}/metrics", timeout=10) as response:
                page = response.read().decode()
                seen[group["targets"][rank]] = re.findall(r"^alexnet_train_running\S+ (\S+)$", page, re.MULTILINE)[0]
            time.sleep(1.5)
        else:
            continue
        break
    finished(process)
    assert [*seen.values()] == ["0.0", "0.0"]


def test_a_run_that_is_asked_to_stop_waits_for_no_scrape(shards: Path, tmp_path: Path) -> None:
    process = start(shards, tmp_path / "run", 10**6)
    wait_for_step(tmp_path / "run", 5)
    (group,) = json.loads((tmp_path / "run" / TARGETS).read_text())
    build_opener(ProxyHandler({})).open(f"http://{group['targets'][0]}/metrics", timeout=10).close()
    process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    assert "asked to stop: saved" in finished(process)
    assert time.monotonic() - began_s < 6  # a scrape is waited for at least 7.5 s
