"""Connections to gateways: kept alive no longer than servers keep them, and without unrequested bytes."""

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
    """Hands out connections on which no bytes are waiting, and which the server is not known to have closed."""

    def __init__(self, *, limit: int, resolver: aiohttp.ThreadedResolver, is_pooled: bool = True) -> None:
        super().__init__(
            limit=limit,
            limit_per_host=0,
            ttl_dns_cache=300,
            resolver=resolver,
            force_close=not is_pooled,
            keepalive_timeout=KEPT_ALIVE_SECONDS if is_pooled else None,
        )
        self._used: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()  # when used, by `seconds_asleep`

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        """As in aiohttp. Bytes that came unrequested would be taken for the answer to the next request.

        Raises ClientConnectionError where a new connection receives bytes before a request is sent.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None:
                return connection
            last_used = self._used.get(protocol)
            self._used[protocol] = asleep = seconds_asleep()
            is_old = last_used is not None and asleep - last_used > _SUSPENDED_SECONDS
            # Over TLS, a new connection receives more than answers.
            is_checked = last_used is not None or not req.is_ssl()
            if not (is_old or protocol.should_close or (is_checked and _is_readable(protocol))):
                return connection
            connection.close()
            if last_used is None:
                raise UnrequestedBytes("it sent bytes before a request")


class UnrequestedBytes(aiohttp.ClientConnectionError):
    """A new connection received bytes before a request was sent."""


def _is_readable(protocol: ResponseHandler) -> bool:
    """Whether unread bytes, an end or an error have arrived on the connection."""
    socket = None if protocol.transport is None else protocol.transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
