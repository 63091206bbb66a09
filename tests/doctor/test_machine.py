"""The judgements about one machine: what is enough, what is close, what is too little."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alexnet_dist.distributed.topology import Topology
from alexnet_dist.doctor import devices, machine
from alexnet_dist.doctor.peers import clock_finding
from alexnet_dist.doctor.speed import LINK_BYTES, Speed, exchange_findings, speed_finding
from alexnet_dist.system.environment import LaunchInfo
from support.runs import context, settings

# As nvidia-smi topo -m prints it, in part.
SMI = (
    "\tGPU0\tGPU1\tGPU2\tCPU Affinity\nGPU0\t X \tNV12\tSYS\t0-31\nGPU1\tNV12\t X \tPHB\t0-31\nGPU2\tSYS\tPHB\t X \t\n"
)
QUIET = {"data_wait": 0.0, "link_wait": 0.05, "allreduce_wait": 0.0}


@pytest.mark.parametrize(("limit", "level"), [(127, "fail"), (128, "warn"), (255, "warn"), (256, "ok")])
def test_open_files(limit: int, level: str) -> None:
    assert machine.open_files(limit, world_size=2, workers=4).level == level


def test_cores() -> None:
    assert machine.cores(4, 4, 1, "cpu").level == "ok"
    assert machine.cores(3, 4, 1, "cpu").level == "warn"
    assert machine.cores(8, 8, 1, "cuda").level == "ok"
    assert "data.workers to about 1" in machine.cores(8, 8, 3, "cuda").advice


def test_memory() -> None:
    assert machine.memory(2_000_000_000, 1_000_000_000).level == "ok"
    assert machine.memory(900_000_000, 1_000_000_000).level == "fail"
    assert machine.memory(None, 1).level == "warn"
    small, large = (machine.needed_memory_bytes(context(settings(f"data.global_batch={size}"))) for size in (8, 16))
    assert small > 0
    assert small <= large


@pytest.mark.parametrize(("free", "level"), [(199, "fail"), (200, "warn"), (399, "warn"), (400, "ok")])
def test_disk(free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert machine.disk(tmp_path / "not" / "yet", 100, 3).level == level
    assert asked == [tmp_path]


def test_port() -> None:
    assert machine.port("127.0.0.1", None, 0).found == "not served: metrics.port is null"
    assert machine.port("127.0.0.1", 0, 3).level == "ok"
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert machine.port("127.0.0.1", port - 1, 1).level == "warn"
    assert machine.port("127.0.0.1", 65535, 4).level == "warn"
    assert machine.port("192.0.2.1", 40_000, 0).level == "warn"


def test_restarts() -> None:
    launched = LaunchInfo(0, 2, 0, 2, under_torchrun=True)
    assert "same command resumes" in machine.restarts(LaunchInfo(0, 1, 0, 1, under_torchrun=False), None, False).found
    assert machine.restarts(launched, 3, False).level == "warn"
    assert machine.restarts(launched, 3, True).found == "up to 3, by torchrun"
    assert machine.restarts(launched, 0, True).found.startswith("none")


def test_a_path_between_devices_is_read_from_its_table() -> None:
    assert devices.path_between(SMI, 0, 1) == "NVLink (NV12)"
    assert devices.path_between(SMI, 2, 1) == "the PCIe host bridge of one CPU (PHB)"
    assert devices.path_between(SMI, 0, 2) == "PCIe and the link between CPUs (SYS)"
    for unknown in (devices.path_between(SMI, 0, 7), devices.path_between("", 0, 1)):
        assert unknown.startswith("path unknown")


def test_a_cpu_has_no_pairs() -> None:
    topology = Topology(0, 2, 0, "paired", torch.device("cpu"), "gloo")
    assert devices.devices(topology, 2).found.endswith("one tower a rank over gloo")


def test_clocks() -> None:
    assert clock_finding({2: 0.4, 4: -0.9}).found == "at most 0.90 s apart"
    assert clock_finding({2: 1.5}).level == "warn"
    behind = clock_finding({2: 0.0, 4: -10.0})
    assert (behind.level, behind.found) == ("fail", "compared with rank 0's, that of rank 4 is 10.0 s behind")


def test_the_part_that_is_waited_for_is_named() -> None:
    fast = Speed(1000, 0.1, QUIET, {})
    assert speed_finding([fast, fast], 32).found.endswith("computing is the bottleneck")
    loader = speed_finding([fast, Speed(200, 0.1, QUIET, {})], 32)
    assert (loader.level, "200 (rank 1); ranks wait for the loader" in loader.found) == ("warn", True)
    waits = Speed(1000, 0.1, {**QUIET, "data_wait": 0.3, "link_wait": 0.5}, {})
    assert "the loader in up to 30%" in speed_finding([fast, waits], 32).found
    network = Speed(1000, 0.1, {**QUIET, "allreduce_wait": 0.4}, {})
    assert "the all-reduce between replicas in up to 40%" in speed_finding([network, fast], 32).found


def test_the_slowest_exchanges_are_reported() -> None:
    speeds = [Speed(1, 1, QUIET, {"4": 1e-5, str(LINK_BYTES): seconds}, 0.016) for seconds in (0.001, 0.002)]
    link, reduce = exchange_findings(speeds, replicas=2)
    assert link.found.endswith("10 us for 4 bytes, 0.52 GB/s a direction (rank 1, the slowest)")
    assert reduce.found == "over 2 replicas: 16.0 ms for 16 MB, 1.05 GB/s (rank 0, the slowest)"
    assert exchange_findings([Speed(1, 1, QUIET, {})], replicas=1) == []
