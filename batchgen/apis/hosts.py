"""The hosts that a key may be sent to: those of the definition, and no other, whatever an answer says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN = re.compile(r"[!-~]+")  # no blank, control or other letter that two readers of an address may take differently
_PORTS = {"https": 443, "http": 80}


class Hosts:
    """The host of an account's address, and `more` of them (`host` or `host:port`), by the same scheme."""

    def __init__(self, base_url: str, more: Iterable[str] = ()) -> None:
        self._scheme = base_url.partition(":")[0].lower()
        places = [_place(base_url), *(_place(f"{self._scheme}://{host}") for host in more)]
        self._places = frozenset(place for place in places if place is not None)
        self._origins = tuple(f"{self._scheme}://{host}:{port}/" for host, port in self._places)
        self._origins += tuple(
            f"{self._scheme}://{host}/" for host, port in self._places if port == _PORTS.get(self._scheme)
        )

    def allow(self, url: str) -> bool:
        """Whether the key may be sent to this address."""
        if url.startswith(self._origins) and _is_plain(url):  # as nearly all do
            return True
        return urlsplit_scheme(url) == self._scheme and (place := _place(url)) is not None and place in self._places


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
