"""A real Slurm of two nodes on one machine: they and a controller are network namespaces with host names of their own.

Nothing of the machine's own Slurm or MUNGE is used or changed: configuration, key, sockets and logs are in one folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "nsenter", "ip")
CONTROLLER, NODES = "control", ("node-1", "node-2")
ADDRESSES = {CONTROLLER: "10.77.8.254", NODES[0]: "10.77.8.1", NODES[1]: "10.77.8.2"}
LOST_S = 10  # a node whose daemon is silent for so long is down (by default 300 s)
REQUEUE_S = 5  # the life of a credential; Slurm starts a requeued job no earlier (by default after 120 s)
CONFIGURATION = """
ClusterName=two
SlurmctldHost={controller}({controller_address})
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire={requeue_s}
CredType=cred/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,bf_interval=5
ReturnToService=1
SlurmdTimeout={lost_s}
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmdSpoolDir={home}/spool-%n
StateSaveLocation={home}/state
{nodes}
PartitionName=main Nodes=ALL Default=YES State=UP
"""
NODE = "NodeName={name} NodeAddr={address} CPUs=8 RealMemory=8000 Gres=gpu:2"
# Two files that no program opens as a device: requests for GPUs are granted, and nobody touches any.
DEVICES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
# `ip netns exec` would hide /sys/fs/cgroup, which slurmd reads.
ENTER = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


def wait_until(holds: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> float:
    """Poll until something holds and return the seconds that it took; what: describes what is there instead."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < timeout_s, what()
        time.sleep(0.1)
    return time.monotonic() - began_s


@dataclass(frozen=True)
class Slurm:
    """A cluster that is up; home: the folder with its configuration and logs; stack: what its end undoes."""

    home: Path
    namespaces: Mapping[str, str]
    stack: ExitStack

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        """Return the command line that runs `words` on a host of the cluster, in place, so that the pid stays."""
        enter = ["nsenter", f"--net=/var/run/netns/{self.namespaces[host]}", "unshare", "--uts", "--mount"]
        return [*enter, "bash", "-c", ENTER, str(self.home / "hosts"), host, *words]

    def run(self, *words: str, host: str = CONTROLLER) -> str:
        """Run a program on a host to its end and return what it printed."""
        environment = {**os.environ, "SLURM_CONF": str(self.home / "slurm.conf")}
        process = subprocess.run(
            self.command(host, words), env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout.strip()

    def submit(self, folder: Path, log: Path, script: Path, options: Sequence[str], arguments: Sequence[str]) -> str:
        """Submit a script that runs in a folder and return the job's number; log: gets the output of all its runs."""
        words = ["--parsable", f"--chdir={folder}", f"--output={log}", *options, str(script), *arguments]
        return self.run("sbatch", *words)

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of a job, such as JobState and Restarts."""
        return dict(
            word.split("=", 1) for word in self.run("scontrol", "-o", "show", "job", number).split() if "=" in word
        )

    def wait_for(self, number: str, states: str | Sequence[str], timeout_s: float, restarts: int = 0) -> dict[str, str]:
        """Wait until a job is in one of the states, in the run of that number, and return its fields."""
        wanted = [states] if isinstance(states, str) else states

        def arrived() -> bool:
            job = self.job(number)
            return job["JobState"] in wanted and int(job["Restarts"]) == restarts

        wait_until(arrived, timeout_s, lambda: f"the job is not {wanted}, restarts {restarts}: {self.job(number)}")
        return self.job(number)

    def set_node(self, name: str, *words: str) -> None:
        """Change a node's state, such as `state=down reason=test`."""
        self.run("scontrol", "update", f"nodename={name}", *words)

    def processes(self, host: str) -> list[int]:
        """Return the process ids of all that run on a host, its daemon included."""
        pids = subprocess.run(
            ["ip", "netns", "pids", self.namespaces[host]], check=True, capture_output=True, text=True
        ).stdout
        return [int(line) for line in pids.split()]

    def lose(self, name: str) -> None:
        """Kill all that runs on a node, its daemon included, as if it lost power."""
        for process in self.processes(name):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def start(self, name: str) -> None:
        """Start a node's daemon; the cluster's end ends it."""
        words = self.command(name, ["slurmd", "-D", "-N", name, "-f", f"{self.home}/slurm.conf"])
        self.stack.enter_context(_daemon(self.home, name, words))


def _connect(stack: ExitStack) -> dict[str, str]:
    """Create the hosts' namespaces around a bridge in the controller's, and return their names."""
    names = {host: f"slurm-{os.getpid()}-{host}" for host in ADDRESSES}
    for host, name in names.items():
        _ip("netns", "add", name)
        stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        _ip("-n", name, "link", "set", "lo", "up")
        if host == CONTROLLER:
            _ip("-n", name, "link", "add", "port", "type", "bridge")
        else:
            ends = ["link", "add", "port", "netns", name, "type", "veth", "peer", "name", host]
            _ip(*ends, "netns", names[CONTROLLER])
            _ip("-n", names[CONTROLLER], "link", "set", host, "master", "port", "up")
        _ip("-n", name, "address", "add", f"{ADDRESSES[host]}/24", "dev", "port")
        _ip("-n", name, "link", "set", "port", "up")
    return names


def _configure(home: Path) -> None:
    (home / "state").mkdir()
    (home / "munge.key").write_bytes(os.urandom(64))
    (home / "munge.key").chmod(0o600)
    (home / "gres.conf").write_text(DEVICES)
    (home / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{at} {host}\n" for host, at in ADDRESSES.items()))
    nodes = "\n".join(NODE.format(name=name, address=ADDRESSES[name]) for name in NODES)
    text = CONFIGURATION.format(
        home=home,
        controller=CONTROLLER,
        controller_address=ADDRESSES[CONTROLLER],
        nodes=nodes,
        requeue_s=REQUEUE_S,
        lost_s=LOST_S,
    )
    (home / "slurm.conf").write_text(text)


@contextmanager
def two_node_slurm(home: Path) -> Iterator[Slurm]:
    """Start a Slurm of two nodes in an empty folder, and stop it with everything that runs on its hosts at the end.

    Skips the test where it cannot be made. The folder's path must be short: it holds a socket.
    """
    if os.geteuid() != 0:
        pytest.skip("a Slurm in network namespaces needs root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge iproute2)")
    _configure(home)
    with ExitStack() as stack:
        try:
            slurm = Slurm(home, _connect(stack), stack)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        files = [f"--{key}-file={home}/munge.{key}" for key in ("key", "pid", "log", "seed")]
        munge = ["munged", "--foreground", "--force", *files, f"--socket={home}/munge.socket"]
        stack.enter_context(_daemon(home, "munged", munge))
        controller = slurm.command(CONTROLLER, ["slurmctld", "-D", "-f", f"{home}/slurm.conf"])
        stack.enter_context(_daemon(home, CONTROLLER, controller))
        for name in NODES:
            stack.callback(slurm.lose, name)
            slurm.start(name)
        # An srun would wait for ever for a node that is not known yet.
        wait_until(lambda: _states(slurm) == ["idle"] * len(NODES), 60, lambda: f"{_states(slurm)}, see {home}/*.log")
        yield slurm


def _states(slurm: Slurm) -> list[str]:
    try:
        return slurm.run("sinfo", "--noheader", "--Node", "--format=%t").split()
    except AssertionError:  # the controller does not answer yet
        return []


@contextmanager
def _daemon(home: Path, name: str, words: Sequence[str]) -> Iterator[None]:
    with (home / f"{name}.log").open("a") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
