"""Addresses: which of this node's addresses another one is reached from."""

from __future__ import annotations

import ipaddress
import socket


def source_address(host: str, port: int) -> str | None:
    """Return the address of this node from which packets to a host leave, None if the host is not reachable.

    A connected UDP socket shows it; nothing is sent.
    """
    try:
        for family, kind, protocol, _, target in socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
    except OSError:
        pass
    return None


def is_loopback(address: str) -> bool:
    """Return whether an address is seen by its own node only."""
    return ipaddress.ip_address(address).is_loopback


def is_own_address(host: str) -> bool:
    """Return whether a host name or address is one of this node's: only those can be bound."""
    try:
        for family, kind, protocol, _, target in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(target)
                return True
    except OSError:
        pass
    return False


def resolves(host: str) -> bool:
    """Return whether a host name has an address here."""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
