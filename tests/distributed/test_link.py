"""The pair link over torch.distributed: what it posts, in which format, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed.link import P2PLink
from alexnet_dist.distributed.lost_rank import LostRankError
from alexnet_dist.monitoring.timeline import Timeline


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


class Operation(NamedTuple):
    kind: Callable[..., Any]
    tensor: Tensor
    peer: int
    group: object


class Work:
    waited = 0

    def wait(self) -> None:
        self.waited += 1


def test_p2p_posts_both_directions_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[Operation]] = []
    works = [Work(), Work()]

    def batch(operations: list[Operation]) -> list[Work]:
        batches.append(operations)
        return works

    monkeypatch.setattr(dist, "P2POp", Operation)
    monkeypatch.setattr(dist, "batch_isend_irecv", batch)
    group: Any = object()
    timeline = Timeline(torch.device("cpu"))
    link, tensor = P2PLink(group, 6, timeline), torch.arange(6.0).reshape(2, 3).t()
    handles = [link.start(tensor, (4, 5), "fc6 forward"), link.start(tensor, (4, 5), "fc6 forward")]
    for handle, (send, receive) in zip(handles, batches, strict=True):
        assert (send.kind, receive.kind) == (dist.isend, dist.irecv)
        assert (send.peer, send.group, receive.peer, receive.group) == (6, group, 6, group)
        assert send.tensor.is_contiguous()
        assert send.tensor.equal(tensor)
        assert receive.tensor.shape == (4, 5)
        assert receive.tensor.dtype == tensor.dtype
        assert handle.sent is send.tensor
        assert handle.received is receive.tensor
    assert handles[0].received.data_ptr() != handles[1].received.data_ptr()
    assert link.wait(handles[0]) is handles[0].received
    assert [work.waited for work in works] == [1, 1]
    timeline.mark("forward")
    trace = timeline.take()
    assert (trace.sent_bytes, trace.received_bytes) == (2 * 6 * 4, 2 * 20 * 4)
    assert trace.read().join_wait_s["fc6 forward"] > 0


def test_maps_that_lie_channels_last_cross_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    def transfer(operations: list[Operation]) -> list[Work]:
        sent, received = (operation.tensor for operation in operations)
        assert sent.is_contiguous()
        assert received.is_contiguous()
        received.view(-1)[: sent.numel()] = sent.flatten()  # bytes in memory order, as a wire transfers them
        return [Work()]

    monkeypatch.setattr(dist, "P2POp", Operation)
    monkeypatch.setattr(dist, "batch_isend_irecv", transfer)
    group: Any = object()
    link = P2PLink(group, 1, Timeline(torch.device("cpu")), torch.channels_last)
    for maps in (noise(2, 3, 4, 5), noise(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), noise(2, 6)):
        received = link.wait(link.start(maps, maps.shape, "conv3 forward"))
        assert received.equal(maps)
        assert maps.dim() == 2 or received.is_contiguous(memory_format=torch.channels_last)


class LostWork:
    def wait(self) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1")


def test_a_lost_tower_is_reported_with_the_join(monkeypatch: pytest.MonkeyPatch) -> None:
    group: Any = object()
    link, tensor = P2PLink(group, 1, Timeline(torch.device("cpu"))), torch.ones(2)
    monkeypatch.setattr(dist, "P2POp", Operation)
    monkeypatch.setattr(dist, "batch_isend_irecv", lambda _: [LostWork()])
    with pytest.raises(LostRankError) as caught:
        link.wait(link.start(tensor, (2,), "conv3 forward"))
    assert caught.value.operation == "conv3 forward"

    def lose(_: object) -> None:
        LostWork().wait()

    monkeypatch.setattr(dist, "batch_isend_irecv", lose)
    with pytest.raises(LostRankError) as caught:
        link.start(tensor, (2,), "fc6 backward")
    assert caught.value.operation == "fc6 backward"
