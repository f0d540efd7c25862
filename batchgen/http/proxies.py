"""The proxy for a URL by the environment, as curl reads it; loopback addresses never use one.

`http_proxy`, `https_proxy` and `all_proxy` name it, `no_proxy` excludes hosts: names with their subdomains, `*`,
addresses and networks, each with or without a port. Lower-case names win over upper-case ones.
aiohttp's `trust_env` is not used: it would also send the credentials in ~/.netrc.
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
    """The proxy for this URL, with its password; None where none is used.

    Raises CommandError, with the variable's name and nothing of its value, where the proxy cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    environment = tuple((name, os.environ.get(name)) for lower in _NAMES for name in (lower, lower.upper()))
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
    """The passwords in the proxy variables, for redaction."""
    found = []
    for name in _NAMES[:3]:
        for value in filter(None, map(os.environ.get, (name, name.upper()))):
            # Not by `urlsplit`, which refuses some; the last @ ends the password, whatever is in it.
            credentials = _with_scheme(value).partition("://")[2].rpartition("@")[0]
            found += [credentials.partition(":")[2], unquote(credentials.partition(":")[2])]
    return [text for text in found if text]


@lru_cache(maxsize=1024)
def _proxy_of(scheme: str, host: str, port: int, environment: tuple[tuple[str, str | None], ...]) -> str | None:
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - 40 ms, only where something is sent

    proxies = getproxies()  # of the environment, else of the system's settings
    value = proxies.get(scheme) or proxies.get("all")
    if not value:
        return None
    if any(text for _, text in environment):
        is_excluded = any(_excludes(entry, host, port) for entry in re.split(r"[,\s]+", proxies.get("no", "")) if entry)
    else:
        is_excluded = bool(proxy_bypass(host))
    if is_excluded:
        return None
    redact.add(passwords())
    variable = f"{scheme}_proxy" if proxies.get(scheme) else "all_proxy"
    set_as = next((name for name, text in environment if text and name.lower() == variable), "")
    return _usable(value, set_as)


def _excludes(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` excludes the host."""
    if entry == "*":
        return True
    name, entry_port = entry.lower(), ""
    if match := re.fullmatch(r"(\[.*\]|[^:]*):([0-9]+)", name):
        name, entry_port = match.groups()
    if entry_port and int(entry_port) != port:
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
    advice = (
        f"Set {variable or 'https_proxy'} to an HTTP proxy, for instance http://proxy.example:3128,"
        " or add the host to NO_PROXY to connect without a proxy."
    )
    url = _with_scheme(value.strip())
    try:
        parts = urlsplit(url)
        scheme, is_complete = (
            parts.scheme,
            bool(parts.hostname) and parts.port != 0 and url.isascii() and " " not in url,
        )
    except ValueError:
        scheme, is_complete = "http", False
    if scheme not in _USABLE:
        raise CommandError(f"{where} a {scheme} proxy, which batchgen cannot use. {advice}")
    if not is_complete:
        raise CommandError(f"{where} something that is not the address of a proxy. {advice}")
    return url
