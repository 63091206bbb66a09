"""The Slurm script with stand-ins for the cluster; test_slurm_cluster.py runs it on a real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SBATCH = Path(__file__).parents[2] / "launch" / "slurm" / "train.sbatch"

# Two nodes: srun runs its command once per node; torchrun records its arguments and exits as the test requires.
STAND_INS = {
    "scontrol": """#!/usr/bin/env bash
        if [ "$1" = show ]; then printf 'node-0\\nnode-1\\n'; else echo "$@" >> "$HOME/scontrol"; fi
        """,
    "srun": """#!/usr/bin/env bash
        while [ "${1#--}" != "$1" ]; do shift; done
        for node in 0 1; do SLURM_NODEID=$node "$@" || code=$?; done
        exit "${code:-0}"
        """,
    "torchrun": f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
home, node, outcome = (os.environ[name] for name in ("HOME", "SLURM_NODEID", "OUTCOME"))
call = json.dumps(dict(arguments=sys.argv[1:], environment=dict(os.environ)))
Path(home, f"torchrun-{{node}}.json").write_text(call)
if outcome == "preempted":
    Path(home, "my run", "PREEMPTED").write_text("stopped and saved at step 7")
sys.exit(outcome != "finished")
""",
}


def submit(home: Path, outcome: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Slurm script like slurmd on the first of two nodes; outcome: finished, failed or preempted."""
    (home / "my run").mkdir(exist_ok=True)
    (home / "bin").mkdir()
    for name, text in STAND_INS.items():
        command = home / "bin" / name
        command.write_text(text)
        command.chmod(0o755)
    environment = {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "OUTCOME": outcome,
        "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node-[0-1]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "32",
    }  # fmt: skip
    return subprocess.run(
        ["bash", str(SBATCH), *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
    )


def test_bash_can_read_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    lines = SBATCH.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH "))
    assert all(not line or line.startswith("#") for line in lines[:last])  # Slurm ignores options after a command
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SBATCH.read_text(), re.MULTILINE))
    assert options["signal"] == "TERM@120"
    assert "requeue" in options
    assert int(options["gpus-per-node"]) % 2 == 0
    assert options["ntasks-per-node"] == "1"


def test_slurm_starts_one_agent_a_node_with_the_arguments_given(tmp_path: Path) -> None:
    arguments = ["--config", "a b.yaml", "data.root=/shards", "run.directory=my run"]
    process = submit(tmp_path, "finished", *arguments)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    for node, is_host in ((0, "true"), (1, "false")):
        call = json.loads((tmp_path / f"torchrun-{node}.json").read_text())
        assert call["arguments"] == [
            "--nnodes=2", "--nproc-per-node=8", "--rdzv-backend=c10d", "--rdzv-id=123456",
            "--rdzv-endpoint=node-0:23456", f"--rdzv-conf=is_host={is_host}", "--max-restarts=3",
            "launch/train.py", *arguments,
        ]  # fmt: skip
        assert call["environment"]["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
        assert call["environment"]["NCCL_LAUNCH_ORDER_IMPLICIT"] == "1"
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize("was_preempted", [False, True])
@pytest.mark.parametrize(("outcome", "requeued"), [("preempted", "requeue 123456\n"), ("failed", None)])
def test_slurm_is_asked_again_only_for_a_run_that_saved(
    tmp_path: Path, outcome: str, requeued: str | None, was_preempted: bool
) -> None:
    """A mark that is there already is an earlier start's: a job that fails before it removes it would run for ever."""
    if was_preempted:
        (tmp_path / "my run").mkdir()
        (tmp_path / "my run" / "PREEMPTED").write_text("stopped and saved at step 5")
    process = submit(tmp_path, outcome, "run.directory=my run")
    assert process.returncode == 1
    calls = tmp_path / "scontrol"
    assert (calls.read_text() if calls.exists() else None) == requeued
    assert ("stopped and saved at step 7" in process.stdout) == bool(requeued)


def test_slurm_wants_to_know_the_run(tmp_path: Path) -> None:
    process = submit(tmp_path, "finished", "--config", "configs/paper.yaml")
    assert process.returncode == 2
    assert "run.directory=DIR is missing; add it" in process.stderr
    assert not list(tmp_path.glob("torchrun-*"))
