"""The way to image hosts: whose links are followed, how far, and how much is taken. No key ever goes there.

A link is the gateway's word, a redirect is anybody's: each hop is looked at before it is made.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from batchgen.descriptors import is_short_of_descriptors
from batchgen.errors import ImageBroken, LinkExpired, LinkRefused, TooFewDescriptors, Unclear
from batchgen.http.client import CONNECT_SECONDS, NAME, translated, way_to
from batchgen.http.decompression import BodyCutOff, BodyRefused, unpacked
from batchgen.http.network_policy import Gateways, PublicOnlyResolver, is_inside, leads_inside, leads_only_inside
from batchgen.jobs import is_inline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE_SECONDS = 60.0
DOWNLOAD_SECONDS = 900.0  # a host that drips would else hold a download for ever
LARGEST_IMAGE = 256 * 1024 * 1024
_REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_AS_WRITTEN = re.compile(r"[!-~]+")  # printable ASCII: a link that needs no quoting, and may be signed as it is


class Downloader:
    """Downloads for one run: `near` connects to any host, `public` only to public addresses."""

    def __init__(self, gateways: Gateways, *, near: aiohttp.ClientSession, public: aiohttp.ClientSession) -> None:
        self._gateways = gateways
        self._near = near
        self._public = public
        self._outside: set[str] = set()  # names that may be asked for through a proxy

    @asynccontextmanager
    async def image(
        self, url: str, *, base_url: str, idle: float = IDLE_SECONDS
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of an image, in pieces; no key is sent, whoever the host is.

        `base_url` is the account's; `idle`: seconds for which the host may say nothing.

        A `data:` link (RFC 2397, in base64) holds the image itself. Raises LinkExpired where the image is not there
        (any more), ImageBroken where fewer bytes come than were announced, LinkRefused where the link leads into a
        network that the account's gateway is not in, Unclear for everything that may be better next time.
        """
        if is_inline(url):
            yield _one_piece(await asyncio.to_thread(_decoded, url))
            return
        link = _link(url)
        try:
            response = await self._followed(link, base_url, idle)
            async with response:
                host = response.url.raw_host
                if response.status in {400, 401, 403, 404, 410}:
                    raise LinkExpired(f"The image is not at its link ({host} answered HTTP {response.status}).")
                if response.status != 200:
                    raise Unclear(f"The image's host {host} answered HTTP {response.status}.")
                yield _pieces(response)
        except aiohttp.ClientPayloadError as error:
            raise ImageBroken("The image's download was cut off.") from error
        except aiohttp.InvalidURL as error:
            raise ImageBroken(f"The gateway gave a link that is no address: {url[:60]}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if is_short_of_descriptors(error):
                raise TooFewDescriptors(str(translated(error, url))) from error
            raise Unclear(str(translated(error, url))) from error

    async def _followed(self, link: URL, base_url: str, idle: float) -> aiohttp.ClientResponse:
        """The answer at the end of a link. Every hop is looked at, for a public host may point anywhere.

        A step from https down to http is refused, unless the account's own gateway is no better protected.
        """
        is_near = await self._is_near(base_url)
        is_plain = is_near or base_url.startswith("http:")
        for _ in range(_REDIRECTS + 1):
            if not is_near:
                _refuse_inside(link)
            proxy = way_to(str(link))
            if proxy and not is_near:
                await self._refuse_name_inside(link, base_url)
            session = self._near if is_near or proxy else self._public
            response = await session.get(link, proxy=proxy, allow_redirects=False, timeout=_within(idle))
            if response.status not in _MOVED or "Location" not in response.headers:
                return response
            response.release()
            there = _link(response.headers["Location"], base=link)
            if (link.scheme, there.scheme) == ("https", "http") and not is_plain:
                raise LinkRefused(
                    f"The image's link is not followed: {link.raw_host} redirects from https to plain http at"
                    f" {there.raw_host}, where the image could be changed on its way."
                )
            link = there
        raise LinkRefused(f"The image's link is not followed: it is redirected more than {_REDIRECTS} times.")

    async def _is_near(self, base_url: str) -> bool:
        """Whether an account's gateway is on this machine or in a private network: its images may be there too."""
        host = urlsplit(base_url).hostname or ""
        if is_inside(host):
            return True
        return not way_to(base_url) and await self._gateways.is_near(host)

    async def _refuse_name_inside(self, link: URL, base_url: str) -> None:
        """A proxy resolves the link's name itself, and may reach what only a company may.

        What has no address here is left to it. A gateway whose own name is private may have its images there.
        """
        host = link.raw_host or ""
        if host not in self._outside:
            if await leads_only_inside(host) and not await self._gateways.is_near(urlsplit(base_url).hostname or ""):
                raise leads_inside(host, host)
            self._outside.add(host)


@asynccontextmanager
async def open_downloader(in_flight: int, gateways: Gateways) -> AsyncIterator[Downloader]:
    """The way to them for at most `in_flight` downloads at a time, connections kept alive between them.

    Public hosts have connections of their own: none is used that was opened without looking where it leads.
    """
    async with AsyncExitStack() as stack:
        near = await stack.enter_async_context(_session(in_flight, gateways))
        public = await stack.enter_async_context(_session(in_flight, PublicOnlyResolver()))
        yield Downloader(gateways, near=near, public=public)


def _session(in_flight: int, resolver: aiohttp.ThreadedResolver) -> aiohttp.ClientSession:
    """Bodies come as they were sent: what is packed though it was not to be is unpacked here, within bounds."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight, limit_per_host=0, ttl_dns_cache=300, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": NAME, "Accept-Encoding": "identity"},
        auto_decompress=False,
        timeout=_within(IDLE_SECONDS),
    )


def _within(idle: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=DOWNLOAD_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=idle)


def _link(text: str, *, base: URL | None = None) -> URL:
    """A link, or a redirect of one, as it is written: a signature may be over its very letters.

    Raises ImageBroken, or LinkRefused for a redirect, where it is no http or https address.
    """
    kind = ImageBroken if base is None else LinkRefused
    said = "The gateway gave a link" if base is None else f"The image's host {base.raw_host} redirects to a link"
    try:
        link = URL(text, encoded=_AS_WRITTEN.fullmatch(text) is not None)
        link = link if base is None else base.join(link)
        usable = link.scheme in {"http", "https"} and link.raw_host and link.port
    except ValueError:
        usable = False
    if not usable:
        raise kind(f"{said} that is no http or https address: {text[:60]}")
    return link


def _refuse_inside(link: URL) -> None:
    host = link.raw_host or ""
    try:
        inside = is_inside(host)
    except ValueError:
        raise LinkRefused(f"The image's link is not followed: {host} is neither a name nor an address.") from None
    if inside:
        raise leads_inside(host, host)


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body, unpacked where it was sent packed. Raises ImageBroken where it is too large or ends too soon."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if (response.content_length or 0) > LARGEST_IMAGE:
        raise ImageBroken(f"The image is larger than {LARGEST_IMAGE} bytes.")
    try:
        async for part in unpacked(response.content.iter_any(), coding, LARGEST_IMAGE):
            yield part
    except BodyCutOff as error:
        raise ImageBroken("The image's download was cut off.") from error
    except BodyRefused as error:
        raise ImageBroken(f"The image's download is not taken: {error}.") from error


async def _one_piece(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _decoded(url: str) -> bytes:
    head, _, text = url.partition(",")
    if not text:
        raise LinkExpired("The image came inside the gateway's answer, and is kept only until its file is there.")
    if not head.endswith(";base64"):
        raise ImageBroken(f"The gateway gave an image that is not in base64: {head[:60]}")
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:
        raise ImageBroken(f"The gateway's answer holds an image that is no base64 ({error}).") from error
