"""Which addresses Offramp may connect to on a caller's behalf: public ones, and those that the operator allows.

Judges addresses after resolution; a host name alone says nothing about where it leads.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PORT_MAX = 65_535

HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
"""A host name in lower case, without a trailing dot: labels of letters, digits, hyphens and underscores."""

# IANA's special-purpose registries (RFC 6890), and metadata services that hide in public or shared space.
_FORBIDDEN_4: list[tuple[IPv4Network, str]] = [
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "this-network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "metadata"),  # Azure's
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
]
_FORBIDDEN_6: list[tuple[IPv6Network, str]] = [
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),  # Teredo and other protocol assignments
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "reserved"),  # 6to4, which carries an IPv4 address
        ("3fff::/20", "documentation"),
    )
]
_GLOBAL_6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


_ROOT_PATH = re.compile(r"(/(?!\.\.?(?:/|\Z))[A-Za-z0-9._~-]+)+")
WEBHOOK_PORTS = "80, 443, 1024-65535"
"""Where webhooks go unless the operator says otherwise: ports below 1024 belong to services such as SSH and mail."""
Ports = tuple[range, ...]


def parse_ports(text: str) -> Ports:
    """Ports, and ranges of them as FIRST-LAST, separated by commas or white space.

    Raises:
        ValueError: there is none, or an entry is neither; the message names it.
    """
    found = []
    for entry in text.replace(",", " ").split():
        first, dash, last = entry.partition("-")
        ends = [first, last if dash else first]
        if not all(end.isascii() and end.isdigit() and 1 <= int(end[:6]) <= PORT_MAX for end in ends):
            raise ValueError(f"{entry[:20]!r} is no port from 1 to {PORT_MAX}, nor a range such as 1024-65535")
        found.append(range(int(first), int(ends[1]) + 1))
    if not any(found):
        raise ValueError("name at least one port, such as 443, or a range such as 1024-65535")
    return tuple(found)


class Allowed(NamedTuple):
    """What the operator allows beyond public addresses: hosts by name, networks, and ports."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: Ports = parse_ports(WEBHOOK_PORTS)

    def takes(self, port: int) -> bool:
        """Whether this port may be connected to."""
        return any(port in each for each in self.ports)


def parse_allowed(text: str, ports: str = WEBHOOK_PORTS) -> Allowed:
    """Hosts, addresses and CIDRs, separated by commas or white space; and ports as `parse_ports` reads them.

    Raises:
        ValueError: an entry is none of these; the message names it.
    """
    hosts: set[str] = set()
    networks: list[Network] = []
    for entry in re.split(r"[,\s]+", text.strip().lower()):
        if not entry:
            continue
        try:
            networks.append(ip_network(entry))
        except ValueError as error:
            if "/" in entry or _is_numeric(entry) or not HOST.fullmatch(entry):
                raise ValueError(f"{entry!r} is no host name, address or CIDR ({error})") from None
            hosts.add(entry)
    return Allowed(frozenset(hosts), tuple(networks), parse_ports(ports))


def parse_listen(text: str) -> tuple[str, int] | None:
    """`HOST:PORT` to listen on, `[HOST]:PORT` for IPv6, or `PORT` on 127.0.0.1; None for "".

    Raises:
        ValueError: it has none of these forms.
    """
    if not text.strip():
        return None
    host, _, port = text.strip().rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise ValueError(f"{text!r} is no HOST:PORT with a port from 0 (any free one) to {PORT_MAX}")
    if host.startswith("[") and host.endswith("]"):
        return str(IPv6Address(host[1:-1])), int(port)
    if ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:9464")
    return host or "127.0.0.1", int(port)


def parse_root_path(text: str) -> str:
    """The prefix of paths below which a proxy serves a gateway, without a slash at its end; empty for none.

    Raises:
        ValueError: it is no such path.
    """
    path = text.strip().rstrip("/")
    if path and not _ROOT_PATH.fullmatch(path):
        raise ValueError(f"{text!r} is no path such as /agents: letters, digits, '-', '.', '_' and '~' between slashes")
    return path


def kind_of(address: Address) -> str | None:
    """Why an address is not public, in one word; None if it is."""
    address = _plain(address)
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _FORBIDDEN_4 if address in network), None)
    if address in _NAT64:
        return kind_of(IPv4Address(int(address) & 0xFFFFFFFF))
    known = next((kind for network, kind in _FORBIDDEN_6 if address in network), None)
    return known or (None if address in _GLOBAL_6 else "reserved")


def refusal(host: str, addresses: list[Address], allowed: Allowed) -> str | None:
    """Why a host that resolves to these addresses is not connected to; None if each of them may be."""
    if host in allowed.hosts:
        return None
    for address in addresses:
        kind = kind_of(address)
        if kind is not None and not any(_plain(address) in network for network in allowed.networks):
            return f"{_plain(address)} is a {kind} address"
    return None


def literal(host: str) -> list[Address]:
    """The addresses of a host that needs no resolver: an address itself, or localhost.

    Raises:
        ValueError: it is an address in a form that only some programs read as one (`127.1`, `0x7f000001`).
    """
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return [IPv4Address("127.0.0.1"), IPv6Address("::1")]
    try:
        return [ip_address(host)]
    except ValueError:
        if _is_numeric(host):
            raise ValueError("write an address in its usual form, such as 192.0.2.1") from None
        return []


def _is_numeric(host: str) -> bool:
    """Whether some resolvers take the name for an IPv4 address (WHATWG URL, "ends in a number")."""
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) is not None


def _plain(address: Address) -> Address:
    """The IPv4 address in an IPv4-mapped one, which leads to the same place."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address or name."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
