"""The two nodes of the tests: connected until they are disconnected, under names that resolve to nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.namespaces import Node, two_nodes

# Prints the outcome of connecting to an address within a second: nothing listens there, so a reachable one refuses.
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 1.0)
except OSError as error:
    print(type(error).__name__)
"""
RESOLVE = "import socket\ntry: socket.getaddrinfo(socket.gethostname(), 9)\nexcept OSError: print('nowhere')"


def printed(node: Node, script: str, *words: str) -> str:
    process = node.start([sys.executable, "-c", script, *words])
    output, _ = process.communicate(timeout=30)
    return output.strip()


def test_nodes_are_connected_and_disconnected_and_leave_nothing() -> None:
    here = Path("/proc/thread-self/ns/net").readlink()
    with two_nodes() as (first, second):
        assert printed(first, "import socket; print(socket.gethostname())") == "node-a"
        assert printed(second, RESOLVE) == "nowhere"
        assert printed(first, CONNECT, second.address) == "ConnectionRefusedError"
        with first.network(), socket.create_server((first.address, 0)) as server:
            with second.network():
                socket.create_connection(server.getsockname()[:2], 1.0).close()
            server.accept()[0].close()
        assert Path("/proc/thread-self/ns/net").readlink() == here
        first.disconnect()
        assert printed(first, CONNECT, second.address) == "OSError"
        first.connect()
        assert printed(first, CONNECT, second.address) == "ConnectionRefusedError"
        second.ignore(first.address)
        assert printed(first, CONNECT, second.address) == "TimeoutError"
        second.answer(first.address)
        assert printed(first, CONNECT, second.address) == "ConnectionRefusedError"
        with first.start(["sleep", "60"]) as killed, second.start(["sleep", "60"]) as spared:
            while killed.pid not in first.processes() or spared.pid not in second.processes():
                pass
            first.kill()
            assert killed.wait(10) == -9
            assert spared.poll() is None
            second.kill()
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert first.namespace not in left
    assert second.namespace not in left


def test_nodes_are_removed_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), two_nodes() as (first, _):
        1 / 0  # noqa: B018
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert first.namespace not in left
