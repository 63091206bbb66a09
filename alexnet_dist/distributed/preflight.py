"""Pre-flight: compare versions, nodes, configuration and data through the store before process groups are created.

A group whose ranks do not match hangs, or computes something else. Each rank publishes a record about itself in the
rendezvous' store; every rank reads all of them and reaches the same verdict.
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
from alexnet_dist.process import LaunchInfo, boot_id, host_name

VERDICT_WAIT_S = 5.0  # for which rank 0 keeps the store open after a rejection
VERSIONS = ("torch", "alexnet_dist", "NCCL")
FIXES = {"layout": "topology.layout", "device": "train.device", "backend": "topology.share_device"}


@dataclass(frozen=True)
class RankInfo:
    """What a rank publishes about itself.

    node: equal for the ranks that one torchrun started on one machine. must_match: what must be the same on all ranks,
    by name: versions, layout, device, backend, the configuration, the data.
    """

    rank: int
    host: str
    node: str
    local_ranks: int
    must_match: Mapping[str, str]


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
    return RankInfo(launched.rank, host, node, launched.local_world_size, must_match)


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
                    f" ({left.local_ranks} rank(s)), rank {right.rank} on {right.host} ({right.local_ranks} rank(s));"
                    " the two towers of a replica share a node: start an even --nproc-per-node on each, ranks in order"
                )
                break  # the other replicas that span nodes follow from this one
    return sentences


def _fix(name: str) -> str:
    if name in VERSIONS:
        return "install one version on all nodes"
    if name == "backend":
        return f"set the same {FIXES[name]} on all, with as many devices for each rank on every node"
    return f"set the same {FIXES.get(name, name)} on all"


def check_ranks(own: RankInfo, world_size: int, timeout_s: float) -> Store | None:
    """Compare all ranks through the store; return the store for the process groups, None for a single rank.

    Raises UserError if the ranks do not match, the same on every rank, and RunError if a rank does not arrive in time.
    """
    if world_size == 1:
        return None
    timeout = timedelta(seconds=timeout_s)
    try:
        # World size 1 although it is larger: a rank 0 that serves the store (mostly torchrun's agent does) would wait
        # in here for all others to connect, and could not say afterwards which of them did not.
        store, _, _ = next(rendezvous("env://", own.rank, 1, timeout=timeout))
        records = PrefixStore("preflight", store)
        records.set(f"{own.rank}", json.dumps(asdict(own)))
        ranks = _read_all(records, own.rank, world_size, timeout)
        if sentences := mismatches(ranks):
            _hold_store_open(records, own.rank, range(world_size))
            raise UserError("\n".join(sentences))
    except ValueError as error:  # of the rendezvous, about the environment
        raise UserError(f"{error}; start with torchrun, which sets the rendezvous for the ranks") from None
    except dist.DistNetworkError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {own.rank} cannot reach the others through the rendezvous ({reason}): rank 0 or its node has not"
            " started, or has left; see its output"
        ) from None
    return PrefixStore("groups", store)


def _read_all(records: Store, rank: int, world_size: int, timeout: timedelta) -> list[RankInfo]:
    keys = [f"{number}" for number in range(world_size)]
    try:
        records.wait(keys, timeout)
    except dist.DistStoreError:
        missing = [number for number in range(world_size) if not records.check([keys[number]])]
        _hold_store_open(records, rank, [number for number in range(world_size) if number not in missing])
        raise RunError(
            f"ranks {missing} of {world_size} did not arrive within {timeout.total_seconds():g} s"
            " (topology.timeout_s); see their output, or their nodes', and start again"
        ) from None
    return [RankInfo(**json.loads(record)) for record in records.multi_get(keys)]


def _hold_store_open(records: Store, rank: int, present: Iterable[int]) -> None:
    """Keep rank 0, and the store if rank 0 serves it, until all present ranks have seen the verdict."""
    records.set(f"seen/{rank}", "")
    if rank == 0:
        with suppress(dist.DistError):
            records.wait([f"seen/{number}" for number in present], timedelta(seconds=VERDICT_WAIT_S))
