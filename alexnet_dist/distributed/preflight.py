"""Pre-flight: compare versions, nodes, configuration and data through the store before process groups are created.

A group whose ranks do not match hangs, or computes something else. Each rank leaves a record about itself in the room
of its attempt (`room`); rank 0 judges all of them, and every rank receives its verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

import alexnet_dist
from alexnet_dist.distributed.address import own_interface
from alexnet_dist.distributed.network import Node, leave_nodes
from alexnet_dist.distributed.room import admit_ranks, enter_room
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.environment import LaunchInfo, chosen_interface, rendezvous_address
from alexnet_dist.system.resources import boot_id, host_name
from alexnet_dist.system.wording import counted

VERSIONS = ("torch", "alexnet_dist", "NCCL")
FIXES = {"layout": "topology.layout", "device": "train.device", "backend": "topology.share_device"}


@dataclass(frozen=True)
class RankInfo:
    """What a rank publishes about itself.

    node: equal for the ranks that one torchrun started on one machine. must_match: what must be the same on all ranks,
    by name: versions, layout, device, backend, the configuration, the data. address: by which other nodes may reach its
    node, from `own_interface`. problem: why there is none.
    """

    rank: int
    host: str
    node: str
    local_ranks: int
    must_match: Mapping[str, str]
    local_rank: int = 0
    address: str = ""
    problem: str = ""


def rank_info(launched: LaunchInfo, layout: str, device: str, backend: str, settings: Mapping[str, str]) -> RankInfo:
    """Return the record of this process.

    device: "cpu" or "cuda". settings: what else must match, by name, as training.inputs.must_match returns it.
    """
    must_match = {"torch": torch.__version__, "alexnet_dist": alexnet_dist.__version__}
    if device == "cuda":
        must_match["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    must_match |= {"layout": layout, "device": device, "backend": backend, **settings}
    host = host_name()
    node = f"{host} {boot_id()} {launched.node_rank}"
    return RankInfo(launched.rank, host, node, launched.local_world_size, must_match, launched.local_rank)


def mismatches(ranks: Sequence[RankInfo]) -> list[str]:
    """Return what prevents the ranks, given in order, from training together: one sentence each, with the fix."""
    sentences = []
    for name in dict.fromkeys(name for rank in ranks for name in rank.must_match):
        ranks_by_value: dict[str, list[int]] = {}
        for rank in ranks:
            ranks_by_value.setdefault(rank.must_match.get(name, "none"), []).append(rank.rank)
        if len(ranks_by_value) > 1:
            values = ", ".join(f"{value} on ranks {numbers}" for value, numbers in ranks_by_value.items())
            sentences.append(f"the ranks differ in {name}: {values}; {_fix(name)}")
    if all(rank.must_match.get("layout") == "paired" for rank in ranks):
        for left, right in zip(ranks[::2], ranks[1::2], strict=True):
            if left.node != right.node:
                sentences.append(
                    f"replica {left.rank // 2} would span nodes: rank {left.rank} is on {left.host}"
                    f" ({counted(left.local_ranks, 'rank')}), rank {right.rank} on {right.host}"
                    f" ({counted(right.local_ranks, 'rank')});"
                    " the two towers of a replica share a node: start an even --nproc-per-node on each, ranks in order"
                )
                break  # the other replicas that span nodes follow from this one
    return sentences + list(dict.fromkeys(_problems(ranks)))


def _problems(ranks: Sequence[RankInfo]) -> Iterator[str]:
    """Yield what is wrong with single nodes, once for each rank."""
    sizes = Counter(rank.node for rank in ranks)
    for rank in ranks:
        if rank.problem:
            yield f"{rank.host}: {rank.problem}"
        if sizes[rank.node] != rank.local_ranks:
            yield (
                f"{rank.host} has {counted(sizes[rank.node], 'rank')}, but LOCAL_WORLD_SIZE={rank.local_ranks} there;"
                " start with torchrun, which sets it"
            )


def _fix(name: str) -> str:
    if name in VERSIONS:
        return "install one version on all nodes"
    if name == "backend":
        return f"set the same {FIXES[name]} on all, with as many devices for each rank on every node"
    return f"set the same {FIXES.get(name, name)} on all"


def check_ranks(own: RankInfo, world_size: int, timeout_s: float) -> Store | None:
    """Compare all ranks through the store; return the room that they share, None for a single rank.

    Raises UserError if the ranks do not match, the same on every rank, and RunError if a rank does not arrive in time.
    """
    if world_size == 1:
        return None
    try:
        # World size 1 although it is larger: a rank 0 that serves the store would wait in here for all others to
        # connect, and could not say afterwards which of them did not.
        store, _, _ = next(rendezvous("env://", own.rank, 1, timeout=timedelta(seconds=timeout_s)))
        own = _with_address(own, world_size)
        if own.rank == 0:
            return admit_ranks(store, world_size, timeout_s, partial(_judge, own))
        settings = json.dumps(own.must_match)
        return enter_room(
            store, own.rank, _record(own), timeout_s, lambda room: room.set(f"settings/{own.rank}", settings)
        )
    except ValueError as error:  # of the rendezvous, about the environment
        raise UserError(f"{error}; start with torchrun, which sets the rendezvous for the ranks") from None
    except dist.DistNetworkError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {own.rank} cannot reach the others through the rendezvous ({reason}): rank 0 or its node has not"
            " started, or has left; see its output"
        ) from None


def _with_address(own: RankInfo, world_size: int) -> RankInfo:
    """Return a rank's record with its address, or why it has none, which rank 0 then reports to all."""
    try:
        interface = own_interface(own.local_ranks < world_size, chosen_interface(), *rendezvous_address())
    except UserError as error:
        return replace(own, problem=str(error))
    return replace(own, address=interface.address)


def _record(info: RankInfo) -> str:
    """Return a rank's record as JSON, with a hash of what must match in its place: few ranks' settings are fetched."""
    return json.dumps({**asdict(info), "must_match": _digest(info.must_match)})


def _digest(must_match: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(must_match, sort_keys=True).encode()).hexdigest()


def _judge(own: RankInfo, room: Store, records: Sequence[str]) -> str:
    """Return the mismatches between rank 0 and the others, a line each, and leave the nodes in the room.

    Settings are fetched where hashes differ.
    """
    digest, ranks = _digest(own.must_match), [own]
    for record in records:
        fields = json.loads(record)
        same = fields.pop("must_match") == digest
        must_match = own.must_match if same else json.loads(room.get(f"settings/{fields['rank']}"))
        ranks.append(RankInfo(**fields, must_match=must_match))
    leave_nodes(
        room, [Node(info.rank, info.local_ranks, info.host, info.address) for info in ranks if info.local_rank == 0]
    )
    return "\n".join(mismatches(ranks))
