"""What of torch.distributed's errors is a lost rank, and how the message names the ranks."""

from __future__ import annotations

import pytest
import torch

from alexnet_dist.distributed.lost_rank import (
    AVERAGING,
    CONTROL,
    GROUPS,
    LostRankError,
    awaited,
    lost_rank_at,
    lost_rank_sentence,
)
from alexnet_dist.distributed.topology import Topology


def topology(rank: int, world_size: int, fused: bool = False) -> Topology:
    return Topology(rank, world_size, rank, "fused" if fused else "paired", torch.device("cpu"))


@pytest.mark.parametrize(
    "message",
    [
        "Connection closed by peer [127.0.0.1]:1",
        "Read error [127.0.0.1]:1: Connection reset by peer",
        "Write error: Broken pipe",
        "Timed out waiting 3000ms",
        "NCCL error: ncclRemoteError: A call failed possibly due to a network error",
        "Gloo connectFullMesh failed",
        "got 0 bytes. Connection was likely closed",
    ],
)
def test_a_lost_rank_is_reported_with_the_operation(message: str) -> None:
    with pytest.raises(LostRankError) as caught, lost_rank_at("conv3 forward"):
        raise RuntimeError(f"{message}\nmore")
    assert (caught.value.operation, caught.value.reason) == ("conv3 forward", message)


def test_a_source_line_of_the_library_is_left_out() -> None:
    with pytest.raises(LostRankError) as caught, lost_rank_at("fc6 backward"):
        raise RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:4. This is often")
    assert caught.value.reason == "Connection closed by peer [::1]:4"


def test_the_last_error_of_nccl_is_kept() -> None:
    with pytest.raises(LostRankError) as caught, lost_rank_at("conv3 forward"):
        raise RuntimeError("NCCL error in: x.cpp:1, ncclRemoteError\nncclRemoteError: A call\nLast error:\n no route\n")
    assert caught.value.reason == "NCCL error in: x.cpp:1, ncclRemoteError; no route"


def test_a_misuse_of_nccl_is_no_lost_rank() -> None:
    with pytest.raises(RuntimeError, match="invalid usage") as caught, lost_rank_at("conv3 forward"):
        raise RuntimeError("NCCL error in: x.cpp:1, invalid usage (run with NCCL_DEBUG=WARN for details)")
    assert type(caught.value) is RuntimeError


def test_another_fault_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape") as caught, lost_rank_at("conv3 forward"):
        raise RuntimeError("shape mismatch")
    assert type(caught.value) is RuntimeError


@pytest.mark.parametrize(
    ("fused", "rank", "operation", "sentence"),
    [
        (
            False,
            3,
            "conv3 forward",
            "rank 3 (replica 1, tower 1) lost rank 2 (replica 1, tower 0) at: conv3 forward (",
        ),
        (False, 0, AVERAGING, "rank 0 (replica 0, tower 0) lost one of ranks 2, 4 at: averaging ("),
        (False, 4, CONTROL, "rank 4 (replica 2, tower 0) lost one of ranks 0, 1, 2, 3, 5 at: status sum ("),
        (True, 1, AVERAGING, "rank 1 (replica 1, tower 0+1) lost one of ranks 0, 2, 3, 4, 5 at: averaging ("),
    ],
)
def test_a_lost_rank_is_named_with_replica_and_tower(fused: bool, rank: int, operation: str, sentence: str) -> None:
    assert lost_rank_sentence(topology(rank, 6, fused), operation, "Timed out") == (
        f"{sentence}Timed out); see the output of that rank; the same command resumes from the last checkpoint"
    )


def test_with_two_replicas_the_one_averaged_with_is_named() -> None:
    sentence = lost_rank_sentence(topology(1, 4), AVERAGING, "Timed out")
    assert "rank 1 (replica 0, tower 1) lost rank 3 (replica 1, tower 1) at: averaging" in sentence


def test_the_missing_rank_is_named_and_not_the_one_waited_for() -> None:
    sentence = lost_rank_sentence(topology(1, 4), AVERAGING, "Timed out", {2}, "rank 2 is stopped")
    assert sentence == (
        "rank 1 (replica 0, tower 1) lost rank 2 (replica 1, tower 0) at: averaging (Timed out); rank 2 is stopped;"
        " the same command resumes from the last checkpoint"
    )
    assert "lost ranks 2, 3 at:" in lost_rank_sentence(topology(1, 4), AVERAGING, "Timed out", {3, 2}, "silent")


@pytest.mark.parametrize(
    ("fused", "rank", "operation", "ranks"),
    [
        (False, 3, "fc7 forward", [2]),
        (False, 0, AVERAGING, [2, 4]),
        (False, 5, AVERAGING, [1, 3]),
        (True, 5, AVERAGING, [0, 1, 2, 3, 4]),
        (False, 1, CONTROL, [0, 2, 3, 4, 5]),
        (True, 1, GROUPS, [0, 2, 3, 4, 5]),
    ],
)
def test_a_rank_waits_for_the_others_of_its_group(fused: bool, rank: int, operation: str, ranks: list[int]) -> None:
    assert awaited(topology(0, 6, fused), rank, operation) == ranks
