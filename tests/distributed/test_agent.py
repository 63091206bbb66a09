"""What torchrun's agent loads: both rendezvous backends, their addresses, and an end to useless restarts."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, rendezvous_handler_registry
from torch.distributed.elastic.utils.store import barrier

from alexnet_dist.distributed import address, agent, final_error
from alexnet_dist.system.environment import FINAL_ERROR, LaunchInfo


class OneRound(RendezvousHandler):
    """A rendezvous that counts how often it is entered."""

    def __init__(self, store: Store | None = None, nodes: int = 1) -> None:
        self.rounds, self.store, self.nodes = 0, store, nodes

    def next_rendezvous(self) -> RendezvousInfo:
        self.rounds += 1
        return RendezvousInfo(self.store, 0, self.nodes, None)  # type: ignore[arg-type]

    def get_backend(self) -> str:
        return "one round"

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 3

    def get_run_id(self) -> str:
        return "run"

    def shutdown(self) -> bool:
        return True


def test_torchrun_finds_both_backends() -> None:
    entries = {entry.name: entry.value for entry in entry_points(group="torchrun.handlers")}
    assert entries == {"c10d": "alexnet_dist.distributed.agent:c10d", "static": "alexnet_dist.distributed.agent:static"}
    creators = rendezvous_handler_registry._registry
    assert (creators["c10d"], creators["static"]) == (agent._c10d, agent._static)


def test_a_job_ends_at_the_next_round_after_a_final_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv(FINAL_ERROR, str(path))
    inner = OneRound()
    handler = agent.EndingHandler(inner, path)
    handler.next_rendezvous()
    final_error.report("run.steps: too many", LaunchInfo(5, 8, 1, 4, under_torchrun=True), 2)
    with pytest.raises(ChildFailedError) as caught:
        handler.next_rendezvous()
    assert inner.rounds == 1
    assert list(caught.value.failures) == [5]
    assert caught.value.failures[5].message == "run.steps: too many"
    assert (caught.value.failures[5].exitcode, caught.value.failures[5].local_rank) == (2, 1)
    assert handler.num_nodes_waiting() == 3
    assert not handler.use_agent_store


def test_of_several_nodes_an_agent_serves_the_ranks_store_in_every_round(tmp_path: Path) -> None:
    inner = OneRound(HashStore())
    handler = agent.EndingHandler(inner, tmp_path / "error.json", agent.Host(True, "127.0.0.1"))
    assert handler.use_agent_store
    ports = []
    for number in (1, 2):
        inner.store = HashStore()
        info = handler.next_rendezvous().bootstrap_store_info
        assert info is not None
        TCPStore(info.master_addr, info.master_port, is_master=False).set("round", str(number))
        ports.append(info.master_port)
    assert len(set(ports)) == 2


def test_the_first_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv(FINAL_ERROR, str(path))
    launched = LaunchInfo(0, 2, 0, 2, under_torchrun=True)
    assert final_error.read(path) is None
    final_error.report("first", launched, 1)
    final_error.report("second", launched, 2)
    error = final_error.read(path)
    assert error is not None
    assert (error.message, error.exit_code) == ("first", 1)
    assert json.loads(path.read_text())["message"] == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_without_an_agent_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FINAL_ERROR, raising=False)
    monkeypatch.chdir(tmp_path)
    final_error.report("an error", LaunchInfo(0, 1, 0, 1, under_torchrun=False), 2)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_leaves_does_not_hold_the_others(tmp_path: Path) -> None:
    store = HashStore()
    leaving = agent.EndingHandler(OneRound(store, nodes=2), tmp_path / "error.json")
    leaving.next_rendezvous()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(barrier, store, 2, agent.EXIT_BARRIER, 30)  # as torchrun's agent does
        leaving._pass_exit_barrier()
        waiting.result(timeout=10)


@pytest.mark.parametrize(
    ("host", "max_nodes", "local"),
    [("127.0.0.1", 1, "127.0.0.1"), ("127.0.0.1", 2, None), ("no-such-host.invalid", 2, None)],
)
def test_local_addresses(host: str, max_nodes: int, local: str | None) -> None:
    assert agent.local_address(host, 29400, max_nodes) == local


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("192.0.2.1", False), ("no-such-host.invalid", False)])
def test_own_addresses(host: str, own: bool) -> None:
    assert address.is_own_address(host) is own


@given(st.integers(1, 9).flatmap(lambda nodes: st.tuples(st.just(nodes), st.integers(0, nodes - 1))))
def test_the_moved_ranks_are_the_old_ones_in_order(case: tuple[int, int]) -> None:
    nodes, first = case
    moved = [agent.moved_to_front(rank, first) for rank in range(nodes)]
    assert moved[first] == 0
    assert sorted(moved) == list(range(nodes))
    others = [rank for rank in moved if rank]
    assert others == sorted(others)


@pytest.mark.parametrize(("host_rank", "ranks"), [(0, [0, 1, 2]), (1, [1, 0, 2]), (2, [1, 2, 0]), (None, [0, 1, 2])])
def test_rank_0_is_on_the_node_that_serves_the_store(host_rank: int | None, ranks: list[int]) -> None:
    store = HashStore()
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]

    def node(rank: int) -> tuple[RendezvousInfo, TCPStore | None]:
        info = RendezvousInfo(store, rank, 3, None)  # type: ignore[arg-type]
        return agent.host_first(info, agent.Host(rank == host_rank, addresses[rank]))

    with ThreadPoolExecutor(3) as pool:
        infos, served = zip(*pool.map(node, range(3)), strict=True)
    assert [info.rank for info in infos] == ranks
    first = ranks.index(0)
    assert [number for number, server in enumerate(served) if server is not None] == [first]
    places = {(info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port) for info in infos}
    assert places == {(addresses[first], served[first].port)}
    TCPStore("localhost", served[first].port, is_master=False).set("a rank", "is here")
    assert served[first].get("a rank") == b"is here"
