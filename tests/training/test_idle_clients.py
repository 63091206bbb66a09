"""A run that may open few files, while hundreds of clients keep connections to its metrics open."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from alexnet_dist.runs.directory import TARGETS
from support.agents import last_step, wait_for_step
from support.training import TRAIN, finished, settings

CLIENTS, DESCRIPTORS = 400, 256
LIMITED = f'ulimit -n {DESCRIPTORS} && exec "$@"'


def threads(process: int) -> int:
    (count,) = re.findall(r"^Threads:\s+(\d+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(count)


def test_idle_clients_do_not_end_a_run_with_few_descriptors(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = settings(shards, run, "run.steps=1000000", "run.save_every=1000000")
    process = subprocess.Popen(
        ["sh", "-c", LIMITED, "sh", sys.executable, str(TRAIN), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        hold_connections(run, process)
    finally:
        process.kill()
        process.wait()


def hold_connections(run: Path, process: subprocess.Popen[str]) -> None:
    """Connect many idle clients, and stop the run while they are there."""
    wait_for_step(run, 10)
    ((group,),) = (json.loads((run / TARGETS).read_text()),)
    host, _, port = group["targets"][0].rpartition(":")
    before = threads(process.pid)
    with ExitStack() as clients:
        for _ in range(CLIENTS):
            clients.enter_context(socket.create_connection((host, int(port)), timeout=20))
        wait_for_step(run, last_step(run) + 20)
        assert threads(process.pid) <= before
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < DESCRIPTORS / 2
        with build_opener(ProxyHandler({})).open(f"http://{host}:{port}/metrics", timeout=20) as response:
            assert b"alexnet_train_steps_total" in response.read()
        process.terminate()
        assert "asked to stop: saved" in finished(process)
