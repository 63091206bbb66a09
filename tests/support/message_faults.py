"""Faults of one rank in recorded messages: posts in each other's place, a post that is left out, another buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from support.message_order import Buffer, Event, Post, Records


def posts(events: Sequence[Event], name: str = "") -> list[Post]:
    """Return the messages of a name, or all."""
    return [event for event in events if isinstance(event, Post) and name in ("", event.name)]


def position(events: Sequence[Event], name: str, number: int = 0) -> int:
    return events.index(posts(events, name)[number])


def swapped(records: Records, rank: int, one: tuple[str, int], other: tuple[str, int]) -> Records:
    """Let a rank post two messages, given by name and number, in each other's place."""
    events = list(records[rank])
    first, second = position(events, *one), position(events, *other)
    for here, there in ((first, second), (second, first)):
        own, moved = records[rank][here], records[rank][there]
        assert isinstance(own, Post)
        assert isinstance(moved, Post)
        events[here] = replace(moved, number=own.number)
    return [*records[:rank], events, *records[rank + 1 :]]


def skipped(records: Records, rank: int, name: str, number: int = 0, waits: bool = False) -> Records:
    """Let a rank leave out a message, given by name and number; waits: for it, all the same."""
    post = posts(records[rank], name)[number]
    events = [event for event in records[rank] if event.number != post.number or (waits and event is not post)]
    return [*records[:rank], events, *records[rank + 1 :]]


def reshaped(records: Records, rank: int, name: str, part: int, change: Callable[[Buffer], Buffer]) -> Records:
    """Let a rank read or write one part of its first message of a name in another buffer."""
    events = list(records[rank])
    post = posts(events, name)[0]
    parts = list(post.parts)
    parts[part] = replace(parts[part], buffer=change(parts[part].buffer))
    events[position(events, name)] = replace(post, parts=tuple(parts))
    return [*records[:rank], events, *records[rank + 1 :]]
