"""The replay of messages on the strictest device, on records written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from support.message_order import Buffer, Event, Group, Part, Post, Wait, departures, replay


def flat(elements: int) -> Buffer:
    return Buffer((elements,), (1,), "float32")


def exchanged(number: int, rank: int, sent: int = 8, received: int = 8) -> Post:
    """Return a message between ranks 2n and 2n + 1."""
    parts = [Part(verb, rank ^ 1, flat(elements)) for verb, elements in (("send", sent), ("receive", received))]
    return Post(number, "fc6", Group("pair", (rank & ~1, rank | 1)), tuple(parts))


FLAT = flat(8)


def summed(number: int, rank: int, buffer: Buffer = FLAT, verb: str = "sum", root: int | None = None) -> Post:
    """Return a message of ranks n and n + 2."""
    return Post(number, verb, Group("data-parallel", (rank % 2, rank % 2 + 2)), (Part(verb, root, buffer),))


def waiting(*messages: Post) -> list[Event]:
    """Return events in which the messages are posted one after the other, and waited for as they complete."""
    return [event for post in messages for event in (post, Wait(post.number, post.name))]


def test_messages_in_one_order_complete() -> None:
    assert replay([waiting(exchanged(0, rank), summed(1, rank)) for rank in range(4)]) == []
    assert replay([[exchanged(0, rank), summed(1, rank), Wait(1, "sum"), Wait(0, "fc6")] for rank in range(4)]) == []
    assert replay([waiting(exchanged(0, 0, 4, 2)), waiting(exchanged(0, 1, 2, 4))]) == []


def in_flight(*messages: Post) -> list[Event]:
    """Return events in which the messages are posted one after the other, and never waited for."""
    return list(messages)


@pytest.mark.parametrize("order", [waiting, in_flight])
def test_ranks_that_wait_for_each_other_in_a_circle_stall(order: Callable[..., list[Event]]) -> None:
    records = [
        order(exchanged(0, rank), summed(1, rank)) if rank in (1, 2) else order(summed(1, rank), exchanged(0, rank))
        for rank in range(4)
    ]
    problems = replay(records)
    assert len(problems) == 4
    assert problems[0] == (
        "rank 0 is in message 1 (sum: sum, data-parallel group of ranks 0, 2) and waits for"
        " rank 2, which is in message 0 (fc6: send and receive, pair group of ranks 2, 3)"
    )


def test_a_rank_that_has_not_posted_is_named() -> None:
    exchange, unposted = waiting(exchanged(0, 0)), Wait(0, "fc6")
    waits = "rank 0 is in message 0 (fc6: send and receive, pair group of ranks 0, 1) and waits for rank 1, which"
    at_wait = "is at the wait for message 0 (fc6), which it has not posted"
    assert replay([exchange, []]) == [f"{waits} has ended"]
    assert replay([exchange, [unposted]]) == [f"{waits} {at_wait}", f"rank 1 {at_wait}"]


@pytest.mark.parametrize(
    ("own", "other", "difference"),
    [
        (exchanged(0, 0, 4, 2), exchanged(0, 1, 4, 2), "size, from rank 0 to rank 1"),
        (summed(0, 0), summed(0, 2, flat(9)), "size, sum"),
        (summed(0, 0), summed(0, 2, replace(FLAT, dtype="float64")), "dtype, sum"),
        (summed(0, 0), summed(0, 2, replace(FLAT, strides=(2,))), "memory order, sum"),
        (summed(0, 0), summed(0, 2, FLAT, "broadcast", 0), "the operation: sum; broadcast from rank 0"),
        (
            summed(0, 0, FLAT, "broadcast", 0),
            summed(0, 2, FLAT, "broadcast", 2),
            "the operation: broadcast from rank 0; broadcast from rank 2",
        ),
    ],
)
def test_partners_that_differ_are_named(own: Post, other: Post, difference: str) -> None:
    records: list[list[Event]] = [[], [], []]
    records[own.group.ranks[0]], records[own.group.ranks[1]] = [own], [other]
    problems = replay(records)
    assert any(f"differ in {difference}" in problem for problem in problems), problems


def test_ranks_that_leave_the_order_of_rank_0_are_named() -> None:
    orders = [waiting(exchanged(0, 0), summed(1, 0)), waiting(exchanged(0, 1), summed(1, 1), summed(2, 1))]
    orders.append(waiting(summed(0, 2), exchanged(1, 2)))
    assert [problem.partition(" (")[0] for problem in departures(orders)] == [
        "rank 1 has message 2", "rank 2 has message 0",
    ]  # fmt: skip
