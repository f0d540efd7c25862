"""Links that expire as an object store's do, and links that redirect before they lead to an image."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

_EXPIRED = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"  # as object stores say it


class LinkFaults:
    """`ttl` is in seconds, None for links that stay valid; `clock` gives Unix milliseconds."""

    def __init__(self, ttl: float | None, redirects: int, clock: Callable[[], int]) -> None:
        self._ttl = ttl
        self._redirects = redirects
        self._clock = clock

    def query(self) -> str:
        """The query of a new link."""
        return "" if self._ttl is None else f"?expires={self._clock() + round(self._ttl * 1000)}"

    def intercept(self, query: str) -> web.Response | None:
        """The answer to a link that has expired or redirects; None where it leads to its image."""
        values = parse_qs(query)
        if self._ttl is not None and self._clock() >= _number(values, "expires"):
            return web.Response(status=403, text=_EXPIRED, content_type="application/xml")
        if (hop := _number(values, "hop")) >= self._redirects:
            return None
        rest = "".join(f"{part}&" for part in query.split("&") if part and not part.startswith("hop="))
        return web.Response(status=302, headers={"Location": f"?{rest}hop={hop + 1}"})


def _number(values: dict[str, list[str]], name: str) -> int:
    text = values.get(name, [""])[0]
    return int(text[:20]) if text.isascii() and text.isdecimal() else 0
