"""What the comparison of many ranks moves through the store, counted on the wire: each rank's share is constant."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from torch._C._distributed_c10d import TCPStore
from torch.distributed.rendezvous import rendezvous

from alexnet_dist.distributed import preflight
from alexnet_dist.distributed.preflight import check_ranks, rank_info
from alexnet_dist.system.environment import launch_info
from support.counting_proxy import counting_proxy
from support.ranks import free_port

SETTINGS = {f"section.key_{number:03}": "x" * 24 for number in range(100)}  # 4.5 kB, as those of a real run


class Start(NamedTuple):
    """What a start has cost: bytes of all ranks through the store, both ways, and seconds after all were connected."""

    size_bytes: int
    time_s: float


def start(world_size: int, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Let threads, each with a client of its own, compare themselves as ranks through one store.

    torch asks the name server for the name of each client; where that is slow, connecting takes most of the test.
    """
    port, began_s = free_port(), list[float]()
    connected = threading.Barrier(world_size, lambda: began_s.append(time.monotonic()))
    agent = TCPStore("127.0.0.1", port, None, True, timedelta(seconds=30), wait_for_workers=False)

    def connect(*arguments: Any, **options: Any) -> Iterator[Any]:
        """Connect as check_ranks does, and wait until all ranks have."""
        found = next(rendezvous(*arguments, **options))
        connected.wait()
        yield found

    def rank(number: int) -> None:
        node, local_rank = divmod(number, 8)
        launched = launch_info(
            {
                "RANK": str(number),
                "WORLD_SIZE": str(world_size),
                "LOCAL_RANK": str(local_rank),
                "LOCAL_WORLD_SIZE": "8",
                "GROUP_RANK": str(node),
            }
        )
        check_ranks(rank_info(launched, "paired", "cpu", "gloo", SETTINGS), world_size, 60)

    with counting_proxy(port) as traffic:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(traffic.port))
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.setattr(preflight, "rendezvous", connect)
        with ThreadPoolExecutor(world_size) as threads:
            list(threads.map(rank, range(world_size)))
        time_s = time.monotonic() - began_s[0]
    del agent
    return Start(traffic.size_bytes, time_s)


@pytest.mark.slow
def test_a_ranks_share_is_the_same_with_8_to_256_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_room.py counts the same for 8 and 64 ranks without sockets, in every test run."""
    starts = {world_size: start(world_size, monkeypatch) for world_size in (8, 16, 32, 64, 128, 256)}
    for world_size, (size_bytes, time_s) in starts.items():
        print(f"{world_size} ranks: {size_bytes:,} bytes, {size_bytes / world_size:,.0f} a rank, {time_s:.2f} s")
    assert starts[256].size_bytes / 256 < 1.5 * starts[8].size_bytes / 8
