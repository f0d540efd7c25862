"""Downloads images: which links are followed, through how many redirects, and how many bytes. No key is sent.

A gateway gives the link, and anybody may redirect it: each hop is checked before it is made.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from batchgen.descriptors import is_short_of_descriptors
from batchgen.errors import ImageBroken, LinkExpired, LinkRefused, TooFewDescriptors, Unclear
from batchgen.http.client import CONNECT_SECONDS, NAME, translate_error, usable_proxy
from batchgen.http.decompression import BodyCutOff, BodyRefused, decompressed
from batchgen.http.network_policy import (
    GatewayResolver,
    PublicOnlyResolver,
    is_private_host,
    private_host_refused,
)
from batchgen.jobs import is_inline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE_SECONDS = 60.0
DOWNLOAD_SECONDS = 900.0  # in all: a host that sends a byte a minute would hold a download for ever
LARGEST_IMAGE = 256 * 1024 * 1024
_MAX_REDIRECTS = 5
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_AS_WRITTEN = re.compile(r"[!-~]+")  # printable ASCII: a link that needs no quoting, and may be signed as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where the links of one account may lead. Only the run that reaches its gateway can tell; a worker is told."""

    is_private: bool  # its gateway is on this machine or in a private network: its images may be there too
    may_be_http: bool
    host: str  # its gateway's
    has_private_name: bool | None = None  # its gateway has, though a proxy is used; None: looked up when it matters


_NOWHERE = Reach(is_private=False, may_be_http=False, host="")


class Downloader:
    """Downloads for one run: `unrestricted` connects to any host, `public` only to public addresses."""

    def __init__(
        self, gateways: GatewayResolver, *, unrestricted: aiohttp.ClientSession, public: aiohttp.ClientSession
    ) -> None:
        self._gateways = gateways
        self._unrestricted = unrestricted
        self._public = public
        self._proxied_names: set[tuple[str, str]] = set()  # may be requested through a proxy, for a gateway's host
        self._have_private_names: dict[str, bool] = {}  # gateways, by base_url

    @asynccontextmanager
    async def image(
        self, url: str, *, base_url: str, idle_timeout: float = IDLE_SECONDS
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of an image, in pieces; no key is sent, whoever the host is.

        `base_url` is the account's; `idle_timeout`: seconds without a byte from the host. Raises as `within`.
        """
        reach = _NOWHERE if is_inline(url) else await self._reach(base_url)
        async with self.within(reach, url, idle_timeout=idle_timeout) as body:
            yield body

    async def reach(self, base_url: str) -> Reach:
        """Where an account's links may lead, complete: for a worker, which must look up nothing of it."""
        reach = await self._reach(base_url)
        if reach.is_private:
            return reach
        if base_url not in self._have_private_names:
            is_proxied = bool(usable_proxy(base_url))  # else its addresses are not private
            self._have_private_names[base_url] = is_proxied and await self._gateways.is_private(reach.host)
        return replace(reach, has_private_name=self._have_private_names[base_url])

    @asynccontextmanager
    async def within(self, reach: Reach, url: str, *, idle_timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The same for a link that may lead only where `reach` says.

        A `data:` link (RFC 2397, in base64) holds the image itself. Raises LinkExpired where the image is not there
        (any more), ImageBroken where fewer bytes come than were announced, LinkRefused where the link leads into a
        network that the account's gateway is not in, Unclear for everything that may be better next time.
        """
        if is_inline(url):
            yield _one_piece(await asyncio.to_thread(_decoded, url))
            return
        link = _link(url)
        try:
            response = await self._follow(link, reach, idle_timeout)
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
                raise TooFewDescriptors(str(translate_error(error, url))) from error
            raise Unclear(str(translate_error(error, url))) from error

    async def _follow(self, link: URL, reach: Reach, idle_timeout: float) -> aiohttp.ClientResponse:
        """The answer after all redirects. Each hop is checked, for a public host may redirect anywhere.

        A redirect from https to http is refused, unless the account's own gateway is no better protected.
        """
        is_private = reach.is_private
        for _ in range(_MAX_REDIRECTS + 1):
            if not is_private:
                _refuse_private(link)
            proxy = usable_proxy(str(link))
            if proxy and not is_private:
                await self._refuse_private_name(link, reach)
            session = self._unrestricted if is_private or proxy else self._public
            response = await session.get(link, proxy=proxy, allow_redirects=False, timeout=_timeouts(idle_timeout))
            if response.status not in _REDIRECT_STATUSES or "Location" not in response.headers:
                return response
            response.release()
            target = _link(response.headers["Location"], base=link)
            if (link.scheme, target.scheme) == ("https", "http") and not reach.may_be_http:
                raise LinkRefused(
                    f"The image's link is not followed: {link.raw_host} redirects from https to plain http at"
                    f" {target.raw_host}, where the image could be changed on its way."
                )
            link = target
        raise LinkRefused(f"The image's link is not followed: it is redirected more than {_MAX_REDIRECTS} times.")

    async def _reach(self, base_url: str) -> Reach:
        host = urlsplit(base_url).hostname or ""
        is_private = is_private_host(host) or (not usable_proxy(base_url) and await self._gateways.is_private(host))
        return Reach(is_private=is_private, may_be_http=is_private or base_url.startswith("http:"), host=host)

    async def _refuse_private_name(self, link: URL, reach: Reach) -> None:
        """Refuse a private name before a proxy resolves it, which may reach what only a company may.

        A name without an address here is left to the proxy. A gateway with a private name may have its images there.
        """
        host = link.raw_host or ""
        if (host, reach.host) in self._proxied_names:
            return
        if await self._gateways.is_private(host):
            may_be = reach.has_private_name
            if not (await self._gateways.is_private(reach.host) if may_be is None else may_be):
                raise private_host_refused(host, host)
        self._proxied_names.add((host, reach.host))


@asynccontextmanager
async def open_downloader(in_flight: int, gateways: GatewayResolver) -> AsyncIterator[Downloader]:
    """A downloader for at most `in_flight` downloads at a time, connections kept alive between them.

    Public hosts have connections of their own, all opened to checked addresses.
    """
    async with _session(in_flight, gateways) as unrestricted, _session(in_flight, PublicOnlyResolver()) as public:
        yield Downloader(gateways, unrestricted=unrestricted, public=public)


def _session(in_flight: int, resolver: aiohttp.ThreadedResolver) -> aiohttp.ClientSession:
    """Bodies are decompressed here, within bounds, where a host compresses although it was asked not to."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight, limit_per_host=0, ttl_dns_cache=300, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": NAME, "Accept-Encoding": "identity"},
        auto_decompress=False,
        timeout=_timeouts(IDLE_SECONDS),
    )


def _timeouts(idle_timeout: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=DOWNLOAD_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=idle_timeout)


def _link(text: str, *, base: URL | None = None) -> URL:
    """A link, or a redirect of one, as it is written: a signature may be over its very letters.

    Raises ImageBroken, or LinkRefused for a redirect, where it is no http or https address.
    """
    kind = ImageBroken if base is None else LinkRefused
    source = "The gateway gave a link" if base is None else f"The image's host {base.raw_host} redirects to a link"
    try:
        link = URL(text, encoded=_AS_WRITTEN.fullmatch(text) is not None)
        link = link if base is None else base.join(link)
        is_usable = link.scheme in {"http", "https"} and link.raw_host and link.port
    except ValueError:
        is_usable = False
    if not is_usable:
        raise kind(f"{source} that is no http or https address: {text[:60]}")
    return link


def _refuse_private(link: URL) -> None:
    host = link.raw_host or ""
    try:
        is_private = is_private_host(host)
    except ValueError:
        raise LinkRefused(f"The image's link is not followed: {host} is neither a name nor an address.") from None
    if is_private:
        raise private_host_refused(host, host)


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The decompressed body. Raises ImageBroken where it is too large or ends too soon."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if (response.content_length or 0) > LARGEST_IMAGE:
        raise ImageBroken(f"The image is larger than {LARGEST_IMAGE} bytes.")
    try:
        async for part in decompressed(response.content.iter_any(), coding, LARGEST_IMAGE):
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
        raise LinkExpired("The image was part of the gateway's answer, and is kept only until its file is written.")
    if not head.endswith(";base64"):
        raise ImageBroken(f"The gateway gave an image that is not in base64: {head[:60]}")
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:
        raise ImageBroken(f"The gateway's answer holds an image that is no base64 ({error}).") from error
