"""Which proxy the environment names for an address, read as curl reads it; this machine is never asked through one.

`http_proxy`, `https_proxy` and `all_proxy` name it, `no_proxy` leaves hosts out: names with all that is below them,
`*`, addresses and ranges of them, each with or without a port. The small letters come before the large ones.
aiohttp's own way would also send keys out of ~/.netrc.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from batchgen.errors import CommandError
from batchgen.redaction import redact

_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USABLE = frozenset({"http", "https"})
_PORTS = {"http": 80, "https": 443}
_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def proxy_of(url: str) -> str | None:
    """The proxy for this address, with what it wants for a password; None where there is to be none.

    Raises CommandError, with the variable's name and nothing of its value, where the proxy cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    environment = tuple((name, os.environ.get(name)) for small in _NAMES for name in (small, small.upper()))
    return _proxy_of(parts.scheme, host, parts.port or _PORTS.get(parts.scheme, 0), environment)


def is_loopback(host: str) -> bool:
    """Whether a host, as a link writes it, is this machine; a name is not looked up."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def passwords() -> list[str]:
    """What must not be shown of the proxies' variables."""
    found = []
    for name in _NAMES[:3]:
        for value in filter(None, map(os.environ.get, (name, name.upper()))):
            # Not by `urlsplit`, which refuses some; the last @ ends the password, whatever is in it.
            before = _with_scheme(value).partition("://")[2].rpartition("@")[0]
            found += [before.partition(":")[2], unquote(before.partition(":")[2])]
    return [text for text in found if text]


@lru_cache(maxsize=1024)
def _proxy_of(scheme: str, host: str, port: int, environment: tuple[tuple[str, str | None], ...]) -> str | None:
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - 40 ms, only where something is sent

    known = getproxies()  # of the environment, else of the system's settings
    value = known.get(scheme) or known.get("all")
    if not value:
        return None
    if any(text for _, text in environment):
        is_left_out = any(_leaves_out(entry, host, port) for entry in re.split(r"[,\s]+", known.get("no", "")) if entry)
    else:
        is_left_out = bool(proxy_bypass(host))
    if is_left_out:
        return None
    redact.add(passwords())
    variable = f"{scheme}_proxy" if known.get(scheme) else "all_proxy"
    set_as = next((name for name, text in environment if text and name.lower() == variable), "")
    return _usable(value, set_as)


def _leaves_out(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` means the host."""
    if entry == "*":
        return True
    name, at = entry.lower(), ""
    if match := re.fullmatch(r"(\[.*\]|[^:]*):([0-9]+)", name):
        name, at = match.groups()
    if at and int(at) != port:
        return False
    name, host = name.strip("[]").rstrip("."), host.lower().rstrip(".")
    if (address := _address(host)) is not None:
        try:
            return address in ip_network(name, strict=False)
        except ValueError:
            return False
    name = name.removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _with_scheme(value: str) -> str:
    return value if _HAS_SCHEME.match(value) else f"http://{value}"


def _usable(value: str, variable: str) -> str:
    where = f"{variable} names" if variable else "this system's settings name"
    cure = (
        f"Set {variable or 'https_proxy'} to an HTTP proxy, as in http://proxy.example:3128,"
        " or name the host in NO_PROXY to go there without one."
    )
    url = _with_scheme(value.strip())
    try:
        parts = urlsplit(url)
        scheme, is_whole = parts.scheme, bool(parts.hostname) and parts.port != 0 and url.isascii() and " " not in url
    except ValueError:
        scheme, is_whole = "http", False
    if scheme not in _USABLE:
        raise CommandError(f"{where} a proxy that speaks {scheme}, which batchgen does not. {cure}")
    if not is_whole:
        raise CommandError(f"{where} something that is no proxy's address. {cure}")
    return url
