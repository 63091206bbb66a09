"""The comparison of ranks before groups are built: mixed versions, pairs across nodes, ranks that do not arrive."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

import alexnet_dist
from alexnet_dist.distributed import preflight, room
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.preflight import RankInfo, check_ranks, mismatches, rank_info
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.environment import launch_info
from support.ranks import Ranks

SAME = {"torch": "2.13.0", "alexnet_dist": "0.1.0", "layout": "paired", "device": "cpu", "backend": "gloo"}


def infos(*local_ranks: int) -> list[RankInfo]:
    """Return the records of the ranks of nodes a, b, ..., which have these numbers of ranks."""
    nodes = [node for node, count in zip("abcdef", local_ranks, strict=False) for _ in range(count)]
    return [
        RankInfo(rank, f"host-{node}", node, local_ranks["abcdef".index(node)], SAME) for rank, node in enumerate(nodes)
    ]


def changed(ranks: list[RankInfo], number: int, **must_match: str) -> list[RankInfo]:
    """Return the records with changed values of one rank."""
    return [
        replace(info, must_match={**info.must_match, **must_match}) if info.rank == number else info for info in ranks
    ]


@pytest.mark.parametrize("local_ranks", [(2,), (4, 4), (2, 6), (6, 2, 4)])
def test_even_nodes_with_the_same_versions_agree(local_ranks: tuple[int, ...]) -> None:
    assert mismatches(infos(*local_ranks)) == []


@pytest.mark.parametrize("name", ["torch", "alexnet_dist", "NCCL"])
def test_mixed_versions_are_found(name: str) -> None:
    (sentence,) = mismatches(changed(infos(2, 2), 2, **{name: "9.9"}))
    unchanged = SAME.get(name, "none")
    assert sentence == (
        f"the ranks differ in {name}: {unchanged} on ranks [0, 1, 3], 9.9 on ranks [2];"
        " install one version on all nodes"
    )


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("layout", "fused", "topology.layout"),
        ("device", "cuda", "train.device"),
        ("backend", "nccl", "topology.share_device on all, with as many devices for each rank"),
    ],
)
def test_ranks_on_different_devices_or_layouts_are_found(name: str, value: str, key: str) -> None:
    (sentence,) = mismatches(changed(infos(2, 2), 0, **{name: value}))
    assert f"{value} on ranks [0], {SAME[name]} on ranks [1, 2, 3]; set the same {key}" in sentence


@pytest.mark.parametrize("name", ["optim.learning_rate", "data.root's train manifest"])
def test_ranks_with_other_settings_or_data_are_found(name: str) -> None:
    ranks = [
        replace(info, must_match={**info.must_match, name: "1" if info.rank == 3 else "2"}) for info in infos(2, 2)
    ]
    assert mismatches(ranks) == [
        f"the ranks differ in {name}: 2 on ranks [0, 1, 2], 1 on ranks [3]; set the same {name} on all"
    ]


def test_a_pair_across_nodes_is_found() -> None:
    (sentence,) = mismatches(infos(1, 3))
    assert sentence.startswith(
        "replica 0 would span nodes: rank 0 is on host-a (1 rank), rank 1 on host-b (3 ranks); the two towers"
    )
    assert "even --nproc-per-node" in sentence
    # Even on each node, in another order.
    interleaved = [replace(info, node="ab"[info.rank % 2], local_ranks=2) for info in infos(4)]
    assert len(mismatches(interleaved)) == 1


def test_what_is_wrong_with_a_node_is_said_once() -> None:
    ranks = [replace(info, problem="no route" if info.rank > 1 else "") for info in infos(2, 2)]
    assert mismatches(ranks) == ["host-b: no route"]
    ranks = [replace(info, local_ranks=4) for info in infos(2, 2)]  # what a rank assumes without LOCAL_WORLD_SIZE
    assert mismatches(ranks) == [
        f"host-{node} has 2 ranks, but LOCAL_WORLD_SIZE=4 there; start with torchrun, which sets it" for node in "ab"
    ]


def test_a_rank_publishes_its_versions_and_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(environment: dict[str, str]) -> RankInfo:
        return rank_info(launch_info(environment), "paired", "cpu", "gloo", {})

    own = info({})
    assert own.must_match == SAME | {"torch": str(torch.__version__), "alexnet_dist": alexnet_dist.__version__}
    assert own.node == info({"RANK": "1", "WORLD_SIZE": "2"}).node
    assert own.node != info({"GROUP_RANK": "1"}).node
    monkeypatch.setattr(preflight, "boot_id", lambda: "another machine of the same name")
    assert own.node != info({}).node


def test_a_fused_replica_needs_no_pair() -> None:
    fused = [replace(info, must_match={**SAME, "layout": "fused"}) for info in infos(1, 2)]
    assert mismatches(fused) == []


def checked(
    timeout_s: float, torch_version: str, nodes: dict[int, str], absent: tuple[int, ...]
) -> tuple[str, str, float]:
    """Check the ranks; return the outcome, the message and the seconds it took; runs in a process of its own."""
    rank = launch_info().rank
    os.environ["GROUP_RANK"] = nodes.get(rank, "0")
    if rank == 3:
        torch.__version__ = torch_version  # type: ignore[assignment]
    if rank in absent:
        return "absent", "", 0.0
    topology = resolve_topology("paired", "cpu", launch_info())
    own, began_s = rank_info(launch_info(), "paired", "cpu", "gloo", {}), time.monotonic()
    try:
        store = check_ranks(own, topology.world_size, timeout_s)
        open_groups(topology, timeout_s, store)
    except (UserError, RunError) as error:
        assert not dist.is_initialized()
        return type(error).__name__, str(error), time.monotonic() - began_s
    close_groups()
    return "connected", "", 0.0


@pytest.mark.parametrize(
    ("version", "nodes", "start"),
    [
        ("2.11.0", {}, "the ranks differ in torch: HERE on ranks [0, 1, 2], 2.11.0 on ranks [3]"),
        ("", {1: "1", 2: "1", 3: "1"}, "replica 0 would span nodes: rank 0 is on"),
    ],
)
def test_every_rank_comes_to_the_same_verdict(version: str, nodes: Any, start: str, run_ranks: Ranks) -> None:
    outcomes = run_ranks(4, checked, 30.0, version or str(torch.__version__), nodes, ())
    assert {kind for kind, _, _ in outcomes} == {"UserError"}
    (message,) = {message for _, message, _ in outcomes}
    assert message.startswith(start.replace("HERE", str(torch.__version__)))
    assert max(took_s for _, _, took_s in outcomes) < room.VERDICT_WAIT_S


def test_a_rank_that_does_not_come_is_named(run_ranks: Ranks) -> None:
    outcomes = run_ranks(4, checked, 1.5, str(torch.__version__), {}, (2, 3))
    assert [kind for kind, _, _ in outcomes] == ["RunError", "RunError", "absent", "absent"]
    for _, message, took_s in outcomes[:2]:
        assert "ranks [2, 3] of 4 did not arrive within 1.5 s (topology.timeout_s)" in message
        assert took_s < 1.5 + room.VERDICT_WAIT_S
    assert outcomes[0][2] >= 1.5  # rank 1 may have come later, and waits for rank 0's verdict


def test_rank_0_that_does_not_come_is_reported(run_ranks: Ranks) -> None:
    outcomes = run_ranks(2, checked, 1.0, str(torch.__version__), {}, (0,))
    assert outcomes[1][0] == "RunError"
    assert "rank 1 cannot reach the others through the rendezvous" in outcomes[1][1]


def checked_without_rendezvous() -> str:
    """Return the message if the environment names no rendezvous."""
    del os.environ["MASTER_ADDR"]
    try:
        check_ranks(rank_info(launch_info(), "paired", "cpu", "gloo", {}), 2, 1.0)
    except UserError as error:
        return str(error)
    return ""


def test_without_a_rendezvous_torchrun_is_named(run_ranks: Ranks) -> None:
    (message,) = run_ranks(1, checked_without_rendezvous)
    assert "MASTER_ADDR expected" in message
    assert "start with torchrun" in message
