"""launch/slurm/train.sbatch, unchanged, on a real Slurm of two nodes: trained, disturbed in five ways, cancelled."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.agents import last_step, wait_for_step
from support.slurm import CONTROLLER, NODES, REQUEUE_S, Slurm, two_node_slurm, wait_until
from support.training import REPOSITORY, assert_same_run, finished, settings, torchrun

SBATCH = REPOSITORY / "launch" / "slurm" / "train.sbatch"
STEPS, DISTURBED = 200, 70
# Runs on a host that is not part of the job, as a Prometheus would: prints what each address given answers.
SCRAPE = (
    "import json, sys; from urllib.request import urlopen;"
    " print(json.dumps([urlopen(f'http://{at}/metrics', timeout=20).read().decode() for at in sys.argv[1:]]))"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Job:
    """A submitted run: its number, its run directory and its log."""

    number: str
    directory: Path
    log: Path

    @property
    def is_saved(self) -> bool:
        """Return whether the run has stopped and saved."""
        return (self.directory / "PREEMPTED").exists()

    def wait_until_saved(self) -> float:
        """Wait until the run has stopped and saved, and return for how long."""
        return wait_until(lambda: self.is_saved, 30, self.log.read_text)

    def wait_until_back(self, step: int) -> float:
        """Wait until a step after a given one is logged, and return for how long."""
        return wait_until(lambda: last_step(self.directory) > step, 180, self.log.read_text)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    # A socket's path is short, and those of pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="slurm-") as home, two_node_slurm(Path(home)) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.run("scancel", "--user=root")
    for name in NODES:
        with suppress(AssertionError):  # it is not down
            slurm.set_node(name, "state=resume")
    wait_until(lambda: not slurm.run("squeue", "--noheader"), 60, lambda: slurm.run("squeue"))


def words(shards: Path, directory: Path, steps: int = STEPS) -> list[str]:
    return settings(
        shards, directory, f"run.steps={steps}", "run.save_every=20", "train.deterministic=true", "train.device=cpu",
        "topology.timeout_s=20", "metrics.address=0.0.0.0",
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(torchrun(4, words(shards, directory)), timeout_s=300)
    return directory


def submit(slurm: Slurm, shards: Path, home: Path, steps: int = STEPS) -> Job:
    """Submit a run of two nodes with two ranks each and wait for its first step."""
    directory, log = home / "run", home / "job.log"
    options = ["--gpus-per-node=2", "--cpus-per-task=4"]
    number = slurm.submit(REPOSITORY, log, SBATCH, options, words(shards, directory, steps))
    slurm.wait_for(number, "RUNNING", 30)
    print(f"first step {wait_for_step(directory, 1, 180):.1f} s after the job's start")
    return Job(number, directory, log)


def disturb(job: Job) -> float:
    """Wait until it is time to disturb a run, and return the time."""
    wait_for_step(job.directory, DISTURBED)
    return time.monotonic()


def assert_completed(slurm: Slurm, job: Job, undisturbed: Path, restarts: int) -> None:
    """Assert that a job ends well in the given run, and that its steps are those of an undisturbed run."""
    slurm.wait_for(job.number, "COMPLETED", 180, restarts)
    assert_same_run(job.directory, undisturbed, STEPS)


def test_four_ranks_are_scraped_and_a_killed_one_comes_back(
    slurm: Slurm, shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    job = submit(slurm, shards, tmp_path)
    groups = json.loads((job.directory / "targets.json").read_text())
    assert [group["labels"]["node"] for group in groups] == list(NODES)
    addresses = [address for group in groups for address in group["targets"]]
    answers = json.loads(slurm.run(sys.executable, "-c", SCRAPE, *addresses, host=CONTROLLER))
    assert [set(re.findall(r'\brank="(\d)"', answer)) for answer in answers] == [{"0"}, {"1"}, {"2"}, {"3"}]
    disturbed_s = disturb(job)
    # The rank's own loader process has its environment, too, and a higher number.
    os.kill(min(pid for pid in slurm.processes(NODES[1]) if has_rank(pid, 3)), signal.SIGKILL)
    wait_until(lambda: "resuming from step " in job.log.read_text(), 60, job.log.read_text)
    job.wait_until_back(last_step(job.directory))
    print(f"back {time.monotonic() - disturbed_s:.1f} s after a rank was killed")
    assert_completed(slurm, job, undisturbed, restarts=0)


def has_rank(process: int, rank: int) -> bool:
    """Return whether a process has the environment of a rank."""
    with suppress(OSError):
        return f"RANK={rank}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return False


def test_a_preempted_run_saves_and_is_requeued(slurm: Slurm, shards: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = submit(slurm, shards, tmp_path)
    disturbed_s = disturb(job)
    slurm.run("scancel", "--signal=TERM", job.number)
    saved_s = job.wait_until_saved()
    said = (job.directory / "PREEMPTED").read_text()
    step = last_step(job.directory)
    assert said == f"stopped and saved at step {step}\n"
    slurm.wait_for(job.number, "RUNNING", 60, restarts=1)
    start_s = time.monotonic()
    job.wait_until_back(step)
    print(
        f"saved {saved_s:.1f} s after the signal; back after {time.monotonic() - disturbed_s:.1f} s, {REQUEUE_S} s of"
        f" which Slurm waits; first step {time.monotonic() - start_s:.1f} s after the second start"
    )
    assert f"train.sbatch: stopped and saved at step {step}; requeueing the job\n" in job.log.read_text()
    assert_completed(slurm, job, undisturbed, restarts=1)


def test_the_time_limit_makes_a_run_save_and_requeue(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    job = submit(slurm, shards, tmp_path, steps=10_000)
    # --signal=TERM@120: with two minutes in all, Slurm sends the signal when it next looks.
    slurm.run("scontrol", "update", f"jobid={job.number}", "timelimit=2")
    wait_until(lambda: job.is_saved, 90, job.log.read_text)
    slurm.wait_for(job.number, ["PENDING", "RUNNING"], 30, restarts=1)


def test_a_run_waits_for_a_node_that_is_set_down(slurm: Slurm, shards: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = submit(slurm, shards, tmp_path)
    disturb(job)
    slurm.set_node(NODES[1], "state=down", "reason=test")
    print(f"saved {job.wait_until_saved():.1f} s after the node was set down")
    assert "asked to stop: saved at step " in job.log.read_text()
    step = last_step(job.directory)
    wait_until(lambda: "are_DOWN" in slurm.job(job.number)["Reason"], 60, lambda: str(slurm.job(job.number)))
    slurm.set_node(NODES[1], "state=resume")
    print(f"back {job.wait_until_back(step):.1f} s after the node's return")
    assert_completed(slurm, job, undisturbed, restarts=1)


def test_a_run_survives_the_loss_of_its_first_node(
    slurm: Slurm, shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The node that serves the rendezvous loses power, and nothing on it can save."""
    job = submit(slurm, shards, tmp_path)
    disturb(job)
    slurm.lose(NODES[0])
    slurm.wait_for(job.number, "PENDING", 90, restarts=1)
    assert not job.is_saved
    step = last_step(job.directory)
    slurm.start(NODES[0])
    print(f"back {job.wait_until_back(step):.1f} s after the node's return")
    assert "resuming from step " in job.log.read_text()
    assert_completed(slurm, job, undisturbed, restarts=1)


def test_a_cancelled_run_saves_and_is_not_requeued(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    job = submit(slurm, shards, tmp_path)
    disturb(job)
    slurm.run("scancel", job.number)
    print(f"saved {job.wait_until_saved():.1f} s after scancel")
    slurm.wait_for(job.number, "CANCELLED", 60)
    assert f"asked to stop: saved at step {last_step(job.directory)};" in job.log.read_text()
    assert "requeueing" not in job.log.read_text()
    wait_until(lambda: not [pid for name in NODES for pid in slurm.processes(name) if has_rank(pid, 0)], 30, str)
