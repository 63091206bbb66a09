"""Two nodes under `--nnodes=1:2`: one is lost, the other goes on alone, and both go on when it comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import last_step, wait_for_step
from support.namespaces import Node
from support.training import TRAIN, evaluations, finished, losses, samples, settings, torchrun

STEPS, ALONE_S = 240, 30.0
PORT = 29500

Nodes = tuple[Node, Node]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def words(shards: Path, directory: Path) -> list[str]:
    return settings(
        shards, directory, f"run.steps={STEPS}", "run.save_every=5", "train.dtype=float64", "topology.timeout_s=8",
        "metrics.port=null",
    )  # fmt: skip


def start(node: Node, host: Node, arguments: list[str], *options: str) -> subprocess.Popen[str]:
    """Start torchrun's agent of a node; host: the node that serves the rendezvous."""
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint={host.address}:{PORT}", "--rdzv-id=elastic", *options]
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, "--nproc-per-node=2"]
    return node.start([*command, "--monitor-interval=0.1", str(TRAIN), *arguments], {"OMP_NUM_THREADS": "1"})


def ended(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Return the output of a process that ends by itself, with whatever code."""
    return process.communicate(timeout=timeout_s)[0]


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(torchrun(4, words(shards, directory)))
    return directory


@pytest.fixture(autouse=True)
def no_process_is_left(nodes: Nodes) -> Iterator[None]:
    """Kill what a failed test has left on the nodes."""
    yield
    for node in nodes:
        node.kill()
        node.connect()


@pytest.mark.parametrize("fault", ["killed", "cut off"])
@pytest.mark.parametrize("host_number", [0, 1], ids=["lower address serves", "higher address serves"])
def test_a_lost_node_comes_back(
    fault: str, host_number: int, nodes: Nodes, undisturbed: Path, shards: Path, tmp_path: Path
) -> None:
    """The run directory is on the node that serves the rendezvous only; the host names resolve to nothing."""
    host, other = nodes[host_number], nodes[1 - host_number]
    directory, nowhere = tmp_path / "run", Path("/proc/nowhere/run")
    elastic = ["--nnodes=1:2", "--max-restarts=5"]
    agent = start(host, host, words(shards, directory), *elastic)
    other_agent = start(other, host, words(shards, nowhere), *elastic)
    wait_for_step(directory, 12)
    if fault == "killed":
        other.kill()
    else:
        other.disconnect()
    time.sleep(0.5)
    alone_s = wait_for_step(directory, last_step(directory) + 5)
    print(f"{fault}: the other node trains again after {alone_s + 0.5:.1f} s")
    assert alone_s < ALONE_S
    if fault == "killed":
        other_agent.communicate()
        other_agent = start(other, host, words(shards, nowhere), *elastic)
    else:
        other.connect()
    outputs = [finished(process, timeout_s=300) for process in (agent, other_agent)]
    layouts = [line for line in outputs[0].splitlines() if line.startswith("training ")]
    assert ["2 replicas" in line for line in layouts] == [True, False, True], layouts
    expected = losses(undisturbed)
    assert losses(directory) == pytest.approx(expected, rel=1e-9)
    assert [{**line, "loss": 0} for line in evaluations(directory)] == [
        {**line, "loss": 0} for line in evaluations(undisturbed)
    ]
    assert samples(directory) == samples(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("host_stops", [True, False])
def test_a_signal_to_one_agent_ends_both(
    number: signal.Signals, host_stops: bool, nodes: Nodes, shards: Path, tmp_path: Path
) -> None:
    """The agent that was not signalled does not wait for the other at torchrun's exit barrier."""
    host, other = nodes
    directory = tmp_path / "run"
    agents = [start(node, host, words(shards, directory), "--nnodes=2", "--max-restarts=3") for node in (host, other)]
    wait_for_step(directory, 12)
    began_s = time.monotonic()
    agents[0 if host_stops else 1].send_signal(number)
    outputs = [ended(agent, 20) for agent in agents]
    took_s = time.monotonic() - began_s
    print(f"{number.name}, the host's agent {host_stops}: both agents ended after {took_s:.1f} s")
    assert took_s < 10
    assert (directory / "PREEMPTED").exists(), outputs
    step = int((directory / "PREEMPTED").read_text().split()[-1])
    assert last_step(directory) == step


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk that is too small for a checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_on_one_node_ends_the_job_on_both(nodes: Nodes, small_disk: Path, shards: Path) -> None:
    """Only the ranks of one node see the error; the other node's agent does not restart either."""
    host, other = nodes
    directory = small_disk / "run"
    agents = [start(node, host, words(shards, directory), "--nnodes=2", "--max-restarts=3") for node in (host, other)]
    outputs = [finished(agent, code=1) for agent in agents]
    assert "training " in outputs[0]
    assert "resuming" not in outputs[0]
    assert outputs[0].count("checkpoint of step 5 not written: ") >= 1
    for output in outputs:
        assert "not written: " in output[output.index("Root Cause") :], output
