"""What the metrics cost a rank: the calls after a step beside the step itself, and a scrape beside a busy loop."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from prometheus_client import generate_latest

from alexnet_dist import config as configs
from alexnet_dist.benchmark.contenders.training_steps import (
    LEARNING_RATE,
    PIXEL_DEVIATION,
    SEED,
    StepSettings,
    prepare_process,
    timed,
)
from alexnet_dist.config import Config
from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.monitoring.metrics import MOST_STEPS, Metrics
from alexnet_dist.monitoring.server import PAGE_S
from alexnet_dist.monitoring.timeline import PHASES, Timeline, Times
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rates, Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import new_engine, train_step

# Where a rank of a pair waits for the other tower: more series than one with both towers has.
JOINS = ("conv3 forward", "conv3 backward", "fc6 forward", "fc6 backward", "fc7 forward", "fc7 backward", "logits",
         "pixels")  # fmt: skip
TIMES = Times(0.2, dict.fromkeys(PHASES, 0.02), dict.fromkeys(JOINS, 1e-3))
LOG_EVERY = 20  # steps, as in configs/paper.yaml
PAGES, COUNTS = 20, 9
WORK = 2000  # numbers that the busy loop sums before it looks at the clock, in about 20 us
LOOK = 200  # such sums, between two looks at whether the client has ended
CLIENT = """
import sys, time, urllib.request
url, scrapes, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for number in range(scrapes + 1):
    began_s = time.perf_counter()
    direct.open(url, timeout=60).read()
    print(1000 * (time.perf_counter() - began_s), flush=True)
    time.sleep(pause_s if number < scrapes else 0)
"""


class Noise:
    """A step.BatchSource that always returns the same batch of noise, for any net."""

    def __init__(self, net: Geometry, images: int) -> None:
        """Draw the batch."""
        generator = torch.Generator().manual_seed(SEED)
        self.batch = Batch(
            BatchSpec(True, 0, 0, np.arange(images), images),
            PIXEL_DEVIATION * torch.randn(images, 3, net.side, net.side, generator=generator),
            torch.randint(net.classes, (images,), generator=generator),
            torch.arange(images),
        )

    def take(self) -> Batch:
        """Return the batch."""
        return self.batch

    def send_ahead(self) -> None:
        """Send nothing."""


def measure_calls(config: str, batch: int, steps: int, threads: int) -> dict[str, float]:
    """Return what a step takes, and what the metrics take of it.

    config: the name of the configuration whose net is trained, both towers in this process. calls_us: after a step,
    which has emptied the caches, one in LOG_EVERY of them logged; and of counting it later, many at once.
    """
    prepare_process(StepSettings(batch, steps, threads))
    found: Config = configs.load([Path(config)], []).config
    net, timeline = configs.geometry(found), Timeline(torch.device("cpu"))
    model = AlexNet(net, SEED)
    engine = new_engine(model, Reducer(model, None, timeline), Rule(), SEED, batch, 1, torch.float32, timeline)
    source, rates, metrics = Noise(net, batch), Rates(LEARNING_RATE, LEARNING_RATE), rank_metrics()
    calls_s: tuple[list[float], list[float]] = [], []  # of a step; of a line of the log

    def step(number: int) -> None:
        times = train_step(engine, source, number, rates).read().times
        times = replace(times, join_wait_s=TIMES.join_wait_s)
        is_log = number % 2
        began_s = time.perf_counter()
        if is_log:
            metrics.observe_log(1.0, 0.5, LEARNING_RATE)
        else:
            observe(metrics, number + 1, times)
        calls_s[is_log].append(time.perf_counter() - began_s)

    step_ms = 1000 * timed(step, steps, torch.device("cpu")) / steps
    calls_us = 1e6 * (median(calls_s[0]) + median(calls_s[1]) / LOG_EVERY) + count_us(metrics)
    return {"calls_us": calls_us, "step_ms": step_ms, "share_percent": calls_us / step_ms / 10}


def count_us(metrics: Metrics) -> float:
    """Return what it takes to count a step, one of as many as wait at most; median of COUNTS times."""
    counts_s = []
    for _ in range(COUNTS):
        metrics.collect()
        for number in range(MOST_STEPS - 1):
            observe(metrics, number, TIMES)
        began_s = time.perf_counter()
        metrics.collect()
        counts_s.append(time.perf_counter() - began_s)
    return 1e6 * median(counts_s) / (MOST_STEPS - 1)


def measure_scrape(scrapes: int, threads: int) -> dict[str, float]:
    """Return what a scrape takes of a rank, once a second, while the rank waits and while it is busy in Python.

    cpu_ms: of the rank's process. pause_ms: the longest pause of the busy loop, quiet_pause_ms: without scrapes.
    """
    torch.set_num_threads(threads)
    with closing(rank_metrics()) as metrics:
        pages_s = []
        for _ in range(PAGES):
            began_s = time.perf_counter()
            generate_latest(metrics.registry)
            pages_s.append(time.perf_counter() - began_s)
        url = f"http://127.0.0.1:{metrics.serve()}/metrics"
        with scraping(url, scrapes) as client:
            began_cpu_s = time.process_time()
            idle_ms = read(client)
            cpu_s = time.process_time() - began_cpu_s
        with scraping(url, scrapes) as client:
            pause_s = longest_pause_s(client, float("inf"))
            busy_ms = read(client)
        quiet_s = longest_pause_s(None, scrapes * PAGE_S)
    return {
        "scrape_ms": median(idle_ms),
        "busy_scrape_ms": median(busy_ms),
        "page_ms": 1000 * median(pages_s),
        "cpu_ms": 1000 * cpu_s / scrapes,
        "pause_ms": 1000 * pause_s,
        "quiet_pause_ms": 1000 * quiet_s,
    }


def rank_metrics() -> Metrics:
    """Return the metrics of a rank of a pair, with all series."""
    metrics = Metrics("benchmark", 0, 0, 0, 2, BAD_KINDS)
    metrics.set_restarts(0)
    metrics.restore(progress_images=0, step=0)
    observe(metrics, 1, TIMES)
    metrics.observe_log(1.0, 0.5, LEARNING_RATE)
    metrics.observe_evaluation(1.0, 0.5, 0.25)
    metrics.observe_checkpoint("save", 1.0)
    metrics.observe_disk(10**12, 10**9)
    return metrics


def observe(metrics: Metrics, step: int, times: Times) -> None:
    """Count a step."""
    metrics.observe_step(
        step=step, epoch=step / 100, images_share=64.0, times=times, link_bytes_sent=1e6, link_bytes_received=1e6,
        flops=1e9,
    )  # fmt: skip


def scraping(url: str, scrapes: int) -> subprocess.Popen[str]:
    """Start a client, and return it once it has read the page for the first time, which is not counted."""
    command = [sys.executable, "-c", CLIENT, url, str(scrapes), str(PAGE_S + 0.05)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    client.stdout.readline()
    return client


def read(client: subprocess.Popen[str]) -> list[float]:
    """Wait for the client's end and return the milliseconds of its scrapes."""
    return [float(line) for line in client.communicate()[0].splitlines()]


def longest_pause_s(client: subprocess.Popen[str] | None, limit_s: float) -> float:
    """Compute until the client has ended, or for so long; return the longest time between two looks at the clock."""
    longest_s, began_s, count = 0.0, time.perf_counter(), 0
    before_s = began_s
    while (count % LOOK or client is None or client.poll() is None) and before_s - began_s < limit_s:
        sum(range(WORK))
        now_s, count = time.perf_counter(), count + 1
        longest_s, before_s = max(longest_s, now_s - before_s), now_s
    return longest_s
