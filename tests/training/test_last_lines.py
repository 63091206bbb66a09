"""What a user sees last when a run under torchrun ends early: our sentence, and no traceback near it.

A misspelt key and a killed rank: test_refusals.py and test_restarts.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.agents import wait_for_step
from support.namespaces import Node
from support.training import TRAIN, finished, last_line, losses, settings, torchrun

LIMITED = 'ulimit -f 32 && exec "$@"'  # 16 KB, as the towers' files have


def test_ctrl_c_ends_in_where_the_run_resumes(shards: Path, tmp_path: Path) -> None:
    """A terminal sends it to every process; torchrun sends it to its ranks once more."""
    directory = tmp_path / "run"
    agent = torchrun(2, settings(shards, directory, "run.steps=100000", "metrics.port=null"))
    wait_for_step(directory, 3)
    os.killpg(agent.pid, signal.SIGINT)
    output = finished(agent, 1)  # torchrun's own exit code after a signal
    assert last_line(output) == "torchrun: ended by SIGINT (Ctrl-C)"
    saved = f"asked to stop: saved at step {len(losses(directory))}; the same command resumes from there"
    assert output.splitlines()[-2] == saved
    assert "error:" not in output
    assert "Exception" not in output


def test_a_full_disk_ends_in_what_was_not_written(shards: Path, tmp_path: Path) -> None:
    """Only rank 0 writes its manifest, and says so."""
    words = settings(shards, tmp_path / "run", "run.save_every=1", "run.evaluate_every=0", "metrics.port=null")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        ["sh", "-c", LIMITED, "sh", *launcher, str(TRAIN), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    checkpoints = tmp_path / "run" / "checkpoints"
    assert last_line(finished(process, 1)) == f"error: {checkpoints}: checkpoint of step 2 not written: File too large"


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.slow)], ids=["other", "host"])
def test_a_lost_node_ends_in_its_ranks(lost: int, nodes: tuple[Node, Node], shards: Path, tmp_path: Path) -> None:
    """The host serves the rendezvous' store and the ranks'; without it, a rank may know of its own partner alone."""
    directory, port = tmp_path / "run", 29510 + lost
    agents = []
    for number, node in enumerate(nodes):
        options = ["--nnodes=2", "--nproc-per-node=2", f"--node-rank={number}"]
        options += [f"--master-addr={nodes[0].address}", f"--master-port={port}", str(TRAIN)]
        words = settings(shards, directory, "run.steps=100000", "topology.timeout_s=20", "metrics.port=null")
        command = [sys.executable, "-m", "torch.distributed.run", *options, *words]
        agents.append(node.start(command, {"OMP_NUM_THREADS": "1"}))
    wait_for_step(directory, 3)
    nodes[lost].kill()
    agents[lost].communicate()
    said = last_line(finished(agents[1 - lost], 1))
    assert said.startswith("error: rank "), said
    named = r" lost (?:ranks 0, 1|rank [01] .*) at: " if lost == 0 else r" lost ranks 2, 3 at: "
    assert re.search(named, said), said
    assert re.search(rf"; rank [{2 * lost}{2 * lost + 1}] does not answer, and nothing is known of its process", said)
    assert said.endswith("; the same command resumes from the last checkpoint")
