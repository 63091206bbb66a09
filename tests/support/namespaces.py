"""Two nodes on one machine: network namespaces connected by a veth pair, with host names that resolve to nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

DEVICE = "veth0"  # in each namespace; loopback is the only other device


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30).stdout


def _enter(namespace: int) -> None:
    """Move this thread into a network namespace, an open file of /proc or /run/netns; Python 3.12 has os.setns."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True)
class Node:
    """One network namespace: its name, and the host name and the IPv4 address of processes that run in it."""

    namespace: str
    host: str
    address: str

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command line that runs `words` on this node; the words are executed in place, so the pid stays."""
        script = 'hostname "$0" && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", script, self.host, *words]

    def start(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a process on this node, in a session of its own, with its output in a pipe.

        environment: variables besides those of this process.
        """
        return subprocess.Popen(
            self.command(words), env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    @contextmanager
    def network(self) -> Iterator[None]:
        """Let what this thread connects meanwhile begin on this node."""
        here, there = (
            os.open(path, os.O_RDONLY) for path in ("/proc/thread-self/ns/net", f"/run/netns/{self.namespace}")
        )
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)

    def processes(self) -> list[int]:
        """Return the process ids of all that run on this node."""
        return [int(line) for line in _ip("netns", "pids", self.namespace).split()]

    def kill(self) -> None:
        """Kill all that run on this node with SIGKILL, as if it lost power."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def connect(self) -> None:
        """Take this node's end of the cable up."""
        _ip("-n", self.namespace, "link", "set", DEVICE, "up")

    def disconnect(self) -> None:
        """Take this node's end of the cable down: both ends lose their route, and open connections wait."""
        _ip("-n", self.namespace, "link", "set", DEVICE, "down")

    def ignore(self, address: str, except_port: int = 0) -> None:
        """Answer nothing that comes from an address, as behind a firewall: its connections time out.

        except_port: a port of this node that stays open.
        """
        if except_port:
            self._rule(
                "add", "pref", "10", "to", address, "ipproto", "tcp", "sport", str(except_port), "lookup", "main"
            )
        self._rule("add", "pref", "20", "to", address, "blackhole")

    def answer(self, address: str) -> None:
        """End `ignore`."""
        for preference in ("10", "20"):
            with suppress(subprocess.CalledProcessError):  # no port was excepted
                self._rule("del", "pref", preference, "to", address)

    def _rule(self, *words: str) -> None:
        _ip("-n", self.namespace, "rule", *words)


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Create two nodes whose cable is connected, and remove them with their processes at the end.

    Skips the test where namespaces cannot be made.
    """
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    number = os.getpid()
    nodes = [Node(f"alexnet-{number}-{name}", f"node-{name}", f"10.77.7.{end}") for name, end in (("a", 1), ("b", 2))]
    try:
        try:
            for node in nodes:
                _ip("netns", "add", node.namespace)
            ends = [["netns", node.namespace, "type", "veth"] for node in nodes]
            _ip("link", "add", DEVICE, *ends[0], "peer", "name", DEVICE, *ends[1][:2])
            for node in nodes:
                _ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", DEVICE)
                _ip("-n", node.namespace, "link", "set", "lo", "up")
                node.connect()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            pytest.skip(f"network namespaces cannot be made here: {reason}")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            with suppress(OSError, subprocess.CalledProcessError):  # it was not made
                node.kill()
                _ip("netns", "delete", node.namespace)


@pytest.fixture(name="nodes", scope="module")
def nodes_fixture() -> Iterator[tuple[Node, Node]]:
    """Return two connected nodes, the same for all tests of a module."""
    with two_nodes() as nodes:
        yield nodes
