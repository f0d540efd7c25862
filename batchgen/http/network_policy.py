"""Which addresses are public, and which are on this machine or in a private network.

A link comes from a gateway, which may be wrong or taken over: it is followed only where anybody could follow it.
The registries of special addresses decide (RFC 6890), also for IPv6 addresses with an IPv4 address
embedded: mapped (RFC 4291), 6to4 (RFC 3056) and NAT64 (RFC 6052).
"""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import aiohttp

from batchgen.errors import LinkRefused
from batchgen.http.proxies import is_loopback

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_EMBEDDING = tuple(  # networks of IPv6 whose last 32 bits are an address of IPv4
    IPv6Network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96", "::/96")
)
# For measurements between routers (RFC 2544). Local proxies resolve every name to an address of this network, and
# connect to the real one themselves.
_FAKE_ADDRESSES = IPv4Network("198.18.0.0/15")


_NOT_GLOBAL = IPv6Network("3fff::/20")  # for documentation (RFC 9637); not every Python knows
_GLOBAL = IPv6Network("2000::/3")  # all that is global of IPv6; the rest is special or reserved (RFC 4291, 2.4)


def is_public(address: str, *, of_name: bool = False) -> bool:
    """Whether an address, as text, can be reached by anybody; `of_name`: a name was resolved to it.

    Raises ValueError for what is no address.
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = _embedded_ipv4(found) or found
    if isinstance(found, IPv6Address):
        return found in _GLOBAL and found not in _NOT_GLOBAL and found.is_global and not found.teredo
    return (found.is_global and not found.is_multicast) or (of_name and found in _FAKE_ADDRESSES)


def is_private_host(host: str) -> bool:
    """Whether a host, as a link writes it, is this machine or an address that is not public; a name is not looked up.

    Raises ValueError for numbers that are no address: `0x7f.1` is one to some resolvers (WHATWG URL, 3.5).
    """
    if is_loopback(host):
        return True
    host = host.strip("[]").rstrip(".").lower()
    last = host.rpartition(".")[2]
    if ":" in host or last.isdecimal() or last.startswith("0x"):
        return not is_public(host)
    return False


def _embedded_ipv4(found: IPv6Address) -> IPv4Address | None:
    if found.sixtofour is not None:
        return found.sixtofour
    is_embedding = any(found in network for network in _EMBEDDING) and int(found) > 1  # :: and ::1 are themselves
    return IPv4Address(int(found) & 0xFFFFFFFF) if is_embedding else None


class GatewayResolver(aiohttp.ThreadedResolver):
    """Resolves hosts, of accounts above all, and remembers which names have private addresses only.

    A name that was once public stays so: its owner decides what it resolves to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._private: dict[str, bool] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        self._private[host] = self._private.get(host, True) and bool(found) and not _public(found)
        return found

    async def is_private(self, host: str) -> bool:
        """Whether a host has private addresses only; looked up where no request was sent to it yet."""
        if host not in self._private:
            with suppress(OSError):
                await self.resolve(host)
        return self._private.get(host, False)


class PublicOnlyResolver(aiohttp.ThreadedResolver):
    """Resolves image hosts, to their public addresses only. These are connected to, so a later change gains nothing."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As in aiohttp. Raises LinkRefused where a host has no public address."""
        found = await super().resolve(host, port, family)
        if not (public := _public(found)):
            raise private_host_refused(host, found[0]["host"] if found else "no address")
        return public


def private_host_refused(host: str, address: str) -> LinkRefused:
    """The error for a link whose host is at a private address."""
    where = host if host == address else f"{host} ({address})"
    return LinkRefused(
        f"The image's link is not followed: its host {where} is on this machine or in a private network, and the"
        " account's own base_url is not. Ask the gateway's operator why it gives such links."
    )


def _public(found: list[ResolveResult]) -> list[ResolveResult]:
    return [each for each in found if is_public(each["host"], of_name=True)]
