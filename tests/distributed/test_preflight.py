"""What ranks tell each other before they build groups: mixed versions, pairs across nodes, ranks that do not come."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

import alexnet_dist
from alexnet_dist.distributed import preflight, topology
from alexnet_dist.distributed.preflight import RankInfo, disagreements
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.process import launch_info
from support.ranks import Ranks

ALIKE = {"torch": "2.13.0", "alexnet_dist": "0.1.0", "layout": "paired", "device": "cpu", "backend": "gloo"}


def hellos(*local_ranks: int) -> list[RankInfo]:
    """Return the hellos of nodes a, b, ... with so many ranks."""
    nodes = [node for node, count in zip("abcdef", local_ranks, strict=False) for _ in range(count)]
    return [
        RankInfo(rank, f"host-{node}", node, local_ranks["abcdef".index(node)], ALIKE) for rank, node in enumerate(nodes)
    ]


def changed(ranks: list[RankInfo], number: int, **alike: str) -> list[RankInfo]:
    """Return the hellos with one that says something else."""
    return [replace(one, alike={**one.alike, **alike}) if one.rank == number else one for one in ranks]


@pytest.mark.parametrize("local_ranks", [(2,), (4, 4), (2, 6), (6, 2, 4)])
def test_even_nodes_with_the_same_versions_agree(local_ranks: tuple[int, ...]) -> None:
    assert disagreements(hellos(*local_ranks)) == []


@pytest.mark.parametrize("name", ["torch", "alexnet_dist", "NCCL"])
def test_mixed_versions_are_found(name: str) -> None:
    (found,) = disagreements(changed(hellos(2, 2), 2, **{name: "9.9"}))
    kept = ALIKE.get(name, "none")
    assert found == (
        f"the ranks differ in {name}: {kept} on ranks [0, 1, 3], 9.9 on ranks [2]; install one version on all nodes"
    )


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("layout", "fused", "topology.layout"),
        ("device", "cuda", "train.device"),
        ("backend", "nccl", "topology.share_device, and as many devices for each rank"),
    ],
)
def test_ranks_that_lie_otherwise_on_devices_are_found(name: str, value: str, key: str) -> None:
    (found,) = disagreements(changed(hellos(2, 2), 0, **{name: value}))
    assert f"{value} on ranks [0], {ALIKE[name]} on ranks [1, 2, 3]; give all the same {key}" in found


@pytest.mark.parametrize("name", ["optim.learning_rate", "data.root's train manifest"])
def test_ranks_with_other_settings_or_data_are_found(name: str) -> None:
    ranks = [replace(one, alike={**one.alike, name: "1" if one.rank == 3 else "2"}) for one in hellos(2, 2)]
    assert disagreements(ranks) == [
        f"the ranks differ in {name}: 2 on ranks [0, 1, 2], 1 on ranks [3]; give all the same {name}"
    ]


def test_a_pair_across_nodes_is_found() -> None:
    (found,) = disagreements(hellos(1, 3))
    assert found.startswith(
        "replica 0 would span nodes: rank 0 is on host-a (1 rank(s)), rank 1 on host-b (3 rank(s)); the two towers"
    )
    assert "even --nproc-per-node" in found
    dealt_out = [replace(one, node="ab"[one.rank % 2]) for one in hellos(4)]  # even on each node, in another order
    assert len(disagreements(dealt_out)) == 1


def test_a_rank_says_its_versions_and_how_its_towers_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    said = preflight.mine(launch_info({}), "paired", "cpu", "gloo", {})
    assert said.alike == ALIKE | {"torch": str(torch.__version__), "alexnet_dist": alexnet_dist.__version__}
    assert said.node == preflight.mine(launch_info({"RANK": "1", "WORLD_SIZE": "2"}), "paired", "cpu", "gloo", {}).node
    assert said.node != preflight.mine(launch_info({"GROUP_RANK": "1"}), "paired", "cpu", "gloo", {}).node
    monkeypatch.setattr(preflight, "boot_id", lambda: "another machine of the same name")
    assert said.node != preflight.mine(launch_info({}), "paired", "cpu", "gloo", {}).node


def test_a_fused_replica_needs_no_pair() -> None:
    fused = [replace(one, alike={**ALIKE, "layout": "fused"}) for one in hellos(1, 2)]
    assert disagreements(fused) == []


def met(timeout_s: float, torch_version: str, nodes: dict[int, str], absent: tuple[int, ...]) -> tuple[str, str, float]:
    """Meet the others; return how it ended, what was said and after how long; runs in a process of its own."""
    rank = launch_info().rank
    os.environ["GROUP_RANK"] = nodes.get(rank, "0")
    if rank == 3:
        torch.__version__ = torch_version  # type: ignore[assignment]
    if rank in absent:
        return "absent", "", 0.0
    place = topology.place("paired", "cpu", launch_info())
    began_s = time.monotonic()
    try:
        store = preflight.meet(preflight.mine(launch_info(), "paired", "cpu", "gloo", {}), place.world_size, timeout_s)
        topology.open_groups(place, timeout_s, store)
    except (UserError, RunError) as error:
        assert not dist.is_initialized()
        return type(error).__name__, str(error), time.monotonic() - began_s
    topology.close_groups()
    return "met", "", 0.0


@pytest.mark.parametrize(
    ("version", "nodes", "sign"),
    [
        ("2.11.0", {}, "the ranks differ in torch: HERE on ranks [0, 1, 2], 2.11.0 on ranks [3]"),
        ("", {1: "1", 2: "1", 3: "1"}, "replica 0 would span nodes: rank 0 is on"),
    ],
)
def test_every_rank_comes_to_the_same_verdict(version: str, nodes: Any, sign: str, run_ranks: Ranks) -> None:
    found = run_ranks(4, met, 30.0, version or str(torch.__version__), nodes, ())
    assert {kind for kind, _, _ in found} == {"UserError"}
    (said,) = {said for _, said, _ in found}
    assert said.startswith(sign.replace("HERE", str(torch.__version__)))
    assert max(took_s for _, _, took_s in found) < preflight.LAST_WORDS_S


def test_a_rank_that_does_not_come_is_named(run_ranks: Ranks) -> None:
    found = run_ranks(4, met, 1.5, str(torch.__version__), {}, (2, 3))
    assert [kind for kind, _, _ in found] == ["RunError", "RunError", "absent", "absent"]
    for _, said, took_s in found[:2]:
        assert "ranks [2, 3] of 4 have not come within 1.5 s (topology.timeout_s)" in said
        assert 1.5 <= took_s < 1.5 + preflight.LAST_WORDS_S


def test_rank_0_that_does_not_come_is_told_of(run_ranks: Ranks) -> None:
    found = run_ranks(2, met, 1.0, str(torch.__version__), {}, (0,))
    assert found[1][0] == "RunError"
    assert "rank 1 cannot reach the others through the rendezvous" in found[1][1]


def met_nowhere() -> str:
    """Return what is said where nothing tells the ranks where they meet."""
    del os.environ["MASTER_ADDR"]
    try:
        preflight.meet(preflight.mine(launch_info(), "paired", "cpu", "gloo", {}), 2, 1.0)
    except UserError as error:
        return str(error)
    return ""


def test_without_a_place_to_meet_torchrun_is_named(run_ranks: Any) -> None:
    (said,) = run_ranks(1, met_nowhere)
    assert "MASTER_ADDR expected" in said
    assert "start by torchrun" in said
