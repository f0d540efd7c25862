"""The HTTP client: sessions, timeouts, size limits, and the translation of errors.

It never retries: only the engine does, so that the number of tries is what the user set.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self
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
from batchgen.http.connections import GatewayConnector, UnrequestedBytes
from batchgen.http.decompression import CODINGS, LARGEST_ANSWER, BodyRefused, decompressed
from batchgen.http.network_policy import GatewayResolver
from batchgen.http.proxies import proxy_of
from batchgen.http.timeouts import request_timeout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 60.0  # where the account says nothing else
NAME = f"batchgen/{__version__}"
_EXCERPT_BYTES = 500
_LARGE = 1024 * 1024
_NEVER_FROM_A_CACHE = {"Cache-Control": "no-cache", "Pragma": "no-cache"}  # an old "not found" would be paid for
_REFUSED_BY_PROXY = "The proxy for {host} requires a password (HTTP 407). Add it to the proxy's environment variable."
_ONLY_CONNECTING = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # `request_timeout` does the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def body_excerpt(self) -> str:
        """The first bytes as text, kept with a failure."""
        return self.body[:_EXCERPT_BYTES].decode("utf-8", "replace")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the answer asks to wait, or None; a date is ignored, for clocks differ."""
        value = self.headers.get("Retry-After", "").strip()
        return float(value) if value.isascii() and value.isdigit() else None

    @property
    def date(self) -> float | None:
        """The server's time in Unix seconds, to the second; None where the answer does not give it."""
        try:
            return parsedate_to_datetime(self.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            return None


class HttpClient:
    """An HTTP client for at most `in_flight` requests at a time; `gateways` knows which are in a private network."""

    def __init__(self, in_flight: int) -> None:
        self.gateways = GatewayResolver()
        self._pooled = _session(GatewayConnector(limit=in_flight, resolver=self.gateways))
        self._unpooled = _session(GatewayConnector(limit=in_flight, resolver=self.gateways, is_pooled=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        async with self._pooled, self._unpooled:
            pass  # both are closed, whatever happens to one

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        answer_timeout: float = ANSWER_SECONDS,
        max_bytes: int = LARGEST_ANSWER,
        new_connection: bool = False,
    ) -> Answer:
        """One request and its whole answer. Redirects are not followed: a key goes to its own host only.

        `answer_timeout`: seconds to wait for the answer once the request is sent, and for its rest once it has begun;
        `max_bytes`: of the answer's body; `new_connection`: on which no other side can have closed the connection.
        Raises NotSent where the request certainly did not arrive, Unclear where it may have.
        """
        session = self._unpooled if new_connection else self._pooled
        if method == "GET":
            headers = {**headers, **_NEVER_FROM_A_CACHE}
        sent = False
        try:
            async with request_timeout(answer_timeout + CONNECT_SECONDS) as timeout:
                try:
                    async with session.request(
                        method,
                        url,
                        headers=headers,
                        data=_payload(body),
                        proxy=usable_proxy(url),
                        allow_redirects=False,
                        timeout=_ONLY_CONNECTING,
                        trace_request_ctx=partial(timeout.part_sent, answer_timeout),
                    ) as response:
                        timeout.restart(answer_timeout)
                        whole = await _whole(response, max_bytes)
                        if response.status == 407:  # only a proxy says this (RFC 9110, 15.5.8): nothing got through
                            raise ProxyFailed(_REFUSED_BY_PROXY.format(host=_host(url)))
                        return Answer(status=response.status, headers=response.headers, body=whole)
                finally:
                    sent = timeout.sent
        except BodyRefused as error:
            raise Unclear(f"The answer of {_host(url)} is not read: {error}.") from error
        except TimeoutError as error:
            raise (translate_error(error, url) if sent else _not_reached(error, _host(url))) from error
        except (aiohttp.ClientError, OSError) as error:
            raise translate_error(error, url) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its answer. `at` is our Unix time in the middle between the two, `seconds` how long it took."""

    url: str
    answer: Answer
    at: float
    seconds: float

    @property
    def clock_skew(self) -> float | None:
        """Seconds that our clock is ahead of the answer's `Date`, to about half a second; None where it has none."""
        date = self.answer.date
        return None if date is None else self.at - (date + 0.5)  # a date is cut to its second


class GetOnlyClient(HttpClient):
    """Sends only GET requests, which cost nothing, and keeps their answers."""

    def __init__(self, in_flight: int) -> None:
        super().__init__(in_flight)
        self.exchanges: list[Exchange] = []

    async def send(self, method: str, url: str, *, body: bytes | None = None, **options: Any) -> Answer:  # noqa: ANN401
        """As `HttpClient.send`. Raises RequestBlocked for everything that is not a plain GET."""
        if method != "GET" or body is not None:
            raise RequestBlocked(f"A {method} request was blocked, because it might cost something.")
        began, wall = time.monotonic(), time.time()
        answer = await super().send(method, url, **options)
        seconds = time.monotonic() - began
        self.exchanges.append(Exchange(url=url, answer=answer, at=wall + seconds / 2, seconds=seconds))
        return answer


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """Answers may be compressed, and are decompressed here within bounds: few bytes can become gigabytes."""
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
    # methods), without a sign of it: the second answer to a create would be taken for the first. There is no public
    # option for that; aiohttp's own test client sets this one.
    session._retry_connection = False  # noqa: SLF001
    return session


async def _note_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _part: object) -> None:
    context.trace_request_ctx()


def usable_proxy(url: str) -> str | None:
    """The proxy for a URL, if there is one. Raises ProxyFailed where it cannot be used."""
    try:
        return proxy_of(url)
    except CommandError as error:
        raise ProxyFailed(str(error)) from error


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body as a stream: written at once it would block the event loop, and aiohttp warns of it."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


async def _whole(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in CODINGS | {"", "identity"}:
        raise BodyRefused(f"its Content-Encoding {coding[:40]!r} was not asked for")
    body = bytearray()
    async for part in decompressed(response.content.iter_any(), coding, max_bytes):
        body += part
    return bytes(body)


def _host(url: str) -> str:
    """The host and port, without what may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def translate_error(error: Exception, url: str) -> NotSent | Unclear:
    """An error of aiohttp or the system as ours. Only what happened before the first byte left is `NotSent`."""
    host = _host(url)
    if isinstance(
        error,
        aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.ConnectionTimeoutError | UnrequestedBytes,
    ):
        return _not_reached(error, host)
    if isinstance(error, aiohttp.InvalidURL):
        return NotSent(f"{url[:80]} is not a usable address.")
    if isinstance(error, TimeoutError):
        return Unclear(f"{host} did not answer in time.")
    return Unclear(f"The connection to {host} was lost before an answer came ({_reason(error)}).")


def _not_reached(error: Exception, host: str) -> NotSent:
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return ProxyFailed(f"The proxy for {host} does not connect: {_reason(error)}.")
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
