"""The network between nodes: the verdict, and its way to all ranks."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.distributed import network
from alexnet_dist.distributed.address import Interface, reach_node
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.network import MOST_NAMED, Node, judge, leave_nodes, probe, use_network
from alexnet_dist.distributed.preflight import check_ranks, rank_info
from alexnet_dist.distributed.room import VERDICT_WAIT_S, Verdict
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.environment import launch_info
from support.counting_store import CountingStore
from support.ranks import Ranks, free_port


def nodes(number: int) -> list[Node]:
    return [Node(2 * index, 2, f"host-{index}", f"10.0.0.{index}") for index in range(number)]


NONE: dict[int, dict[int, str]] = {0: {}, 2: {}, 4: {}}


@given(st.integers(2, 8), st.data())
def test_every_pair_that_fails_is_named(number: int, data: st.DataObject) -> None:
    ranks = [2 * index for index in range(number)]
    pairs = st.sets(st.tuples(st.sampled_from(ranks), st.sampled_from(ranks)).filter(lambda pair: pair[0] != pair[1]))
    failing = data.draw(pairs)
    unreached = {left: {right: "refused" for right in ranks if (left, right) in failing} for left in ranks}
    verdict = judge(nodes(number), {}, unreached)
    found = [pair for pair in combinations(ranks, 2) if pair in failing or pair[::-1] in failing]
    assert (verdict == Verdict()) == (not found)
    assert verdict.run_error.count("cannot connect") == min(len(found), MOST_NAMED)
    assert (f"{len(found) - MOST_NAMED} more pairs" in verdict.run_error) == (len(found) > MOST_NAMED)
    for left, right in found[:MOST_NAMED]:
        assert f"host-{left // 2} at 10.0.0.{left // 2} (ranks {left}-{left + 1})" in verdict.run_error
        assert f"host-{right // 2} at" in verdict.run_error


def test_both_directions_are_one_sentence() -> None:
    both = judge(nodes(3), {}, NONE | {0: {2: "refused"}, 2: {0: "refused"}}).run_error
    assert "host-0 at 10.0.0.0 (ranks 0-1) and host-1 at 10.0.0.1 (ranks 2-3) cannot connect to each other (ref" in both
    one = judge(nodes(3), {}, NONE | {4: {2: "no answer within 3 s"}}).run_error
    assert "host-2 at 10.0.0.2 (ranks 4-5) cannot connect to host-1 at" in one
    assert "only the other way round. Allow TCP connections to all ports between the nodes, or set GLOO_SOC" in one


def test_a_node_without_an_address_is_a_users_mistake() -> None:
    verdict = judge(nodes(3), {2: "it has no address"}, NONE)
    assert verdict == Verdict(user_error="host-1 at 10.0.0.1 (ranks 2-3): it has no address")


def test_a_listener_is_reached_and_a_closed_port_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert probe("127.0.0.1", listener.getsockname()[1]) == ""
    assert probe("127.0.0.1", free_port()) == "Connection refused"


def checked(number: int) -> float:
    """Let threads check the network as the first ranks of nodes; return the bytes through the store a pair of nodes."""
    store = CountingStore()
    leave_nodes(store, nodes(number))

    def check(node: Node) -> None:
        network._check_node(store, node.first_rank, "127.0.0.1", "", 30)

    with ThreadPoolExecutor(number) as threads:
        list(threads.map(check, nodes(number)))
    return store.bytes / number**2


def test_the_store_carries_few_bytes_for_each_pair_of_nodes() -> None:
    assert checked(24) < 50  # 44; 33 for 64 nodes


def network_of(interfaces: list[str]) -> tuple[list[str], str, float]:
    """Join as one of two nodes with two ranks each; return the nodes, the error, and the seconds of the check.

    interfaces: the one that the user chooses on each node, or an empty string.
    """
    rank = launch_info().rank
    os.environ.update(LOCAL_RANK=str(rank % 2), LOCAL_WORLD_SIZE="2", GROUP_RANK=str(rank // 2))
    if interfaces[rank // 2]:
        os.environ["GLOO_SOCKET_IFNAME"] = interfaces[rank // 2]
    launched = launch_info()
    topology = resolve_topology("paired", "cpu", launched)
    room = check_ranks(rank_info(launched, "paired", "cpu", "gloo", {}), 4, 20)
    assert room is not None
    began_s = time.monotonic()
    try:
        lines = use_network(room, launched, 20)
    except (UserError, RunError) as error:
        return [], str(error), time.monotonic() - began_s
    took_s = time.monotonic() - began_s
    open_groups(topology, 20, room)
    close_groups()
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"
    return lines, "", took_s


@pytest.mark.parametrize("interfaces", [["lo", "lo"], ["", ""]])
def test_two_agents_on_one_machine_connect(interfaces: list[str], run_ranks: Ranks) -> None:
    answers = run_ranks(4, network_of, interfaces)
    assert [len(lines) for lines, _, _ in answers] == [2, 0, 0, 0]
    assert [line.partition(" at ")[2] for line in answers[0][0]] == ["127.0.0.1 (ranks 0-1)", "127.0.0.1 (ranks 2-3)"]
    assert max(took_s for _, _, took_s in answers) < 2


def unreachable(interfaces: list[str]) -> tuple[list[str], str, float]:
    """Join where a node that reaches the rendezvous by loopback finds no way to the other one, nor it a listener."""

    def reach_nothing(own: Interface, _addresses: list[str], host: str) -> Interface:
        assert launch_info().rank < 2
        return reach_node(own, ["255.255.255.255"], host)  # no socket may connect to it

    vars(network)["reach_node"] = reach_nothing
    return network_of(interfaces)


def test_a_node_that_no_other_can_reach_is_refused_on_every_rank(run_ranks: Ranks) -> None:
    answers = run_ranks(4, unreachable, ["", "lo"])
    (error,) = {error for _, error, _ in answers}
    assert (
        error.count("(ranks 0-1): it reaches the rendezvous at 127.0.0.1 by 127.0.0.1, which other nodes cannot") == 1
    )
    assert max(took_s for _, _, took_s in answers) < VERDICT_WAIT_S
