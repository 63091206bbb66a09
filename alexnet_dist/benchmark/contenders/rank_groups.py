"""What the contenders of several ranks share: their topology and process groups, and gathering their figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import Groups, close_groups, open_groups
from alexnet_dist.distributed.topology import Topology, resolve_topology
from alexnet_dist.system import environment

GROUPS_TIMEOUT_S = 300.0


@contextmanager
def paired_ranks(device: str) -> Iterator[tuple[Topology, Groups]]:
    """Open the process groups of this rank, one tower of a pair, and close them at the end."""
    topology = resolve_topology("paired", device, environment.launch_info())
    groups = open_groups(topology, GROUPS_TIMEOUT_S)
    try:
        yield topology, groups
    finally:
        close_groups()


def gather(groups: Groups, value: object) -> list[Any]:
    """Return every rank's value, by rank; a value is anything that JSON can represent."""
    return [json.loads(text) for text in Control(groups.world).gather(json.dumps(value))]
