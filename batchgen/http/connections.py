"""Connections to gateways: kept alive no longer than servers keep them, and never believed before they are asked."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import aiohttp

from batchgen.http.timeouts import seconds_asleep

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

# uvicorn and Node close an idle connection after 5 s. What is sent at that moment gets no answer, and nobody can say
# whether it arrived.
KEPT_ALIVE_SECONDS = 4.0
_SUSPENDED_SECONDS = 1.0  # by so much the two clocks differ only after the machine was suspended


class GatewayConnector(aiohttp.TCPConnector):
    """Hands out connections on which nothing has come yet, and of which nothing shows that the other end has left."""

    def __init__(self, *, limit: int, resolver: aiohttp.ThreadedResolver, fresh: bool = False) -> None:
        super().__init__(
            limit=limit,
            limit_per_host=0,
            ttl_dns_cache=300,
            resolver=resolver,
            force_close=fresh,
            keepalive_timeout=None if fresh else KEPT_ALIVE_SECONDS,
        )
        self._used: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()  # and how long we had slept then

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        """As aiohttp asks for it: with bytes in it that came unasked, the next answer would be another request's.

        Raises ClientConnectionError where a new connection speaks before it is asked.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None:
                return connection
            last_used = self._used.get(protocol)
            self._used[protocol] = asleep = seconds_asleep()
            is_old = last_used is not None and asleep - last_used > _SUSPENDED_SECONDS
            # Over TLS, a new connection has more to say than answers.
            is_looked_into = last_used is not None or not req.is_ssl()
            if not (is_old or protocol.should_close or (is_looked_into and _has_news(protocol))):
                return connection
            connection.close()
            if last_used is None:
                raise SpokeFirst("it answered before it was asked")


class SpokeFirst(aiohttp.ClientConnectionError):
    """A new connection on which something came before anything was sent."""


def _has_news(protocol: ResponseHandler) -> bool:
    """Whether unread bytes, an end or an error have arrived on the connection."""
    socket = None if protocol.transport is None else protocol.transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
