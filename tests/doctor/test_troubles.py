"""The doctor under torchrun: on healthy ranks, and on two agents of which the second one's machine is in trouble."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.ranks import free_port
from support.training import settings

# The command with short measurements, and with the troubles of a test on the first and the second node's ranks.
SCRIPT = """
import os, shutil, sys, time
from pathlib import Path
from alexnet_dist.doctor import speed
from alexnet_dist.doctor.__main__ import main_once
from alexnet_dist.errors import run_command
speed.LOADING_S, speed.TRAINING_S = 0.5, 1.0
if os.environ.get("GROUP_RANK") == "1":
    {trouble}
else:
    {first}
sys.exit(run_command(main_once))
"""
SLOW_LOADER = """from alexnet_dist.data.decoder import Decoder
    decode = Decoder.__getitem__
    Decoder.__getitem__ = lambda self, request: (time.sleep(0.1), decode(self, request))[1]"""
CLOCK = """now = time.time
    time.time = lambda: now() + 10"""
NO_DISK = """usage = shutil.disk_usage
    shutil.disk_usage = lambda path: usage(path)._replace(free=4096) if "run-of" in str(path) else usage(path)"""
VERSION = """import torch
    torch.__version__ = "1.0.0" """
NO_WAY = """from alexnet_dist.distributed import network
    network.probe = lambda *_: "no answer within 3 s" """


def examined(
    tmp_path: Path,
    words: list[str],
    ranks: int,
    trouble: str = "pass",
    first: str = "pass",
    nodes: int = 1,
    limit: int = 1024,
) -> tuple[int, dict[str, Any], str]:
    """Return the doctor's exit code on the first node, its report, and all that the agents have printed.

    limit: of open files on the last node. The run directory of node n is in run-of-n.
    """
    script = tmp_path / "doctor.py"
    script.write_text(SCRIPT.format(trouble=trouble, first=first))
    port, agents = free_port(), []
    for node in range(nodes):
        home = tmp_path / f"run-of-{node}"
        home.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        command += ["--standalone"] if nodes == 1 else [
            f"--nnodes={nodes}", f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"
        ]  # fmt: skip
        command += [str(script), "--json", *words, f"run.directory={home / 'run'}"]
        if node == nodes - 1:
            command = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command]
        agents.append(
            subprocess.Popen(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )
        )  # fmt: skip
    said = [agent.communicate(timeout=150)[0] for agent in agents]
    reports = [line for text in said for line in text.splitlines() if line.startswith('{"failed"')]
    assert reports, said
    return agents[0].returncode, json.loads(reports[0]), "".join(said)


def levels(report: dict[str, Any]) -> dict[str, str]:
    """Return the worst level of each check."""
    order = ("ok", "warn", "fail")
    found: dict[str, str] = {}
    for finding in report["findings"]:
        found[finding["check"]] = max(found.get(finding["check"], "ok"), finding["level"], key=order.index)
    return found


def about(report: dict[str, Any], check: str, level: str) -> dict[str, Any]:
    (finding, *_) = [each for each in report["findings"] if (each["check"], each["level"]) == (check, level)]
    return dict(finding)


def test_healthy_ranks_pass(shards: Path, tmp_path: Path) -> None:
    code, report, said = examined(tmp_path, settings(shards, tmp_path / "unused", "metrics.port=0"), ranks=4)
    assert code == 0, said
    assert report["failed"] == 0
    found = levels(report)
    assert {check for check, level in found.items() if level == "ok"} >= {
        "software", "device", "metrics", "open files", "memory", "/dev/shm", "disk", "restarts", "shards", "ranks",
        "link", "all-reduce",
    }  # fmt: skip
    assert "images/s" in about(report, "speed", found["speed"])["found"]
    assert list((tmp_path / "run-of-0").iterdir()) == []  # nothing is written


def test_troubles_of_the_second_node_are_named(shards: Path, tmp_path: Path) -> None:
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    damaged = min(own.glob("train-*.tar"))
    content = bytearray(damaged.read_bytes())
    content[600] ^= 1
    damaged.write_bytes(content)
    trouble = f"{SLOW_LOADER}\n    {CLOCK}"
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        words = settings(own, tmp_path / "unused", f"metrics.port={port}")
        code, report, said = examined(tmp_path, words, 2, trouble, NO_DISK, nodes=2, limit=100)
    assert code == 1, said
    assert report["failed"] == 4, report
    assert f"{damaged}: sha256" in about(report, "shards", "fail")["found"]
    open_files = about(report, "open files", "fail")
    assert open_files["found"].startswith("at most 100 in a process")
    assert open_files["where"].endswith("rank 2")
    assert "ulimit -n 4096" in open_files["advice"]
    assert "that of rank 2 is 10.0 s ahead" in about(report, "clocks", "fail")["found"]
    assert about(report, "disk", "fail")["found"].startswith("0.0 MB free")
    assert about(report, "disk", "fail")["where"].endswith("rank 0")
    assert f"port {port} of 127.0.0.1" in about(report, "metrics", "warn")["found"]
    speed = about(report, "speed", "warn")
    assert "wait for the loader" in speed["found"]
    assert "data.workers" in speed["advice"]
    assert "4 failed checks; see" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "check", "expected"),
    [
        (VERSION, "ranks", "the ranks differ in torch: "),
        (NO_WAY, "network", "cannot connect to"),
    ],
)
def test_ranks_that_cannot_work_together_are_named(
    trouble: str, check: str, expected: str, shards: Path, tmp_path: Path
) -> None:
    code, report, said = examined(tmp_path, settings(shards, tmp_path / "unused"), ranks=2, trouble=trouble, nodes=2)
    assert code == 1, said
    assert expected in about(report, check, "fail")["found"]
    assert about(report, "speed", "warn")["found"] == "not measured: something else has failed"


@pytest.mark.slow
def test_an_odd_number_of_ranks_is_named(shards: Path, tmp_path: Path) -> None:
    code, report, said = examined(tmp_path, settings(shards, tmp_path / "unused"), ranks=3)
    assert code == 1, said
    assert report["findings"] == [
        {
            "check": "run",
            "level": "fail",
            "found": "world size 3 is odd: a replica is a pair of ranks (two towers)",
            "advice": "start an even number with torchrun --nproc-per-node=2, or use topology.layout=fused",
            "where": "",
        }
    ]


def test_a_full_shared_memory_is_named(shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "doctor.py"
    script.write_text(SCRIPT.format(trouble="pass", first="pass"))
    fill = "mount -t tmpfs -o size=16k tmpfs /dev/shm && (cat /dev/zero > /dev/shm/full || true) 2>/dev/null"
    words = settings(shards, tmp_path / "run", "data.workers=2")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{fill}; exec "$@"', "sh", sys.executable, str(script), "--json", *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting needs root")
    report = json.loads(done.stdout)
    assert (done.returncode, report["failed"]) == (1, 2)
    shared = about(report, "/dev/shm", "fail")
    assert "has no room for 32 locks" in shared["found"]
    assert "--shm-size" in shared["advice"]
    assert "no room" in about(report, "loader", "fail")["found"]
