"""Recorded messages, replayed on the strictest device, which runs one communication kernel at a time.

A rank's host posts messages and waits for them. Its device queues the kernels in the order of the posts and runs the
first one, which is complete when the first kernels of all ranks of its group are of this group. What completes here
needs neither two kernels side by side nor another order than the hosts'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, zip_longest
from math import prod


@dataclass(frozen=True)
class Buffer:
    """What one end of a message reads or writes: dims, their strides in elements, and the dtype's name."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def __str__(self) -> str:
        return f"{self.elements} x {self.dtype} as {self.shape} with strides {self.strides}"


@dataclass(frozen=True)
class Group:
    """A communicator, and thus all of its ranks."""

    name: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} group of {_ranks(self.ranks)}"


@dataclass(frozen=True)
class Part:
    """One operation of a message: "send" or "receive", or the collective's name.

    peer: the rank at the other end, or the one that a broadcast starts from; None for a sum.
    """

    verb: str
    peer: int | None
    buffer: Buffer


@dataclass(frozen=True)
class Post:
    """A message as one rank posts it: a point-to-point batch, or a collective of one part.

    number: by which the rank waits for it. name: of the join, or of the collective.
    """

    number: int
    name: str
    group: Group
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        verbs = " and ".join(part.verb for part in self.parts)
        return f"message {self.number} ({self.name}: {verbs}, {self.group})"


@dataclass(frozen=True)
class Wait:
    """A wait for the message of this number."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"the wait for message {self.number} ({self.name})"


Event = Post | Wait
Records = Sequence[Sequence[Event]]  # by rank, in the host's order


class _Rank:
    """A rank in the replay: what its host has still to do, and what its device has still to run."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events, self.queue = deque(events), deque[Post]()
        self._complete: set[int] = set()

    def advance(self) -> None:
        """Let the host go on to its first wait for a message that is not complete."""
        while self.events:
            event = self.events[0]
            if isinstance(event, Post):
                self.queue.append(event)
            elif event.number not in self._complete:
                return
            self.events.popleft()

    def complete(self) -> None:
        """End the resident kernel."""
        self._complete.add(self.queue.popleft().number)

    def __str__(self) -> str:
        if self.queue:
            return f"is in {self.queue[0]}"
        return f"is at {self.events[0]}, which it has not posted" if self.events else "has ended"


def replay(records: Records) -> list[str]:
    """Return why the messages of all ranks do not complete: the first partners that differ, or who waits for whom."""
    ranks = [_Rank(events) for events in records]
    while True:
        for rank in ranks:
            rank.advance()
        resident = {number: rank.queue[0] for number, rank in enumerate(ranks) if rank.queue}
        group = next((post.group for post in resident.values() if not _missing(post.group, resident)), None)
        if group is None:
            return _stalls(ranks, resident)
        if problems := _differences({member: resident[member] for member in group.ranks}):
            return problems
        for member in group.ranks:
            ranks[member].complete()


def departures(records: Records) -> list[str]:
    """Return where ranks leave rank 0's order of posts and waits; equal ones in a row count as one.

    Towers of different sizes have different numbers of sums.
    """
    problems = []
    expected = _rows(records[0])
    for rank, events in enumerate(records[1:], start=1):
        for one, other in zip_longest(expected, _rows(events)):
            if one is None or other is None or _kind(one) != _kind(other):
                problems.append(f"rank {rank} has {other or 'ended'} where rank 0 has {one or 'ended'}")
                break
    return problems


def _rows(events: Sequence[Event]) -> list[Event]:
    """Return the first event of each row of equal ones."""
    return [next(row) for _, row in groupby(events, _kind)]


def _kind(event: Event) -> tuple[str, ...]:
    """Return what is the same for an event in all ranks."""
    if isinstance(event, Wait):
        return (event.name,)
    return (event.name, event.group.name, *(part.verb for part in event.parts))


def _missing(group: Group, resident: Mapping[int, Post]) -> list[int]:
    """Return the ranks of a group whose resident kernel is not of this group."""
    return [rank for rank in group.ranks if rank not in resident or resident[rank].group != group]


def _stalls(ranks: Sequence[_Rank], resident: Mapping[int, Post]) -> list[str]:
    problems = []
    for number, rank in enumerate(ranks):
        if number in resident:
            missing = _missing(resident[number].group, resident)
            others = ", ".join(f"rank {other}, which {ranks[other]}" for other in missing)
            problems.append(f"rank {number} {rank} and waits for {others}")
        elif rank.events:
            problems.append(f"rank {number} {rank}")
    return problems


def _differences(posts: Mapping[int, Post]) -> list[str]:
    """Return in what the two ends of each part of a message differ."""
    problems = []
    for (first, own), (second, other) in combinations(posts.items(), 2):
        for one, two in zip_longest(_parts_between(first, own, second), _parts_between(second, other, first)):
            where = f"rank {first} in {own} and rank {second} in {other}"
            if one is None or two is None or one[0] != two[0]:
                ends = [end[0] if end else "nothing more" for end in (one, two)]
                problems.append(f"{where} differ in the operation: {ends[0]}; {ends[1]}")
            elif one[1] != two[1]:
                problems.append(f"{where} differ in {_aspect(one[1], two[1])}, {one[0]}: {one[1]}; {two[1]}")
    return problems


def _parts_between(rank: int, post: Post, other: int) -> list[tuple[str, Buffer]]:
    """Return the parts of a rank's message that concern another one, as both ends name them, sorted by that name."""
    routes = {
        "send": f"from rank {rank} to rank {other}",
        "receive": f"from rank {other} to rank {rank}",
    }
    parts = [
        (routes.get(part.verb) or _collective(part), part.buffer)
        for part in post.parts
        if part.verb not in routes or part.peer == other
    ]
    return sorted(parts, key=lambda part: part[0])


def _collective(part: Part) -> str:
    return part.verb if part.peer is None else f"{part.verb} from rank {part.peer}"


def _aspect(one: Buffer, two: Buffer) -> str:
    if one.dtype != two.dtype:
        return "dtype"
    return "size" if one.elements != two.elements else "memory order"


def _ranks(ranks: Sequence[int]) -> str:
    return f"ranks {', '.join(map(str, ranks))}"
