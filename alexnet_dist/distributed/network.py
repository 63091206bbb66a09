"""The network between nodes: every rank uses the right interface, and nodes that do not reach each other are named.

Without the check, groups of ranks on such nodes end in a timeout that names none of them. One rank a node listens, and
connects to all other nodes, within seconds, before groups are built. What crosses the store grows with the number of
ranks, except for 30 bytes for each pair of nodes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from alexnet_dist.distributed.address import FIX, Interface, is_loopback, own_interface, reach_node
from alexnet_dist.distributed.room import VERDICT_WAIT_S, Verdict
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.environment import LaunchInfo, chosen_interface, rendezvous_address, use_interface

PROBE_S = 3.0  # a lost packet is sent again after 1 s
MOST_THREADS, MOST_NAMED = 128, 6


@dataclass(frozen=True)
class Node:
    """One node: its first rank, how many it has, its host name, and the address by which others may reach it."""

    first_rank: int
    ranks: int
    host: str
    address: str

    def __str__(self) -> str:
        """Return what identifies it."""
        last = self.first_rank + self.ranks - 1
        ranks = f"rank {last}" if self.ranks == 1 else f"ranks {self.first_rank}-{last}"
        return f"{self.host} at {self.address} ({ranks})"


def leave_nodes(room: Store, nodes: Sequence[Node]) -> None:
    """Leave the nodes in the room, for `use_network` (rank 0 only)."""
    _leave(room, "nodes", [asdict(node) for node in nodes])


def use_network(room: Store, launched: LaunchInfo, timeout_s: float) -> list[str]:
    """Choose the interface for this rank's process groups; on several nodes, check that all reach each other over it.

    Returns a line for each node on rank 0 of several nodes. Raises RunError for nodes that do not reach each other or
    have left, and UserError for a node without a usable address, the same on every rank.
    """
    interface = own_interface(launched.spans_nodes, chosen_interface(), *rendezvous_address())
    lines: list[str] = []
    if launched.spans_nodes:
        try:
            interface, lines = _check_network(room, launched, timeout_s, interface)
        except dist.DistError as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"rank {launched.rank}: the check of the network between nodes has not ended ({reason}): a rank has"
                " left or has stopped; see the output of the others"
            ) from None
    use_interface(interface.name)
    return lines


def own_address(launched: LaunchInfo) -> str:
    """Return the address by which other nodes reach this one, once `use_network` has chosen the interface."""
    return own_interface(launched.spans_nodes, chosen_interface(), *rendezvous_address()).address


def _check_network(
    room: Store, launched: LaunchInfo, timeout_s: float, interface: Interface
) -> tuple[Interface, list[str]]:
    rank, problem, lines = launched.rank, "", []
    if is_loopback(interface.address) and not chosen_interface():
        nodes = [node for node in nodes_of(room, timeout_s) if node.first_rank != rank - launched.local_rank]
        try:
            interface = reach_node(interface, [node.address for node in nodes], rendezvous_address()[0])
        except UserError as error:
            problem = str(error)
    if launched.local_rank == 0:
        lines = _check_node(room, rank, interface.address, problem, timeout_s)
    verdict = Verdict(**_fetch(room, "network", timeout_s + PROBE_S))
    if verdict != Verdict():
        _leave(room, f"network-seen/{rank}", True)
        if rank == 0:
            with suppress(dist.DistError):  # rank 0 may serve the store: it ends with rank 0
                seen = [f"network-seen/{other}" for other in range(launched.world_size)]
                room.wait(seen, timedelta(seconds=VERDICT_WAIT_S))
        verdict.enforce()
    return interface, lines


def _check_node(room: Store, rank: int, address: str, problem: str, timeout_s: float) -> list[str]:
    """Check the network as a node's first rank; rank 0 leaves the verdict, and returns a line for each node.

    problem: why no other node can reach this one, or empty.
    """
    nodes: list[Node] = []
    with socket.create_server((address, 0), family=_family(address), backlog=1024) as listener:
        _leave(room, f"listener/{rank}", [address, listener.getsockname()[1], problem])
        if rank == 0:
            nodes = nodes_of(room, timeout_s)
            listeners = _gather(room, "listener", nodes, timeout_s)
            nodes = [replace(node, address=listeners[node.first_rank][0]) for node in nodes]
            _leave(room, "listeners", [(first, *where) for first, (*where, wrong) in listeners.items() if not wrong])
        others = [(first, where) for first, *where in _fetch(room, "listeners", timeout_s) if first != rank]
        with ThreadPoolExecutor(min(len(others), MOST_THREADS) or 1) as threads:
            reasons = zip(others, threads.map(lambda other: probe(*other[1]), others), strict=True)
            _leave(room, f"unreached/{rank}", [(first, reason) for (first, _), reason in reasons if reason])
        if rank == 0:
            problems = {first: wrong for first, (*_, wrong) in listeners.items() if wrong}
            unreached = {first: dict(whom) for first, whom in _gather(room, "unreached", nodes, timeout_s).items()}
            _leave(room, "network", asdict(judge(nodes, problems, unreached)))
        _fetch(room, "network", timeout_s)  # others may still be connecting
    return [str(node) for node in nodes]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def probe(address: str, port: int, timeout_s: float = PROBE_S) -> str:
    """Connect to a listener; return why it cannot be reached, or an empty string."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def judge(nodes: Sequence[Node], problems: Mapping[int, str], unreached: Mapping[int, Mapping[int, str]]) -> Verdict:
    """Return the verdict on the network.

    problems: why a node cannot be reached by any other, by its first rank. unreached: by a node's first rank, and by
    that of a node to which it cannot connect, the reason.
    """
    if problems:
        sentences = [f"{node}: {problems[node.first_rank]}" for node in nodes if node.first_rank in problems]
        return Verdict(user_error="; ".join(sentences))
    sentences = []
    for number, left in enumerate(nodes):
        for right in nodes[number + 1 :]:
            there = unreached[left.first_rank].get(right.first_rank, "")
            back = unreached[right.first_rank].get(left.first_rank, "")
            if there and back:
                reasons = there if there == back else f"{there}; in the other direction: {back}"
                sentences.append(f"{left} and {right} cannot connect to each other ({reasons})")
            elif there:
                sentences.append(f"{left} cannot connect to {right} ({there}), only the other way round")
            elif back:
                sentences.append(f"{right} cannot connect to {left} ({back}), only the other way round")
    if not sentences:
        return Verdict()
    more = len(sentences) - MOST_NAMED
    named = sentences[:MOST_NAMED] + ([f"{more} more pairs of nodes cannot either"] if more > 0 else [])
    return Verdict(
        run_error=f"nodes reach the rendezvous, but not each other: {'; '.join(named)}. Allow TCP connections to all"
        f" ports between the nodes, or {FIX}"
    )


def _leave(room: Store, key: str, value: object) -> None:
    room.set(key, json.dumps(value))


def _fetch(room: Store, key: str, timeout_s: float) -> Any:
    """Wait for a key and return its value."""
    room.wait([key], timedelta(seconds=timeout_s))
    return json.loads(room.get(key))


def _gather(room: Store, key: str, nodes: Sequence[Node], timeout_s: float) -> dict[int, Any]:
    """Wait for what every node leaves under a key, and return it by the nodes' first ranks."""
    room.wait([f"{key}/{node.first_rank}" for node in nodes], timedelta(seconds=timeout_s))
    return {node.first_rank: json.loads(room.get(f"{key}/{node.first_rank}")) for node in nodes}


def nodes_of(room: Store, timeout_s: float) -> list[Node]:
    """Return the nodes that rank 0 has left in the room."""
    return [Node(**fields) for fields in _fetch(room, "nodes", timeout_s)]
