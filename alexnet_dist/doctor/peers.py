"""The other ranks: whether they match, reach each other, and have the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from alexnet_dist.distributed import network, preflight
from alexnet_dist.distributed.clocks import clock_offsets_s
from alexnet_dist.distributed.groups import Groups, open_groups
from alexnet_dist.doctor.findings import Finding, failed
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.inputs import must_match

ARRIVAL_S = 30.0  # for which ranks wait for each other; a run waits for topology.timeout_s
OFF_S, FAR_OFF_S = 1.0, 5.0


def connect(run: RunContext) -> tuple[Groups | None, list[Finding]]:
    """Compare this rank with all others, check the network and the clocks, and build the process groups.

    None for the groups, and a finding that says so, if that is not possible.
    """
    topology, launched = run.topology, run.launched
    if topology.world_size == 1:
        one = Finding("ranks", "ok", "one rank; start this with torchrun to examine several")
        return open_groups(topology, ARRIVAL_S), [one]
    findings, check = [], "ranks"
    own = preflight.rank_info(launched, topology.layout, topology.device.type, topology.backend, must_match(run))
    try:
        room = preflight.check_ranks(own, topology.world_size, ARRIVAL_S)
        assert room is not None
        nodes = "several nodes" if launched.spans_nodes else "one node"
        matching = f"{topology.world_size} on {nodes}; same versions, configuration and data"
        findings.append(Finding("ranks", "ok", matching))
        check = "network"
        lines = network.use_network(room, launched, ARRIVAL_S)
        if launched.spans_nodes:
            if topology.is_rank0:
                findings.append(Finding("network", "ok", f"all nodes connect to each other: {'; '.join(lines)}"))
            firsts = [node.first_rank for node in network.nodes_of(room, ARRIVAL_S) if node.first_rank]
            offsets = clock_offsets_s(room, launched, firsts, ARRIVAL_S)
            findings += [clock_finding(offsets)] if topology.is_rank0 else []
        return open_groups(topology, run.config.topology.timeout_s, room), findings
    except (UserError, RunError) as error:
        found = failed(check, error)
        return None, [*findings, replace(found, found=found.found.replace(" (topology.timeout_s)", ""))]


def clock_finding(offsets: Mapping[int, float]) -> Finding:
    """Judge how far the clocks of the nodes, by their first ranks, are ahead of rank 0's, in seconds."""
    off = {rank: offset for rank, offset in offsets.items() if abs(offset) > OFF_S}
    if not off:
        worst = max((abs(offset) for offset in offsets.values()), default=0.0)
        return Finding("clocks", "ok", f"at most {worst:.2f} s apart")
    named = ", ".join(
        f"that of rank {rank} is {abs(by):.1f} s {'ahead' if by > 0 else 'behind'}" for rank, by in off.items()
    )
    far = max(map(abs, off.values())) > FAR_OFF_S
    return Finding(
        "clocks",
        "fail" if far else "warn",
        f"compared with rank 0's, {named}",
        "set the clocks by NTP (chrony, systemd-timesyncd): torchrun takes a node whose time is off for lost, and the"
        " logs of different nodes cannot be compared",
    )
