"""The HTTP server for callbacks: during a run, a gateway may report here that a task has changed.

Anybody can connect, so it accepts little: one request a connection, a few seconds, a small body. A callback brings a
query and is never believed. Every JSON object gets 200, so that a gateway does not repeat it; 503 where the ledger
cannot keep what it names, so that it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchgen.errors import RunStopped

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from aiohttp.web_protocol import RequestHandler

    from batchgen.callbacks.addresses import CallbackAddresses

    OnCallback = Callable[[str, Mapping[str, Any]], Awaitable[None]]

LARGEST_BODY = 256 * 1024
MOST_CONNECTIONS = 128
_RETRY_SECONDS = 0.1  # after a connection that could not be accepted
REQUEST_SECONDS = 10.0  # from the connection to its end, however slow the sender is

_SILENT = logging.getLogger("batchgen.callbacks.server")  # anybody may send nonsense, which must not fill a log
_SILENT.disabled = True


class CallbackServer(web.Server):
    """Answers callbacks, and passes the external id of the attempt and the body of each to `on_callback`.

    Limits the number of connections and the seconds of each; further connections wait to be accepted.
    """

    def __init__(self, addresses: CallbackAddresses, on_callback: OnCallback, seconds: float) -> None:
        super().__init__(
            self.answer,
            access_log=None,
            logger=_SILENT,
            auto_decompress=False,  # nobody compresses a callback, except to fill our memory
            lingering_time=1.0,  # seconds to read the rest of a refused body, so that the answer arrives
        )
        self._addresses = addresses
        self._on_callback = on_callback
        self._seconds = seconds
        self._timers: dict[RequestHandler, asyncio.TimerHandle] = {}
        self._free_connections = asyncio.Semaphore(_most_connections())
        self.received = 0  # callbacks with a JSON object

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request's answer, after which the connection is closed."""
        response = web.Response(status=await self._status(request))
        if response.status == 405:
            response.headers["Allow"] = "POST"
        response.force_close()
        return response

    async def _status(self, request: web.BaseRequest) -> int:
        if (external_id := self._addresses.external_id_of(request.raw_path)) is None:
            return 404
        if request.method != "POST":
            return 405
        body = await _body(request)
        if body is None:
            return 413
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            call = None
        if not isinstance(call, dict):
            return 400
        self.received += 1
        try:
            await self._on_callback(external_id, call)
        except RunStopped:
            return 503
        return 200

    async def listen(self, port: socket.socket) -> None:
        """Accept connections until cancelled.

        asyncio's own server accepts without a limit, and logs a traceback for each connection that is reset at once or
        finds no file descriptor.
        """
        port.settimeout(0)
        while True:
            await self._free_connections.acquire()
            try:
                connection, _ = await self._loop.sock_accept(port)
                await self._accept(connection)
            except OSError:  # it was reset already, or no file descriptor is free
                self._free_connections.release()
                await asyncio.sleep(_RETRY_SECONDS)
            except BaseException:
                self._free_connections.release()
                raise

    async def _accept(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self, connection)
        except BaseException:
            connection.close()
            raise

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Accept the connection for a limited time."""
        super().connection_made(handler, transport)
        self._timers[handler] = self._loop.call_later(self._seconds, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Let another connection be accepted."""
        super().connection_lost(handler, exc)
        if (timer := self._timers.pop(handler, None)) is not None:
            timer.cancel()
            self._free_connections.release()


async def _body(request: web.BaseRequest) -> bytes | None:
    """The whole body, or None where it is too large."""
    if (request.content_length or 0) > LARGEST_BODY:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # curl would else wait a second
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def _most_connections() -> int:
    """A quarter of the file descriptors of this process: files and downloads come first."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if allowed == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, allowed // 4))


@asynccontextmanager
async def open_callback_server(
    sockets: Sequence[socket.socket],
    addresses: CallbackAddresses,
    on_callback: OnCallback,
    *,
    seconds: float = REQUEST_SECONDS,
) -> AsyncIterator[CallbackServer]:
    """Receive callbacks while the context is open; `seconds` is the time limit of one connection."""
    server = CallbackServer(addresses, on_callback, seconds)
    async with asyncio.TaskGroup() as group:
        listening = [group.create_task(server.listen(port)) for port in sockets]
        try:
            yield server
        finally:
            for each in listening:
                each.cancel()
            await server.shutdown(0.1)
