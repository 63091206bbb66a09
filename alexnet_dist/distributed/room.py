"""The room: a part of the rendezvous' store that only the ranks of one attempt share.

torchrun restarts failed ranks with the same store, in which the keys of the previous attempt remain, such as the
addresses of dead ranks. Rank 0 of each attempt therefore opens a room under a random name. Every other rank leaves its
record there with a random token, and is admitted by a verdict that repeats its token: a room of a dead attempt never
repeats it. Rank 0 alone reads all records, so what crosses the store grows with the number of ranks, not its square.
No rank polls: it waits for the key DECIDED of the room, and, if that room is of a dead attempt, for REPLACED.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from alexnet_dist.errors import RunError, UserError

ROOM = "alexnet_dist/room"  # the key under which the name of the current room stands
DECIDED, REPLACED = "decided", "replaced"  # keys of a room: its verdicts are written; another room has been opened
VERDICT_WAIT_S = 5.0  # for which rank 0 keeps the store open after a rejection


@dataclass(frozen=True)
class Verdict:
    """What rank 0 decided: user_error and run_error are sentences, empty if all ranks are admitted."""

    token: str = ""
    user_error: str = ""
    run_error: str = ""

    def enforce(self) -> None:
        """Raise UserError or RunError for a rejection."""
        if self.user_error:
            raise UserError(self.user_error)
        if self.run_error:
            raise RunError(self.run_error)


def _room(name: str, store: Store) -> Store:
    return PrefixStore(f"alexnet_dist/{name}", store)


def admit_ranks(store: Store, world_size: int, timeout_s: float, judge: Callable[[Store, Sequence[str]], str]) -> Store:
    """Open a room on rank 0, wait for all records, judge them and send every present rank the verdict.

    judge: takes the room and the records of ranks 1, 2, ...; returns why they cannot train together, or nothing.
    Returns the room. Raises UserError with the judgement, and RunError naming the ranks that did not arrive.
    """
    name = uuid.uuid4().hex
    room = _room(name, store)
    earlier = store.get(ROOM).decode() if store.check([ROOM]) else ""
    store.set(ROOM, name)
    if earlier:
        for key in (REPLACED, DECIDED):
            _room(earlier, store).set(key, "")
    entries = _collect(room, world_size, timeout_s)
    missing = [rank for rank in range(1, world_size) if rank not in entries]
    if missing:
        verdict = Verdict(
            run_error=f"ranks {missing} of {world_size} did not arrive within {timeout_s:g} s (topology.timeout_s);"
            " see their output, or their nodes', and start again"
        )
    else:
        verdict = Verdict(user_error=judge(room, [entries[rank]["record"] for rank in range(1, world_size)]))
    for rank, entry in entries.items():
        room.set(f"verdict/{rank}", json.dumps(asdict(verdict) | {"token": entry["token"]}))
    room.set(DECIDED, "")
    if verdict.user_error or verdict.run_error:
        with suppress(dist.DistError):  # rank 0 may serve the store: it ends with rank 0
            room.wait([f"seen/{rank}" for rank in entries], timedelta(seconds=VERDICT_WAIT_S))
    verdict.enforce()
    return room


def _collect(room: Store, world_size: int, timeout_s: float) -> dict[int, dict[str, str]]:
    """Return the entries of the ranks that arrive in time."""
    end_s = time.monotonic() + timeout_s
    entries: dict[int, dict[str, str]] = {}
    for rank in range(1, world_size):
        key = f"record/{rank}"
        with suppress(dist.DistStoreError):
            remaining_s = end_s - time.monotonic()
            if remaining_s > 0:
                room.wait([key], timedelta(seconds=remaining_s))
        if room.check([key]):
            entries[rank] = json.loads(room.get(key))
    return entries


def enter_room(store: Store, rank: int, record: str, timeout_s: float, prepare: Callable[[Store], None]) -> Store:
    """Leave a record in the room of this attempt and wait for rank 0's verdict; return the room.

    prepare: called with each room before the record is left in it. Raises UserError and RunError as rank 0 does, and
    RunError if rank 0 does not open a room in time, or is lost while it decides.
    """
    token = uuid.uuid4().hex
    wait_s = timeout_s
    try:
        while True:
            store.wait([ROOM], timedelta(seconds=wait_s))
            name = store.get(ROOM).decode()
            room = _room(name, store)
            prepare(room)
            room.set(f"record/{rank}", json.dumps({"token": token, "record": record}))
            wait_s = timeout_s + VERDICT_WAIT_S  # rank 0 itself waits for timeout_s from now on
            room.wait([DECIDED], timedelta(seconds=wait_s))
            if room.check([f"verdict/{rank}"]):
                verdict = Verdict(**json.loads(room.get(f"verdict/{rank}")))
                if verdict.token == token:
                    if verdict.user_error or verdict.run_error:
                        room.set(f"seen/{rank}", "")
                    verdict.enforce()
                    return room
            room.wait([REPLACED], timedelta(seconds=wait_s))
    except dist.DistStoreError:
        raise RunError(
            f"rank {rank}: rank 0 did not arrive within {timeout_s:g} s (topology.timeout_s); see its output, or its"
            " node's, and start again"
        ) from None
