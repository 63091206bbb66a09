"""A run on two nodes whose host names resolve to nothing, with the run directory on the first node only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.namespaces import Node
from support.training import TRAIN, evaluations, finished, losses, samples, settings, torchrun, weights

HALF, STEPS = 15, 30
# Files that are /etc/hosts on the two nodes: the first resolves its own name as Debian does.
HOSTS = "127.0.0.1 localhost\n{address} node-a\n"
WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'

Nodes = tuple[Node, Node]


def words(shards: Path, directory: Path, steps: int, metrics: str = "metrics.port=null") -> list[str]:
    return settings(
        shards, directory, f"run.steps={steps}", f"run.save_every={HALF}", "train.deterministic=true",
        "topology.timeout_s=20", *metrics.split(),
    )  # fmt: skip


def start(node: Node, options: list[str], words: list[str], hosts: Path | None = None) -> subprocess.Popen[str]:
    """Start torchrun for two ranks on a node; hosts: what is its /etc/hosts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", *options]
    command += [str(TRAIN), *words]
    mounted = [] if hosts is None else ["unshare", "--mount", "sh", "-c", WITH_HOSTS, str(hosts)]
    return node.start([*mounted, *command], {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(torchrun(4, words(shards, directory, STEPS)))
    return directory


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_nodes_train_and_resume_as_one_node_does(
    nodes: Nodes, undisturbed: Path, shards: Path, tmp_path: Path
) -> None:
    """First where the rendezvous' host name is loopback on its own node, then under c10d."""
    first, second = nodes
    directory, nowhere = tmp_path / "run", Path("/proc/nowhere/run")
    agents = []
    for number, (node, address, home) in enumerate(((first, "127.0.1.1", directory), (second, first.address, nowhere))):
        hosts = tmp_path / f"hosts-{number}"
        hosts.write_text(HOSTS.format(address=address))
        options = [f"--node-rank={number}", "--master-addr=node-a", "--master-port=29500"]
        agents.append(start(node, options, words(shards, home, HALF), hosts))
    output, other_output = (finished(agent) for agent in agents)
    assert "node: node-a at 10.77.7.1 (ranks 0-1)\nnode: node-b at 10.77.7.2 (ranks 2-3)\n" in output
    assert "Unable to resolve hostname" not in output + other_output  # gloo's warning
    agents = []
    for number, (node, home) in enumerate(((first, directory), (second, nowhere))):
        # torchrun finds out by the host name, which resolves to nothing, whether it serves the rendezvous.
        c10d = ["--rdzv-backend=c10d", f"--rdzv-endpoint={first.address}:29501", f"--rdzv-conf=is_host={1 - number}"]
        agents.append(start(node, [*c10d, f"--local-addr={node.address}"], words(shards, home, STEPS)))
    outputs = [finished(agent) for agent in agents]
    assert sum(f"resuming from step {HALF}" in output for output in outputs) == 1
    assert losses(directory) == losses(undisturbed)
    assert evaluations(directory) == evaluations(undisturbed)
    assert samples(directory) == samples(undisturbed)
    assert weights(directory, STEPS) == weights(undisturbed, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_doctor_names_the_firewall(nodes: Nodes, shards: Path, tmp_path: Path) -> None:
    first, second = nodes
    first.ignore(second.address, except_port=29503)
    rendezvous = [f"--master-addr={first.address}", "--master-port=29503", "--nproc-per-node=2", "--nnodes=2"]
    agents = [
        node.start(
            [
                sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--node-rank={number}", "-m",
                "alexnet_dist.doctor", *words(shards, tmp_path / "run", HALF),
            ],
            {"OMP_NUM_THREADS": "1"},
        )
        for number, node in enumerate(nodes)
    ]  # fmt: skip
    outputs = [finished(agent, 1) for agent in agents]
    first.answer(second.address)
    for output in outputs:
        (line,) = [line for line in output.splitlines() if line.startswith("fail")]
        assert line.startswith(
            "fail  network       nodes reach the rendezvous, but not each other: node-a at 10.77.7.1"
        )


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_firewall_between_nodes_is_named_before_groups_are_built(nodes: Nodes, shards: Path, tmp_path: Path) -> None:
    """The first node answers the second one on the rendezvous' port only, as many firewalls do."""
    first, second = nodes
    first.ignore(second.address, except_port=29502)
    agents = [
        start(
            node,
            [f"--node-rank={number}", f"--master-addr={first.address}", "--master-port=29502"],
            words(shards, tmp_path / "run", HALF),
        )
        for number, node in enumerate(nodes)
    ]
    outputs = [finished(agent, 1) for agent in agents]
    first.answer(second.address)
    for output in outputs:
        assert "error: nodes reach the rendezvous, but not each other: node-a at 10.77.7.1 (ranks 0-1) and" in output
        assert "and node-b at 10.77.7.2 (ranks 2-3) cannot connect to each other (" in output
        assert "in the other direction: no answer within 3 s)" in output


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("address", "listed"), [("127.0.0.1", (2, 0)), ("0.0.0.0", (2, 2))])
def test_metrics_of_another_node_are_listed_by_an_address_that_reaches_it(
    address: str, listed: tuple[int, int], nodes: Nodes, shards: Path, tmp_path: Path
) -> None:
    first, second = nodes
    options = [f"--master-addr={first.address}", f"--master-port={29504 + listed[1]}"]
    serving = words(shards, tmp_path / "run", 2, f"metrics.port=0 metrics.address={address}")
    agents = [start(node, [f"--node-rank={number}", *options], serving) for number, node in enumerate(nodes)]
    output, _ = (finished(agent) for agent in agents)
    (line,) = [line for line in output.splitlines() if line.startswith("metrics: ")]
    own = first.address if address == "0.0.0.0" else address
    assert (line.count(f"http://{own}:"), line.count(f"http://{second.address}:")) == listed
    assert line.count("http://") == sum(listed)
    warning = "warning: the metrics of 2 of 4 ranks (on node-b) are served on a loopback address"
    assert (warning in output) == (address == "127.0.0.1")
