"""The joins between two towers, over an in-process link; test_wirings tests them over torch.distributed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist.distributed.link import Handle
from alexnet_dist.distributed.tower_parallel import exchange, gather
from alexnet_dist.nn.layers import Cross, Dense

Queue = queue.Queue[Tensor]


class ThreadLink:
    """One end of a link between two threads; it copies what it sends and records its calls."""

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


def on_both(function: Callable[[int, ThreadLink], Any]) -> list[Any]:
    """Call a function for both towers at once, each in a thread with its end of a link; return both results."""
    queues = [Queue(), Queue()]
    links = [ThreadLink(queues[0], queues[1]), ThreadLink(queues[1], queues[0])]
    results: list[Any] = [None, None]

    def run(tower: int) -> None:
        try:
            results[tower] = function(tower, links[tower])
        except BaseException as error:
            results[tower] = error

    threads = [threading.Thread(target=run, args=(tower,)) for tower in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def cross(tower: int, inputs: int, outputs: int) -> Cross:
    layer = Cross(Dense(inputs, outputs, True), Dense(inputs, outputs, False)).double()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_((1 + tower + number) * noise(*parameter.shape))
    return layer


def in_one_process(maps: list[Tensor], layers: list[list[Cross]]) -> list[Tensor]:
    """Compute both towers in one process: two hidden layers, of which the second gives the logits."""
    for pair in layers:
        maps = [torch.tanh(pair[tower](maps[tower], lambda t=tower, maps=maps: maps[1 - t])) for tower in (0, 1)]
    return maps


SPLIT = (3, 4)  # an odd number of classes


def test_two_linked_towers_are_one_net() -> None:
    """Values, both input gradients and every weight's gradient; the logits' halves differ in width."""
    inputs = [noise(5, 4), noise(5, 4) + 1]
    layers = [[cross(t, 4, 6) for t in (0, 1)], [cross(t, 6, SPLIT[t]) for t in (0, 1)]]
    pull = noise(5, sum(SPLIT))

    def tower(index: int, link: ThreadLink) -> tuple[Tensor, list[Tensor]]:
        leaf = inputs[index].clone().requires_grad_()
        maps = leaf
        for pair in layers:
            maps = torch.tanh(pair[index](maps, exchange(maps, link, "fc")))
        logits = gather(maps, link, index, sum(SPLIT))
        weights = [leaf, *layers[0][index].parameters(), *layers[1][index].parameters()]
        return logits.detach(), list(torch.autograd.grad((logits.square() * pull).sum(), weights))

    results = on_both(tower)
    leaves = [maps.clone().requires_grad_() for maps in inputs]
    expected_logits = torch.cat(in_one_process(leaves, layers), 1)
    for index, (logits, gradients) in enumerate(results):
        torch.testing.assert_close(logits, expected_logits.detach(), rtol=1e-13, atol=1e-13)
        weights = [leaves[index], *layers[0][index].parameters(), *layers[1][index].parameters()]
        expected = torch.autograd.grad((expected_logits.square() * pull).sum(), weights, retain_graph=True)
        for left, right in zip(gradients, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_an_exchange_overlaps_its_own_half() -> None:
    """Sent before the own half is computed; in backward the other's gradient goes before the weights' are computed."""

    def tower(index: int, link: ThreadLink) -> list[str]:
        layer, leaf = cross(index, 4, 3), noise(2, 4).requires_grad_()
        layer.own.register_forward_hook(lambda *_: link.events.append("own half"))
        layer.other.register_forward_hook(lambda *_: link.events.append("other half"))
        layer.own.get_parameter("weight").register_hook(lambda _: link.events.append("own weights' gradient"))  # type: ignore[no-untyped-call]
        layer(leaf, exchange(leaf, link, "fc")).sum().backward()
        return link.events

    assert (
        on_both(tower)
        == [
            ["start", "own half", "wait", "other half", "start", "own weights' gradient", "wait"],
        ]
        * 2
    )


def test_without_gradients_nothing_comes_back() -> None:
    def tower(index: int, link: ThreadLink) -> tuple[list[str], Tensor]:
        with torch.no_grad():
            return link.events, exchange(torch.full((2, 3), float(index)), link, "fc")()

    for index, (events, other) in enumerate(on_both(tower)):
        assert events == ["start", "wait"]
        assert other.equal(torch.full((2, 3), 1.0 - index))


def test_an_exchange_is_waited_for_once() -> None:
    def tower(_index: int, link: ThreadLink) -> None:
        other_maps = exchange(torch.zeros(1, 1), link, "fc")
        other_maps()
        with pytest.raises(AssertionError, match="waited for once"):
            other_maps()

    on_both(tower)


def test_exchanges_keep_the_compute_dtype() -> None:
    def tower(_index: int, link: ThreadLink) -> Tensor:
        return exchange(torch.ones(2, 2, dtype=torch.bfloat16), link, "fc")()

    assert [result.dtype for result in on_both(tower)] == [torch.bfloat16] * 2


def test_gather_puts_tower_0_first_and_sends_nothing_back() -> None:
    def tower(index: int, link: ThreadLink) -> tuple[Tensor, Tensor, list[str]]:
        leaf = torch.full((1, SPLIT[index]), float(index)).requires_grad_()
        logits = gather(leaf, link, index, sum(SPLIT))
        logits.backward(torch.arange(7.0)[None])  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return logits.detach(), leaf.grad, link.events

    for index, (logits, gradient, events) in enumerate(on_both(tower)):
        assert logits.tolist() == [[0.0] * 3 + [1.0] * 4]
        assert gradient.tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0]][index]]
        assert events == ["start", "wait"]
