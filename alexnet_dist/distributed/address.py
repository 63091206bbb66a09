"""The interface and the address by which this node reaches the others.

Left alone, gloo takes the address to which the host name resolves, and loopback if there is none: ranks on several
nodes then never connect. The address by which a rank reaches the rendezvous is one by which others can reach the rank.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.errors import UserError

SIOCGIFCONF = 0x8912  # lists the IPv4 addresses of all interfaces that are up
IFREQ_BYTES, NAME_BYTES, IPV4 = 40, 16, slice(20, 24)  # struct ifreq with a sockaddr_in, on 64-bit Linux
INTERFACES_V6 = Path("/proc/net/if_inet6")
LINK_SCOPE = 0x20  # of an IPv6 address that means nothing without its interface
LOOPBACK = "127.0.0.1"
FIX = "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface that connects the nodes"


@dataclass(frozen=True)
class Interface:
    """One address of one network interface of this node."""

    name: str
    address: str


def own_interface(spans_nodes: bool, chosen: str, host: str, port: int) -> Interface:
    """Return the interface for this rank's process groups, with the address that gloo takes of it.

    spans_nodes: whether the run has ranks on other nodes; loopback serves a single one. chosen: GLOO_SOCKET_IFNAME, or
    empty. host, port: of the rendezvous. Nothing is sent. Raises UserError if there is no such interface.
    """
    interfaces = local_interfaces()
    found = ", ".join(f"{interface.name} ({interface.address})" for interface in interfaces)
    if chosen:
        name = chosen.split(",")[0]
        address = first_address(name, interfaces)
        if address is None:
            raise UserError(f"environment: GLOO_SOCKET_IFNAME={chosen}; expected an interface that is up: {found}")
        return Interface(name, address)
    address = LOOPBACK
    if spans_nodes:
        try:
            address = address_towards(host, port)
        except OSError as error:
            raise UserError(f"no route to the rendezvous at {host}:{port}: {error.strerror or error}; {FIX}") from None
    interface = interface_of(address, interfaces)
    if interface is None:
        raise UserError(f"no interface has this node's address {address}, only {found}; {FIX}")
    return interface


def reach_node(own: Interface, addresses: Iterable[str], host: str) -> Interface:
    """Return the interface by which this node reaches another one, for a node that reaches the rendezvous by loopback.

    addresses: of the other nodes; where all reach it by loopback, all are on one machine. host: of the rendezvous.
    Raises UserError if none of them can be reached.
    """
    interfaces = local_interfaces()
    remote = [address for address in addresses if not is_loopback(address)]
    if not remote:
        return own
    for address in remote:
        try:
            interface = interface_of(address_towards(address, 9), interfaces)
        except OSError:
            continue
        if interface is not None and not is_loopback(interface.address):
            return interface
    raise UserError(
        f"it reaches the rendezvous at {host} by {own.address}, which other nodes cannot reach; {FIX}, or give torchrun"
        " on all nodes an address of the rendezvous that they can reach: --master-addr, or --rdzv-endpoint"
    )


def address_towards(host: str, port: int) -> str:
    """Return this machine's address in connections to a host, a name or an address; raises OSError without a route."""
    problem = OSError(f"{host} has no address")
    for family, kind, protocol, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # a datagram socket sends nothing: the kernel only chooses the route
                return str(ipaddress.ip_address(probe.getsockname()[0]))
        except OSError as error:
            problem = error
    raise problem


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches an address."""
    return ipaddress.ip_address(address).is_loopback


def is_own_address(host: str) -> bool:
    """Return whether a host name or address is one of this machine's: only those can be bound."""
    with suppress(OSError):
        for family, kind, protocol, _, target in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(target)
                return True
    return False


def resolves(host: str) -> bool:
    """Return whether a host name has an address here."""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def interface_of(address: str, interfaces: Sequence[Interface]) -> Interface | None:
    """Return the interface that has an address, with its first address, which gloo takes; None if no one has it."""
    names = [interface.name for interface in interfaces if interface.address == address]
    # Every 127.x.y.z is loopback's, which lists the first one only.
    if not names and is_loopback(address):
        names = [interface.name for interface in interfaces if is_loopback(interface.address)]
    first = first_address(names[0], interfaces) if names else None
    return None if first is None else Interface(names[0], first)


def first_address(name: str, interfaces: Sequence[Interface]) -> str | None:
    """Return an interface's first address, which gloo takes; None if it has none."""
    return next((interface.address for interface in interfaces if interface.name == name), None)


def local_interfaces() -> list[Interface]:
    """Return the addresses of this machine's interfaces, in the order in which gloo looks through them."""
    ipv6 = INTERFACES_V6.read_text() if INTERFACES_V6.exists() else ""
    return parse_ifconf(_ifconf()) + parse_if_inet6(ipv6)


def _ifconf() -> bytes:
    """Return the kernel's array of struct ifreq."""
    size_bytes = 64 * IFREQ_BYTES
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        while True:
            buffer = array.array("B", bytes(size_bytes))
            request = struct.pack("iP", size_bytes, buffer.buffer_info()[0])
            used_bytes: int = struct.unpack("iP", fcntl.ioctl(any_socket, SIOCGIFCONF, request))[0]
            if used_bytes < size_bytes:
                return buffer.tobytes()[:used_bytes]
            size_bytes *= 2  # it may have been too small


def parse_ifconf(records: bytes) -> list[Interface]:
    """Return the IPv4 addresses in an array of struct ifreq."""
    interfaces = []
    for first in range(0, len(records), IFREQ_BYTES):
        record = records[first : first + IFREQ_BYTES]
        name = record[:NAME_BYTES].split(b"\0")[0].decode()
        interfaces.append(Interface(name, str(ipaddress.IPv4Address(record[IPV4]))))
    return interfaces


def parse_if_inet6(text: str) -> list[Interface]:
    """Return the IPv6 addresses in the text of /proc/net/if_inet6, without link-local ones."""
    lines = [line.split() for line in text.splitlines()]
    return [
        Interface(name, str(ipaddress.IPv6Address(int(digits, 16))))
        for digits, _, _, scope, _, name in lines
        if int(scope, 16) != LINK_SCOPE
    ]
