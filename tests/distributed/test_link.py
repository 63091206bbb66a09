"""The joins between two towers, over an in-process line; the line over torch.distributed is in test_parallel."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed.link import Handle, P2PLink
from alexnet_dist.distributed.tower_parallel import exchange, gather
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.layers import Cross, Dense

Queue = queue.Queue[Tensor]


class Line:
    """One end of a line between two threads; it copies what it sends and notes what happens."""

    def __init__(self, outgoing: Queue, incoming: Queue) -> None:
        self._outgoing, self._incoming = outgoing, incoming
        self.events: list[str] = []

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        self.events.append("start")
        self._outgoing.put(tensor.detach().clone())
        return Handle(join, (), tensor, tensor.new_empty(tuple(receive_shape)))

    def wait(self, handle: Handle) -> Tensor:
        self.events.append("wait")
        arrived = self._incoming.get(timeout=20)
        assert arrived.dtype == handle.received.dtype
        return handle.received.copy_(arrived)  # the shapes must agree


def on_both(function: Callable[[int, Line], Any]) -> list[Any]:
    """Call a function for both towers at once, each in a thread with its end of a line; return what they return."""
    ways = [Queue(), Queue()]
    lines = [Line(ways[0], ways[1]), Line(ways[1], ways[0])]
    answers: list[Any] = [None, None]

    def run(tower: int) -> None:
        try:
            answers[tower] = function(tower, lines[tower])
        except BaseException as error:
            answers[tower] = error

    threads = [threading.Thread(target=run, args=(tower,)) for tower in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def cross(tower: int, inputs: int, outputs: int) -> Cross:
    layer = Cross(Dense(inputs, outputs, True), Dense(inputs, outputs, False)).double()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_((1 + tower + number) * noise(*parameter.shape))
    return layer


def whole(maps: list[Tensor], layers: list[list[Cross]]) -> list[Tensor]:
    """Both towers in one process: two hidden layers, the logits of the second."""
    for pair in layers:
        maps = [torch.tanh(pair[t](maps[t], lambda t=t, maps=maps: maps[1 - t])) for t in (0, 1)]
    return maps


SPLIT = (3, 4)  # odd classes


def test_two_joined_towers_are_one_net() -> None:
    """Values, both input gradients and every weight's gradient; the logits' halves differ in width."""
    inputs = [noise(5, 4), noise(5, 4) + 1]
    layers = [[cross(t, 4, 6) for t in (0, 1)], [cross(t, 6, SPLIT[t]) for t in (0, 1)]]
    pull = noise(5, sum(SPLIT))

    def tower(index: int, line: Line) -> tuple[Tensor, list[Tensor]]:
        leaf = inputs[index].clone().requires_grad_()
        maps = leaf
        for pair in layers:
            maps = torch.tanh(pair[index](maps, exchange(maps, line, "fc")))
        logits = gather(maps, line, index, sum(SPLIT))
        weights = [leaf, *layers[0][index].parameters(), *layers[1][index].parameters()]
        return logits.detach(), list(torch.autograd.grad((logits.square() * pull).sum(), weights))

    found = on_both(tower)
    leaves = [maps.clone().requires_grad_() for maps in inputs]
    logits = torch.cat(whole(leaves, layers), 1)
    for index, (ours, gradients) in enumerate(found):
        torch.testing.assert_close(ours, logits.detach(), rtol=1e-13, atol=1e-13)
        weights = [leaves[index], *layers[0][index].parameters(), *layers[1][index].parameters()]
        wanted = torch.autograd.grad((logits.square() * pull).sum(), weights, retain_graph=True)
        for left, right in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_an_exchange_overlaps_its_own_half() -> None:
    """Sent before the own half is computed; in backward the other's gradient goes before the weights' are computed."""

    def tower(index: int, line: Line) -> list[str]:
        layer, leaf = cross(index, 4, 3), noise(2, 4).requires_grad_()
        layer.own.register_forward_hook(lambda *_: line.events.append("own half"))
        layer.other.register_forward_hook(lambda *_: line.events.append("other half"))
        layer.own.get_parameter("weight").register_hook(lambda _: line.events.append("own weights' gradient"))  # type: ignore[no-untyped-call]
        layer(leaf, exchange(leaf, line, "fc")).sum().backward()
        return line.events

    assert (
        on_both(tower)
        == [
            ["start", "own half", "wait", "other half", "start", "own weights' gradient", "wait"],
        ]
        * 2
    )


def test_without_gradients_nothing_comes_back() -> None:
    def tower(index: int, line: Line) -> tuple[list[str], Tensor]:
        with torch.no_grad():
            return line.events, exchange(torch.full((2, 3), float(index)), line, "fc")()

    for index, (events, other) in enumerate(on_both(tower)):
        assert events == ["start", "wait"]
        assert other.equal(torch.full((2, 3), 1.0 - index))


def test_an_exchange_is_waited_for_once() -> None:
    def tower(_index: int, line: Line) -> None:
        other_maps = exchange(torch.zeros(1, 1), line, "fc")
        other_maps()
        with pytest.raises(AssertionError, match="waited for once"):
            other_maps()

    on_both(tower)


def test_exchanges_keep_the_compute_dtype() -> None:
    def tower(_index: int, line: Line) -> Tensor:
        return exchange(torch.ones(2, 2, dtype=torch.bfloat16), line, "fc")()

    assert [answer.dtype for answer in on_both(tower)] == [torch.bfloat16] * 2


def test_gather_puts_tower_0_first_and_sends_nothing_back() -> None:
    def tower(index: int, line: Line) -> tuple[Tensor, Tensor, list[str]]:
        leaf = torch.full((1, SPLIT[index]), float(index)).requires_grad_()
        logits = gather(leaf, line, index, sum(SPLIT))
        logits.backward(torch.arange(7.0)[None])  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return logits.detach(), leaf.grad, line.events

    for index, (logits, gradient, events) in enumerate(on_both(tower)):
        assert logits.tolist() == [[0.0] * 3 + [1.0] * 4]
        assert gradient.tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0]][index]]
        assert events == ["start", "wait"]


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
    line, tensor = P2PLink(group, 6, timeline), torch.arange(6.0).reshape(2, 3).t()
    handles = [line.start(tensor, (4, 5), "fc6 forward"), line.start(tensor, (4, 5), "fc6 forward")]
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
    assert line.wait(handles[0]) is handles[0].received
    assert [work.waited for work in works] == [1, 1]
    timeline.lap("forward")
    stretch = timeline.cut()
    assert (stretch.sent_bytes, stretch.received_bytes) == (2 * 6 * 4, 2 * 20 * 4)
    assert stretch.read().join_wait_s["fc6 forward"] > 0


def test_maps_that_lie_channels_last_cross_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    def crossed(operations: list[Operation]) -> list[Work]:
        sent, received = (operation.tensor for operation in operations)
        assert sent.is_contiguous()
        assert received.is_contiguous()
        received.view(-1)[: sent.numel()] = sent.flatten()  # bytes, as a wire has them
        return [Work()]

    monkeypatch.setattr(dist, "P2POp", Operation)
    monkeypatch.setattr(dist, "batch_isend_irecv", crossed)
    group: Any = object()
    line = P2PLink(group, 1, Timeline(torch.device("cpu")), torch.channels_last)
    for maps in (noise(2, 3, 4, 5), noise(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), noise(2, 6)):
        received = line.wait(line.start(maps, maps.shape, "conv3 forward"))
        assert received.equal(maps)
        assert maps.dim() == 2 or received.is_contiguous(memory_format=torch.channels_last)
