"""The first words between ranks, before any process group exists: who is here, on which node, with what.

A group whose ranks do not fit together hangs, or computes something else. What one rank cannot see alone is told
through the rendezvous' store, and every rank comes to the same verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

import alexnet_dist
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.process import Launched, boot_id, host_name

LAST_WORDS_S = 5.0
VERSIONS = ("torch", "alexnet_dist", "NCCL")
FIXES = {"layout": "topology.layout", "device": "train.device", "backend": "topology.share_device"}


@dataclass(frozen=True)
class RankInfo:
    """What a rank says of itself.

    node: equal for the ranks that one torchrun started on one machine. alike: what must be the same on all ranks, by
    name: versions, how towers lie on devices, the configuration, the data.
    """

    rank: int
    host: str
    node: str
    local_ranks: int
    alike: Mapping[str, str]


def mine(launched: Launched, layout: str, device: str, backend: str, settings: Mapping[str, str]) -> RankInfo:
    """Return what this process says; device: "cpu" or "cuda". settings: what else must be alike, as opening.alike."""
    alike = {"torch": torch.__version__, "alexnet_dist": alexnet_dist.__version__}
    if device == "cuda":
        alike["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    alike |= {"layout": layout, "device": device, "backend": backend, **settings}
    host = host_name()
    node = f"{host} {boot_id()} {launched.node_rank}"
    return RankInfo(launched.rank, host, node, launched.local_world_size, alike)


def disagreements(hellos: Sequence[RankInfo]) -> list[str]:
    """Return what keeps the ranks, in their order, from training together: a sentence each with what to do."""
    found = []
    for name in dict.fromkeys(name for one in hellos for name in one.alike):
        ranks: dict[str, list[int]] = {}
        for one in hellos:
            ranks.setdefault(one.alike.get(name, "none"), []).append(one.rank)
        if len(ranks) > 1:
            each = ", ".join(f"{value} on ranks {who}" for value, who in ranks.items())
            found.append(f"the ranks differ in {name}: {each}; {_fix(name)}")
    if all(one.alike.get("layout") == "paired" for one in hellos):
        for left, right in zip(hellos[::2], hellos[1::2], strict=True):
            if left.node != right.node:
                found.append(
                    f"replica {left.rank // 2} would span nodes: rank {left.rank} is on {left.host}"
                    f" ({left.local_ranks} rank(s)), rank {right.rank} on {right.host} ({right.local_ranks} rank(s));"
                    " the two towers of a replica share a node: start an even --nproc-per-node on each, ranks in order"
                )
                break  # the others follow from it
    return found


def _fix(name: str) -> str:
    if name in VERSIONS:
        return "install one version on all nodes"
    if name == "backend":
        return f"give all the same {FIXES[name]}, and as many devices for each rank on all nodes"
    return f"give all the same {FIXES.get(name, name)}"


def meet(own: RankInfo, world_size: int, timeout_s: float) -> Store | None:
    """Exchange hellos with all ranks; return the store in which the process groups meet, None for a single rank.

    Raises UserError for ranks that do not fit together, the same on every rank, and RunError where one has not come.
    """
    if world_size == 1:
        return None
    timeout = timedelta(seconds=timeout_s)
    try:
        # A world size of 1, although it is larger: where rank 0 serves the store (torchrun's agent mostly does), it
        # would wait in here for as many to connect and could not tell afterwards which of them did not.
        store, _, _ = next(rendezvous("env://", own.rank, 1, timeout=timeout))
        words = PrefixStore("hello", store)
        words.set(f"{own.rank}", json.dumps(asdict(own)))
        hellos = _hear(words, own.rank, world_size, timeout)
        if found := disagreements(hellos):
            _leave_last(words, own.rank, range(world_size))
            raise UserError("\n".join(found))
    except ValueError as problem:  # of the rendezvous, about the environment
        raise UserError(f"{problem}; start by torchrun, which tells the ranks where they meet") from None
    except dist.DistNetworkError as problem:
        reason = str(problem).splitlines()[0]
        raise RunError(
            f"rank {own.rank} cannot reach the others through the rendezvous ({reason}): rank 0 or its node has not"
            " come, or has left; see what it said"
        ) from None
    return PrefixStore("groups", store)


def _hear(words: Store, rank: int, world_size: int, timeout: timedelta) -> list[RankInfo]:
    keys = [f"{one}" for one in range(world_size)]
    try:
        words.wait(keys, timeout)
    except dist.DistStoreError:
        missing = [one for one in range(world_size) if not words.check([keys[one]])]
        _leave_last(words, rank, [one for one in range(world_size) if one not in missing])
        raise RunError(
            f"ranks {missing} of {world_size} have not come within {timeout.total_seconds():g} s (topology.timeout_s);"
            " see what they or their nodes said, and start again"
        ) from None
    return [RankInfo(**json.loads(word)) for word in words.multi_get(keys)]


def _leave_last(words: Store, rank: int, present: Iterable[int]) -> None:
    """Keep rank 0, and the store if it serves it, until all who are present have seen what is wrong."""
    words.set(f"seen/{rank}", "")
    if rank == 0:
        with suppress(dist.DistError):
            words.wait([f"seen/{one}" for one in present], timedelta(seconds=LAST_WORDS_S))
