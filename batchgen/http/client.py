"""The only way out: sessions, timeouts, size caps, and one translation of foreign errors.

There are no retries here: one layer retries (the engine), so that its count is what the user set.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from batchgen import __version__
from batchgen.errors import (
    CommandError,
    NameNotFound,
    NotSent,
    ProxyFailed,
    RequestBlocked,
    TlsFailed,
    Unclear,
)
from batchgen.http.connections import GatewayConnector, SpokeFirst
from batchgen.http.decompression import CODINGS, BodyRefused, unpacked
from batchgen.http.network_policy import Gateways
from batchgen.http.proxies import proxy_of
from batchgen.http.timeouts import RequestTimeout, request_timeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace

CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 60.0  # where the account says nothing else
LARGEST_ANSWER = 8 * 1024 * 1024  # bytes, unpacked; one that holds images is given more by whoever asks
NAME = f"batchgen/{__version__}"
_HEAD = 500  # bytes of an answer that are kept with a failure
_LARGE = 1024 * 1024
_NEVER_FROM_A_CACHE = {"Cache-Control": "no-cache", "Pragma": "no-cache"}  # an old "not found" would be paid for
_REFUSED_BY_PROXY = "The proxy on the way to {host} wants a password (HTTP 407): put it into the proxy's variable."
_ONLY_CONNECTING = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # the rest is `request_timeout`'s


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: status, headers and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def head(self) -> str:
        """The first bytes as text, to be kept with a failure."""
        return self.body[:_HEAD].decode("utf-8", "replace")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the answer asks to wait, or None; a date is not read, for clocks differ."""
        value = self.headers.get("Retry-After", "").strip()
        return float(value) if value.isascii() and value.isdigit() else None

    @property
    def date(self) -> float | None:
        """The time by the answering side's clock, in Unix seconds, to the second; None where it does not say."""
        try:
            return parsedate_to_datetime(self.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            return None


class HttpClient:
    """An HTTP client for one run. `gateways` knows which accounts are in a private network.

    `kept` keeps its connections alive between requests, `fresh` has a new one for each.
    """

    def __init__(self, gateways: Gateways, *, kept: aiohttp.ClientSession, fresh: aiohttp.ClientSession) -> None:
        self.gateways = gateways
        self._kept = kept
        self._fresh = fresh

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        within: float = ANSWER_SECONDS,
        most: int = LARGEST_ANSWER,
        fresh: bool = False,
    ) -> Answer:
        """One request and its whole answer. Redirects are not followed: a key goes to its own host only.

        `within`: seconds for which the answer is waited for, once it was asked for, and for the rest of it once it
        has begun; `most`: bytes that it may have; `fresh`: over a new connection, on which no other end can come.
        Raises NotSent where the request certainly did not arrive, Unclear where it may have.
        """
        session = self._fresh if fresh else self._kept
        if method == "GET":
            headers = {**headers, **_NEVER_FROM_A_CACHE}
        sent = False
        try:
            async with request_timeout(within + CONNECT_SECONDS) as timeout:
                try:
                    async with session.request(
                        method,
                        url,
                        headers=headers,
                        data=_payload(body),
                        proxy=way_to(url),
                        allow_redirects=False,
                        timeout=_ONLY_CONNECTING,
                        trace_request_ctx=_Sending(timeout, within),
                    ) as response:
                        timeout.restart(within)
                        whole = await _whole(response, most)
                        if response.status == 407:  # a proxy's word (RFC 9110, 15.5.8): it has let nothing through
                            raise ProxyFailed(_REFUSED_BY_PROXY.format(host=_host(url)))
                        return Answer(status=response.status, headers=response.headers, body=whole)
                finally:
                    sent = timeout.sent
        except BodyRefused as error:
            raise Unclear(f"{_host(url)} sent an answer that is not read: {error}.") from error
        except TimeoutError as error:
            raise (translated(error, url) if sent else _not_reached(error, _host(url))) from error
        except (aiohttp.ClientError, OSError) as error:
            raise translated(error, url) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question and its answer. `at` is our Unix time in the middle between the two, `seconds` how long it took."""

    url: str
    answer: Answer
    at: float
    seconds: float

    @property
    def ahead(self) -> float | None:
        """Seconds that our clock is ahead of the answer's `Date`, to about half a second; None where it has none."""
        told = self.answer.date
        return None if told is None else self.at - (told + 0.5)  # a date is cut to its second


class GetOnlyClient(HttpClient):
    """A door that lets only questions out, and remembers the answers: nothing that it sends can cost money."""

    def __init__(self, gateways: Gateways, *, kept: aiohttp.ClientSession, fresh: aiohttp.ClientSession) -> None:
        super().__init__(gateways, kept=kept, fresh=fresh)
        self.heard: list[Exchange] = []

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        within: float = ANSWER_SECONDS,
        most: int = LARGEST_ANSWER,
        fresh: bool = False,
    ) -> Answer:
        """As `HttpClient.send`. Raises RequestBlocked for everything that is not a plain GET."""
        if method != "GET" or body is not None:
            raise RequestBlocked(f"A {method} was held back: it is no question, and might cost something.")
        began, wall = time.monotonic(), time.time()
        answer = await super().send(method, url, headers=headers, within=within, most=most, fresh=fresh)
        seconds = time.monotonic() - began
        self.heard.append(Exchange(url=url, answer=answer, at=wall + seconds / 2, seconds=seconds))
        return answer


@asynccontextmanager
async def open_http_client(in_flight: int) -> AsyncIterator[HttpClient]:
    """A door for at most `in_flight` requests at a time, its connections kept alive between them."""
    async with opened(HttpClient, in_flight) as door:
        yield door


_D = TypeVar("_D", bound=HttpClient)


@asynccontextmanager
async def opened(kind: type[_D], in_flight: int) -> AsyncIterator[_D]:
    """`open_http_client` for a door of another kind: one that listens, or lets less through."""
    gateways = Gateways()
    kept = _session(GatewayConnector(limit=in_flight, resolver=gateways))
    fresh = _session(GatewayConnector(limit=in_flight, resolver=gateways, fresh=True))
    async with kept, fresh:
        yield kind(gateways, kept=kept, fresh=fresh)


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """Answers may come packed, and are unpacked here within bounds: few bytes can be gigabytes."""
    sending = aiohttp.TraceConfig()
    sending.on_request_headers_sent.append(_note_sent)
    sending.on_request_chunk_sent.append(_note_sent)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": NAME, "Accept-Encoding": "gzip"},
        auto_decompress=False,
        trace_configs=[sending],
    )
    # aiohttp sends a PUT that got no answer a second time by itself (RFC 9112, 9.3.1, allows it for idempotent
    # methods), and tells nobody: of a create, the second answer would be taken for the first. It has no public
    # switch for that; its own test client sets this one.
    session._retry_connection = False  # noqa: SLF001
    return session


@dataclass(frozen=True, slots=True)
class _Sending:
    """A request on its way out: the wait for its answer begins anew with each part that leaves."""

    timeout: RequestTimeout
    within: float


async def _note_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _part: object) -> None:
    sending: _Sending = context.trace_request_ctx
    sending.timeout.sent = True
    sending.timeout.restart(sending.within)


def way_to(url: str) -> str | None:
    """The proxy on the way to an address, if there is to be one. Raises ProxyFailed where it cannot be used."""
    try:
        return proxy_of(url)
    except CommandError as error:
        raise ProxyFailed(str(error)) from error


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body is written in pieces: at once it would hold up the loop, and aiohttp warns of it."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in CODINGS | {"", "identity"}:
        raise BodyRefused(f"it is packed as {coding[:40]!r}, which was not asked for")
    body = bytearray()
    async for part in unpacked(response.content.iter_any(), coding, most):
        body += part
    return bytes(body)


def _host(url: str) -> str:
    """The host and port, without what may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def translated(error: Exception, url: str) -> NotSent | Unclear:
    """A foreign error as ours. Only what happened before the first byte left is `NotSent`."""
    host = _host(url)
    if isinstance(
        error,
        aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.ConnectionTimeoutError | SpokeFirst,
    ):
        return _not_reached(error, host)
    if isinstance(error, aiohttp.InvalidURL):
        return NotSent(f"{url[:80]} is not a usable address.")
    if isinstance(error, TimeoutError):
        return Unclear(f"{host} did not answer in time.")
    return Unclear(f"The connection to {host} was lost before an answer came ({_reason(error)}).")


def _not_reached(error: Exception, host: str) -> NotSent:
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return ProxyFailed(f"The proxy on the way to {host} lets nothing through: {_reason(error)}.")
    kind = NotSent
    if isinstance(error, aiohttp.ClientSSLError):
        kind = TlsFailed
    elif isinstance(getattr(error, "os_error", None), socket.gaierror):
        kind = NameNotFound
    return kind(f"{host} cannot be reached: {_reason(error)}.")


def _reason(error: Any) -> str:  # noqa: ANN401 - of two unrelated trees
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, TimeoutError):
        return "it did not answer in time"
    if isinstance(inner, socket.gaierror):
        return "its name is not found"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({inner.verify_message})"
    if isinstance(inner, aiohttp.ClientHttpProxyError):
        return f"it answered HTTP {inner.status} {inner.message}".strip()
    if isinstance(inner, OSError) and inner.errno and inner.errno > 0:
        return os.strerror(inner.errno)
    return str(inner) or type(inner).__name__
