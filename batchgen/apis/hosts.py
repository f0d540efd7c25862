"""The hosts that a key may be sent to: those of the definition, and no other, whatever an answer says."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN = re.compile(r"[!-~]+")  # no blank, control or other letter that two readers of an address may take differently
_PORTS = {"https": 443, "http": 80}


class Hosts:
    """The host of an account's address, and `more` of them (`host` or `host:port`), by the same scheme."""

    def __init__(self, base_url: str, more: Iterable[str] = ()) -> None:
        self.base_url = base_url.rstrip("/")
        self._scheme = base_url.partition(":")[0].lower()
        places = [_place(base_url), *(_place(f"{self._scheme}://{host}") for host in more)]
        self._places = frozenset(place for place in places if place is not None)
        self._origins = tuple(f"{self._scheme}://{host}:{port}/" for host, port in self._places)
        self._origins += tuple(
            f"{self._scheme}://{host}/" for host, port in self._places if port == _PORTS.get(self._scheme)
        )

    @property
    def is_open(self) -> bool:
        """Whether others can read what is sent there on its way."""
        return self._scheme == "http" and not _is_loopback(self.base_url)

    def allow(self, url: str) -> bool:
        """Whether the key may be sent to this address."""
        if url.startswith(self._origins) and _is_plain(url):  # as nearly all do
            return True
        return urlsplit_scheme(url) == self._scheme and (place := _place(url)) is not None and place in self._places


class MovedHosts:
    """The hosts of an account that is reached at `base_url`, in place of where its definition says that it is.

    What is written for the definition's own address is sent to the other one; a server of this machine stands for every
    host, so that a rehearsal reaches no other.
    """

    def __init__(self, hosts: Hosts, base_url: str) -> None:
        self._hosts = hosts
        self._here = Hosts(base_url)

    def allow(self, url: str) -> bool:
        """Whether the key may be sent to this address, as it is reached."""
        return self._hosts.allow(url) or self._here.allow(url)

    def reached(self, url: str) -> str:
        """Where a request for an allowed address goes."""
        old, new = self._hosts.base_url, self._here.base_url
        if self._here.allow(url) or not (_is_loopback(new) or Hosts(old).allow(url)):
            return url
        return _moved(url, old, new)

    def named(self, url: str) -> str:
        """What the definition calls an address: the same wherever it is reached, as a ledger needs it."""
        return _moved(url, self._here.base_url, self._hosts.base_url) if self._here.allow(url) else url


def _moved(url: str, old: str, new: str) -> str:
    """An address at a base address, at another one."""
    if url.startswith((f"{old}/", f"{old}?")):
        return new + url.removeprefix(old)
    place = urlsplit(new)
    return urlsplit(url)._replace(scheme=place.scheme, netloc=place.netloc).geturl()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def urlsplit_scheme(url: str) -> str:
    """The scheme of an address, in small letters; empty where it has none."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def _place(url: str) -> tuple[str, int] | None:
    """Host and port; None for what is no plain address."""
    if not _is_plain(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not parts.hostname or "@" in parts.netloc or not port:
        return None
    return parts.hostname.lower(), port


def _is_plain(url: str) -> bool:
    return _PLAIN.fullmatch(url) is not None and "\\" not in url and "#" not in url
