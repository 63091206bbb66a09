"""The address by which a node reaches others: what the kernel lists, and which interface follows from it."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.distributed.address import (
    LOOPBACK,
    Interface,
    address_towards,
    first_address,
    interface_of,
    is_loopback,
    local_interfaces,
    own_interface,
    parse_if_inet6,
    parse_ifconf,
    reach_node,
)
from alexnet_dist.errors import UserError

NAMES = st.from_regex(r"[a-z]{1,8}[0-9]{0,3}(:[0-9])?", fullmatch=True)
IPV4 = st.builds(str, st.ip_addresses(v=4))
IPV6 = st.builds(str, st.ip_addresses(v=6))
INTERFACES = st.lists(st.builds(Interface, NAMES, IPV4 | IPV6), max_size=12)


@given(st.lists(st.builds(Interface, NAMES, IPV4), max_size=12))
def test_the_kernels_records_are_read(interfaces: list[Interface]) -> None:
    records = b"".join(
        struct.pack("16sHH4s16x", one.name.encode(), socket.AF_INET, 0, socket.inet_aton(one.address))
        for one in interfaces
    )
    assert parse_ifconf(records) == interfaces


@given(st.lists(st.tuples(st.builds(Interface, NAMES, IPV6), st.booleans()), max_size=12))
def test_ipv6_addresses_are_read_without_link_local_ones(lines: list[tuple[Interface, bool]]) -> None:
    text = "".join(
        f"{int(ipaddress.IPv6Address(one.address)):032x} 02 40 {0x20 if local else 0:02x} 80 {one.name:>8}\n"
        for one, local in lines
    )
    assert parse_if_inet6(text) == [one for one, local in lines if not local]


@given(INTERFACES, st.data())
def test_an_address_leads_to_its_interface_and_what_gloo_takes_of_it(
    interfaces: list[Interface], data: st.DataObject
) -> None:
    listed = data.draw(st.sampled_from(interfaces)) if interfaces else Interface("", "10.0.0.1")
    found = interface_of(listed.address, interfaces)
    if not interfaces:
        assert found is None
        return
    assert found is not None
    assert Interface(found.name, listed.address) in interfaces
    assert found.address == first_address(found.name, interfaces)
    assert found in interfaces
    assert first_address("absent", interfaces) is None


def test_loopback_has_many_addresses_and_lists_one() -> None:
    lo, other = Interface("lo", LOOPBACK), Interface("eth0", "10.0.0.1")
    assert interface_of("127.0.1.1", [other, lo]) == lo
    assert interface_of("10.0.0.2", [other, lo]) is None


def test_this_machine_has_loopback_and_reaches_itself() -> None:
    names = {interface.name for interface in local_interfaces() if is_loopback(interface.address)}
    assert names == {"lo"}
    assert address_towards("localhost", 80) in (LOOPBACK, "::1")
    for interface in local_interfaces():
        assert address_towards(interface.address, 9) == interface.address


def test_ranks_on_one_node_use_loopback_whatever_the_rendezvous() -> None:
    assert own_interface(False, "", "a.host.that.resolves.nowhere", 1) == Interface("lo", LOOPBACK)
    assert own_interface(True, "", "127.0.1.1", 1) == Interface("lo", LOOPBACK)


def test_an_interface_that_the_user_chooses_must_be_there() -> None:
    assert own_interface(True, "lo,eth9", "", 1) == Interface("lo", LOOPBACK)
    with pytest.raises(UserError, match=r"GLOO_SOCKET_IFNAME=eht0; expected an interface that is up: .*lo \(127"):
        own_interface(False, "eht0", "", 1)


def test_a_node_that_reaches_no_other_one_says_how_to_go_on() -> None:
    lo, broadcast = Interface("lo", LOOPBACK), "255.255.255.255"  # no socket may connect to it
    with pytest.raises(UserError, match=r"rendezvous at node-a by 127\.0\.0\.1, which other .* --master-addr, or"):
        reach_node(lo, [LOOPBACK, broadcast], "node-a")
    for interface in local_interfaces():
        if not is_loopback(interface.address):
            assert reach_node(lo, [broadcast, interface.address], "node-a").name == interface.name


def test_several_agents_on_one_machine_use_loopback() -> None:
    lo = Interface("lo", LOOPBACK)
    assert reach_node(lo, [LOOPBACK, "127.0.1.1"], "localhost") == lo
