"""Addresses as people write them: host:port, with IPv6 hosts in brackets."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple

ADDRESS_FORM = "host:port, for example 127.0.0.1:7379 or [::1]:7379, with a port from 1 to 65535"
PORT_MAX = 65535

_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?$")


class Address(NamedTuple):
    """A host (IP address without brackets, or name) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than localhost counts as not."""
        literal = _literal(self.host)
        return literal.is_loopback if literal else self.host.lower() == "localhost"

    @property
    def is_foreign(self) -> bool:
        """Whether it is an IP address beyond loopback, so that a loopback listener is not it."""
        return _literal(self.host) is not None and not self.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of the machine: to listen on, not to connect to."""
        literal = _literal(self.host)
        return literal is not None and literal.is_unspecified

    def may_share_interface(self, other: Address) -> bool:
        """Whether sockets bound to both hosts could compete for the same port."""
        if self.is_wildcard or other.is_wildcard:
            return True
        mine, theirs = _literal(self.host), _literal(other.host)
        if mine is None or theirs is None:
            return True  # a name may resolve to anything
        return mine == theirs


def parse_address(text: str) -> Address:
    """Parse host:port. Raises ValueError with a text that says what is wrong."""
    host, separator, port_text = text.rpartition(":")
    if not separator:
        raise ValueError("the port is missing")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not isinstance(_literal(host), ipaddress.IPv6Address):
            raise ValueError(f"[{host}] is not an IPv6 address")
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets around it")
    elif not host:
        raise ValueError("the host is missing")
    elif _literal(host) is None and (_looks_numeric(host) or not _NAME.match(host)):
        raise ValueError(f"{host!r} is neither an IP address nor a host name")
    if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text) <= PORT_MAX):
        raise ValueError(f"{port_text!r} is not a port")
    return Address(host, int(port_text))


@functools.lru_cache(maxsize=1024)
def parse_member(text: str) -> tuple[int, Address]:
    """Parse id@host:port, one item of cluster.initial. Raises ValueError like parse_address.

    Cached: a configuration is asked for its members as often as leaders are wanted.
    """
    id_text, separator, address_text = text.partition("@")
    if not separator:
        raise ValueError("the node id is missing")
    if not (id_text.isascii() and id_text.isdigit() and 1 <= int(id_text) <= PORT_MAX):
        raise ValueError(f"{id_text!r} is not a node id (1 to 65535)")
    return int(id_text), parse_address(address_text)


def _looks_numeric(host: str) -> bool:
    return host.rstrip(".").rpartition(".")[2].isdigit()


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
