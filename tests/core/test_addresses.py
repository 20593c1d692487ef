from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.addresses import Allowed, kind_of, literal, parse_allowed, refusal

ANY_4 = st.integers(0, 2**32 - 1).map(IPv4Address)
# Most of the space is reserved: half of them from the part that is in use.
ANY_6 = (st.integers(0, 2**128 - 1) | st.integers(1 << 125, (1 << 126) - 1)).map(IPv6Address)
NAT64 = int(IPv6Address("64:ff9b::"))
PUBLIC = [IPv4Address("8.8.8.8"), IPv6Address("2606:4700::1111")]


def mapped(address):
    return IPv6Address((0xFFFF << 32) | int(address))


@given(ANY_4 | ANY_6)
def test_what_is_let_through_is_public_by_the_standard_librarys_account_too(address):
    if kind_of(address) is None:
        assert address.is_global
        special = ("is_private", "is_loopback", "is_link_local", "is_multicast", "is_reserved", "is_unspecified")
        assert not any(getattr(address, name) for name in special)


@given(ANY_4)
def test_an_ipv4_address_is_judged_the_same_inside_an_ipv6_one(address):
    assert kind_of(mapped(address)) == kind_of(address)
    assert kind_of(IPv6Address(NAT64 | int(address))) == kind_of(address)


@given(ANY_4 | ANY_6, ANY_4 | ANY_6)
def test_one_forbidden_address_among_others_is_enough(one, other):
    for addresses in ([one, other, *PUBLIC], [*PUBLIC, other, one]):
        expected = kind_of(one) or kind_of(other)
        assert (refusal("example.com", addresses, Allowed()) is None) is (expected is None)


@given(ANY_4 | ANY_6)
def test_what_the_operator_allows_is_let_through_and_nothing_beside_it(address):
    by_network = Allowed(networks=(ip_network(address),))
    by_name = Allowed(hosts=frozenset({"a.internal"}))
    assert refusal("example.com", [address], by_network) is None
    assert refusal("example.com", [address, IPv4Address("127.9.9.9")], by_network) is not None
    assert refusal("a.internal", [address], by_name) is None
    assert (refusal("b.internal", [address], by_name) is None) is (kind_of(address) is None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "this-network"),
        ("::", "unspecified"),
        ("10.0.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fd00:ec2::254", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "shared"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "reserved"),
        ("2001:0:4136:e378::1", "reserved"),
        ("::127.0.0.1", "reserved"),
        ("64:ff9b:1::1", "reserved"),
        ("8.8.8.8", None),
        ("172.32.0.1", None),
        ("2606:4700::1111", None),
        ("64:ff9b::808:808", None),
    ],
)
def test_kinds(text, kind):
    assert kind_of(ip_address(text)) == kind


def test_the_allowed_are_hosts_addresses_and_networks():
    allowed = parse_allowed("hooks.internal, 127.0.0.1 10.0.0.0/8\nfd00::/8,LOCALHOST,")
    assert allowed.hosts == {"hooks.internal", "localhost"}
    assert allowed.networks == tuple(map(ip_network, ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")))
    assert parse_allowed("") == Allowed()
    assert refusal("x", [IPv6Address("::ffff:10.1.2.3")], allowed) is None


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "http://a", "a_b!", "127.1", "*", "0x7f000001", "-a-"])
def test_what_is_none_of_these_is_named(entry):
    with pytest.raises(ValueError, match=r"no host name, address or CIDR"):
        parse_allowed(f"fine.example {entry}")


@pytest.mark.parametrize(
    ("text", "taken", "not_taken"),
    [
        ("443", [443], [80, 442, 444]),
        ("80, 443 1024-65535", [80, 443, 1024, 65535], [1, 81, 1023]),
        ("1-1", [1], [2]),
    ],
)
def test_ports_are_single_ones_and_ranges(text, taken, not_taken):
    allowed = parse_allowed("", text)
    assert all(allowed.takes(port) for port in taken)
    assert not any(allowed.takes(port) for port in not_taken)


@pytest.mark.parametrize(
    "text", ["", ",", "0", "65536", "http", "80-", "-80", "1024-80", "80-90-100", "9" * 5000, chr(0x661)]
)
def test_what_is_no_port_is_named(text):
    with pytest.raises(ValueError, match="port"):
        parse_allowed("", text)


def test_names_and_literals():
    assert literal("example.com") == []
    assert literal("10.0.0.1") == [IPv4Address("10.0.0.1")]
    assert [kind_of(address) for address in literal("db.localhost")] == ["loopback", "loopback"]
    for odd in ("2130706433", "127.1", "0x7f.1", "0177.0.0.01", "1.2.3.0x4"):
        with pytest.raises(ValueError, match="usual form"):
            literal(odd)
