"""Where Prometheus finds the ranks of a run: the file that lists the addresses of their metrics, grouped by node."""

from __future__ import annotations

import ipaddress
import json
import platform
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.system.files import replace_file

SCHEME = "__scheme__"  # Prometheus's label of a target


@dataclass(frozen=True)
class Target:
    """Where one rank serves its metrics.

    node: the number of its node among the run's. host: the node's name. endpoint: host:port, empty if it serves none.
    is_local: whether only its own node reaches that. scheme: http or https.
    """

    node: int
    host: str
    endpoint: str
    is_local: bool = False
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The URL of the metrics."""
        return f"{self.scheme}://{self.endpoint}/metrics"


def endpoint(address: str, port: int, reached_at: str = "") -> str:
    """Return host:port for a server that listens on an address, with an IPv6 host in brackets, as a URL needs it.

    If it listens on all addresses of this machine, the host is `reached_at`, by default the machine's name.
    """
    host = address
    try:
        if ipaddress.ip_address(address).is_unspecified:
            host = reached_at or platform.node()
    except ValueError:  # a name
        pass
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches a server that listens on an address, a name or a number."""
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
        return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0]).is_loopback  # as the server takes it
    except (OSError, UnicodeError):  # no address: nothing can be served there
        return False


def reachable(targets: Sequence[Target]) -> list[Target]:
    """Return those of a run's targets that one Prometheus can reach: on the first rank's node, all that are served.

    targets: by rank. A loopback address of another node is one of Prometheus's own machine, where another rank may
    listen: it would be scraped twice, under two addresses.
    """
    here = targets[0].node
    return [target for target in targets if target.endpoint and (target.node == here or not target.is_local)]


def unreachable_warning(targets: Sequence[Target], has_password: bool = False) -> str:
    """Return how many ranks of other nodes cannot be scraped, and what to set; empty if all that are served can be."""
    served = [target for target in targets if target.endpoint]
    found = reachable(targets)
    missed = [target for target in served if target not in found]
    if not missed:
        return ""
    hosts = list(dict.fromkeys(target.host for target in missed))
    named = ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
    return (
        f"the metrics of {len(missed)} of {len(targets)} ranks (on {named}) are served on a loopback address, which"
        " Prometheus cannot scrape from another node; set metrics.address=0.0.0.0 on all nodes"
        + ("" if has_password else " (they have no password: set metrics.password_file, or trust the network)")
    )


def write_targets(path: Path, targets: Sequence[Target]) -> None:
    """Write the addresses of the ranks' metrics for Prometheus's file_sd, a group for each node, with its name.

    Over TLS the group also has the scheme, which Prometheus would take from its own configuration. No other labels: the
    ranks expose run, rank, replica and tower themselves. The file is renamed into position
    atomically, from a name that does not end in .json, so that no file_sd pattern matches a half-written file.
    """
    groups: dict[tuple[int, str], list[Target]] = {}
    for target in targets:
        groups.setdefault((target.node, target.scheme), []).append(target)
    listed = [
        {
            "targets": [target.endpoint for target in group],
            "labels": {"node": group[0].host} | ({} if scheme == "http" else {SCHEME: scheme}),
        }
        for (_, scheme), group in groups.items()
    ]
    try:
        replace_file(path, (json.dumps(listed, indent=1) + "\n").encode())
    except OSError as error:
        warn(f"{path} not written, so Prometheus will not find this run: {error.strerror}")


def remove_targets(path: Path) -> None:
    """Remove the file that `write_targets` wrote, if it exists."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        warn(f"{path} not removed, so Prometheus will keep trying to scrape this run: {error.strerror}")


def warn(text: str) -> None:
    """Print a warning: what monitoring lacks never ends a run."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
