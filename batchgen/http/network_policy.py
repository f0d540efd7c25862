"""Which addresses are the public internet's, and which are this machine's or a private network's; and who looks.

A link comes from a gateway, and a gateway may be wrong, or taken over: what it names is fetched only where
anybody could fetch it. By the registries of special addresses (RFC 6890), with the forms of IPv6 that carry
an address of IPv4 inside: mapped (RFC 4291), 6to4 (RFC 3056) and NAT64 (RFC 6052).
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

_CARRIERS = tuple(  # networks of IPv6 whose last 32 bits are an address of IPv4
    IPv6Network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96", "::/96")
)
# Meant for measurements between routers. Local proxies answer every name with an address out of it and
# resolve the name themselves: a name that seems to be there is not.
_STAND_IN = IPv4Network("198.18.0.0/15")


_NOT_GLOBAL = IPv6Network("3fff::/20")  # for documentation (RFC 9637); not every Python knows
_GIVEN_OUT = IPv6Network("2000::/3")  # all that is global of IPv6; the rest is special or reserved (RFC 4291, 2.4)


def is_public(address: str, *, of_name: bool = False) -> bool:
    """Whether an address, as text, can be reached by anybody; `of_name`: a name was resolved to it.

    Raises ValueError for what is no address.
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = _carried(found) or found
    if isinstance(found, IPv6Address):
        return found in _GIVEN_OUT and found not in _NOT_GLOBAL and found.is_global and not found.teredo
    return (found.is_global and not found.is_multicast) or (of_name and found in _STAND_IN)


def is_inside(host: str) -> bool:
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


def _carried(found: IPv6Address) -> IPv4Address | None:
    if found.sixtofour is not None:
        return found.sixtofour
    is_carrier = any(found in network for network in _CARRIERS) and int(found) > 1  # :: and ::1 are themselves
    return IPv4Address(int(found) & 0xFFFFFFFF) if is_carrier else None


class Gateways(aiohttp.ThreadedResolver):
    """Resolves for accounts, and remembers of each name whether it is at private addresses alone.

    A name that was once public stays so: what it resolves to is in its owner's hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self._near: dict[str, bool] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As aiohttp asks for it."""
        found = await super().resolve(host, port, family)
        self._near[host] = self._near.get(host, True) and _only_inside(found)
        return found

    async def is_near(self, host: str) -> bool:
        """Whether the account's host is at private addresses alone; looked up where no request was sent to it yet."""
        if host not in self._near:
            with suppress(OSError):
                await self.resolve(host)
        return self._near.get(host, False)


async def leads_only_inside(host: str) -> bool:
    """Whether a name is at addresses alone that are not public, as far as it is known here."""
    try:
        found = await aiohttp.ThreadedResolver().resolve(host)
    except OSError:
        return False
    return _only_inside(found)


class PublicOnlyResolver(aiohttp.ThreadedResolver):
    """Resolves for image hosts. What it gives is connected to: a name that is changed in between gains nothing."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As aiohttp asks for it. Raises LinkRefused where a host has no public address."""
        found = await super().resolve(host, port, family)
        if not (public := _public(found)):
            raise leads_inside(host, found[0]["host"] if found else "no address")
        return public


def leads_inside(host: str, address: str) -> LinkRefused:
    """The refusal of a link whose host is at an address that is not public."""
    where = host if host == address else f"{host} ({address})"
    return LinkRefused(
        f"The image's link is not followed: its host {where} is on this machine or in a private network, and the"
        " account's own base_url is not. Ask the gateway's operator why it gives such links."
    )


def _only_inside(found: list[ResolveResult]) -> bool:
    return bool(found) and not _public(found)


def _public(found: list[ResolveResult]) -> list[ResolveResult]:
    return [each for each in found if is_public(each["host"], of_name=True)]
