"""Real runs that go wrong: a real Prometheus scrapes them, and its alerts reach a webhook through a real Alertmanager.

The rules are ours with seconds for minutes: their `for`, their windows, and their limits of seconds. The alerts about
speed are left out of what must be silent, as other processes on the machine may fire them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from alexnet_dist.monitoring.series import PREFIX
from alexnet_dist.runs.directory import TARGETS
from alexnet_dist.system.process import children
from support.agents import rank_process
from support.alert_rules import alerts, with_sooner_limits, write_faster_rules
from support.alertmanager import FIRING, RESOLVED, Webhook, alertmanager, webhook
from support.prometheus_server import PrometheusServer
from support.ranks import free_port
from support.training import TRAIN, settings

RANKS = 4
TIMEOUT_S = 90  # for a loaded machine; every wait ends as soon as its condition holds
SPEED = "DataStarvation|ThroughputDrop|Straggler"
BROKEN, FINISHED, LOOPING = "broken", "finished", "looping"
HUNG = {"RankMissing", "RankTargetDown", "TrainingStalled"}
FULL = {"CheckpointFailing", "DiskFilling"}
ROOMY = "remount,size=64m"


def test_limits_of_seconds_become_sooner_and_no_others() -> None:
    changed = {name: with_sooner_limits(rule["expr"]) for name, rule in alerts().items()}
    assert {name for name, rule in alerts().items() if changed[name] != rule["expr"]} == {
        "TrainingStalled", "CheckpointTooOld", "DiskFilling",
    }  # fmt: skip
    assert "_timestamp_seconds) > 15 and max by (run)" in changed["TrainingStalled"]
    assert "4 * 60)) < 0" in changed["DiskFilling"]


@dataclass(frozen=True)
class Run:
    """A run under torchrun; output: the file with what it prints."""

    directory: Path
    agent: subprocess.Popen[bytes]
    output: Path

    @property
    def name(self) -> str:
        """Return the label of its series."""
        return self.directory.name

    def assert_runs(self) -> None:
        """Fail if it has ended."""
        assert self.agent.poll() is None, self.output.read_text()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds; fail if the run ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            self.assert_runs()
            assert time.monotonic() < deadline, f"{what}: not within {TIMEOUT_S} s\n{self.output.read_text()}"
            time.sleep(0.02)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a rank."""
        os.kill(rank_process(self.agent.pid, rank), number)


@dataclass(frozen=True)
class Watch:
    """What watches all runs of this module, whose directories are in `home`, and what starts them."""

    home: Path
    shards: Path
    server: PrometheusServer
    webhook: Webhook

    @contextmanager
    def running(self, name: str, restarts: int, *words: str) -> Iterator[Run]:
        """Run 2 replicas x 2 towers, saved every 100 steps, until the end. Ports are fixed, as a user's are."""
        port = free_port() // 8 * 8  # and those after it: of one that is taken, the rank takes another
        arguments = settings(
            self.shards, self.home / name, "run.save_every=100", "run.evaluate_every=0", "run.record_samples=false",
            "optim.learning_rate=0.001", "data.workers=0", f"metrics.port={port}", *words,
        )  # fmt: skip
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--max-restarts={restarts}"]
        command += ["--monitor-interval=0.1", f"--nproc-per-node={RANKS}", str(TRAIN), *arguments]
        output = self.home / f"{name}.output"
        with output.open("wb") as file:
            agent = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)
        try:
            yield Run(self.home / name, agent, output)
        finally:
            ranks = [*children(agent.pid)] if agent.poll() is None else []
            for process in ranks:
                os.kill(process, signal.SIGCONT)
            agent.terminate()
            try:
                agent.wait(20)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with at most one series; None: it has none."""
        values = [sample.value for sample in self.server.query(expression)]
        assert len(values) <= 1
        return values[0] if values else None

    def fired(self, run: str) -> set[str]:
        """Return the alerts of a run that have ever fired, but those about speed."""
        selected = f'ALERTS{{run="{run}", alertstate="firing", alertname!~"{SPEED}"}}'
        return {sample.labels["alertname"] for sample in self.server.query(f"last_over_time({selected}[1h])")}


@pytest.fixture(scope="module")
def watch(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """Run Prometheus, Alertmanager and a webhook for all tests."""
    home = tmp_path_factory.mktemp("watched")
    rules = home / "alerts.yml"
    # Prometheus takes 5 s and more to read that a finished run has no targets; three restarts take more than 30 s.
    instead = {"RankTargetDown": {"for": "10s"}, "RestartLoop": alerts()["RestartLoop"]}
    write_faster_rules(rules, sooner_limits=True, instead=instead)
    files = [home / name / TARGETS for name in (BROKEN, FINISHED, LOOPING)]
    with ExitStack() as stack:
        hook = stack.enter_context(webhook())
        address = stack.enter_context(alertmanager(home / "alertmanager", hook.url))
        server = PrometheusServer(home / "prometheus", files, rules, alertmanager=address)
        yield Watch(home, shards, stack.enter_context(server), hook)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Make a folder on a disk that is too small for a checkpoint; yield whether this was allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def hang_on_a_full_disk(watch: Watch, run: Run, is_full: bool) -> None:
    """Stop a rank once a checkpoint could not be written, and compare what is said of that."""
    if is_full:
        run.until(lambda: "not written: No space left" in run.output.read_text(), "a checkpoint that fails")
    run.signal(2, signal.SIGSTOP)
    expected = HUNG | (FULL if is_full else set())
    with watch.running(FINISHED, 0, "run.steps=400") as finished:
        watch.webhook.wait_for(FIRING, run.name, expected, TIMEOUT_S, run.assert_runs)
        assert watch.fired(run.name) == expected
        up = {sample.labels["instance"]: sample.value for sample in watch.server.query(f'up{{run="{run.name}"}}')}
        down = watch.webhook.told(FIRING, run.name)["RankTargetDown"]
        assert [instance for instance, value in up.items() if value == 0] == [down.labels["instance"]]
        assert (len(up), sum(up.values())) == (RANKS, RANKS - 1)
        (targets,) = json.loads((run.directory / TARGETS).read_text())
        assert targets["targets"].index(down.labels["instance"]) == 2
        assert down.annotations["summary"].startswith(f"{run.name}: {down.labels['instance']} on ")
        assert finished.agent.wait(TIMEOUT_S) == 0, finished.output.read_text()


def go_on(watch: Watch, run: Run, is_full: bool) -> None:
    """Make room, let the rank go on, and wait until all is well."""
    step = watch.value(f'max(last_over_time({PREFIX}step{{run="{run.name}"}}[1h]))')
    if is_full:
        subprocess.run(["mount", "-o", ROOMY, str(run.directory)], check=True)
    run.signal(2, signal.SIGCONT)
    watch.webhook.wait_for(RESOLVED, run.name, HUNG | (FULL if is_full else set()), TIMEOUT_S, run.assert_runs)
    assert step is not None
    run.until(lambda: (watch.value(f'min({PREFIX}step{{run="{run.name}"}})') or 0) > step + 10, "ten more steps")
    run.until(lambda: [*run.directory.glob("checkpoints/step-*/manifest.json")], "a checkpoint")


@pytest.mark.timeout(600)
def test_what_goes_wrong_reaches_the_webhook_and_a_finished_run_is_silent(watch: Watch) -> None:
    # Else it would end, with its second save that fails, before Prometheus has read where the ranks are.
    slowly = "--unsafe-fault=rank=0,step=1,phase=forward,kind=sleep,seconds=0.15"
    with small_disk(watch.home / BROKEN) as is_full, watch.running(BROKEN, 0, "run.steps=1000000", slowly) as run:
        watch.server.wait_for(f'sum({PREFIX}running{{run="{BROKEN}"}})', RANKS, TIMEOUT_S)
        hang_on_a_full_disk(watch, run, is_full)
        go_on(watch, run, is_full)
        run.signal(0, signal.SIGKILL)  # rank 0 would remove the list of the addresses
        watch.webhook.wait_for(FIRING, BROKEN, ["AllRanksGone"], TIMEOUT_S)
        gone = watch.webhook.told(FIRING, BROKEN)["AllRanksGone"]
        assert gone.annotations["summary"].startswith(f"{BROKEN}: no rank responds")
        assert run.agent.wait(TIMEOUT_S) == 1
        watch.server.wait_for(f'sum(up{{run="{BROKEN}"}})', 0, TIMEOUT_S)
    # By now it has ended long ago: its last word was that it no longer trains.
    assert watch.fired(FINISHED) == set()
    assert watch.webhook.told(FIRING, FINISHED).keys() <= {*SPEED.split("|")}
    for function, value in (("last", 0), ("max", 1)):
        seen = watch.server.query(f'{function}_over_time({PREFIX}running{{run="{FINISHED}"}}[1h])')
        assert [sample.value for sample in seen] == [value] * RANKS
    (steps,) = {s.value for s in watch.server.query(f'last_over_time({PREFIX}step{{run="{FINISHED}"}}[1h])')}
    assert steps == 400


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_restart_resolves_what_it_has_fired_and_a_loop_of_them_is_told(watch: Watch) -> None:
    with watch.running(LOOPING, 3, "run.steps=1000000") as run:
        selected = f'{{run="{LOOPING}"}}'
        for restarts in range(4):
            watch.server.wait_for(f"sum({PREFIX}running{selected})", RANKS, TIMEOUT_S)
            watch.server.wait_for(f"max({PREFIX}restarts{selected})", restarts, TIMEOUT_S)
            step = watch.value(f"max(max_over_time({PREFIX}step{selected}[1h]))") or 0
            run.until(lambda: (watch.value(f"min({PREFIX}step{selected})") or 0) > step + 100, "more steps")  # noqa: B023
            if restarts == 1:
                watch.webhook.wait_for(RESOLVED, LOOPING, ["AllRanksGone"], TIMEOUT_S, run.assert_runs)
            if restarts < 3:
                assert "RestartLoop" not in watch.fired(LOOPING)
                run.signal(restarts, signal.SIGKILL)
        watch.webhook.wait_for(FIRING, LOOPING, ["RestartLoop"], TIMEOUT_S, run.assert_runs)
        resets = watch.server.query(f"resets({PREFIX}steps_total{selected}[1h])")
        assert [sample.value for sample in resets] == [3] * RANKS
