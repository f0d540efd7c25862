"""The callback intake: while a run is going, the gateway may say here that a task has changed.

It stands open to the world, so it takes little from anybody: one request a connection, a few seconds, a small body.
What it is told is a hint to ask, never the truth; whoever calls gets 200 for every JSON object, so that a gateway
does not repeat what we know.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp.web_protocol import RequestHandler

    from batchgen.callbacks.endpoint import Address

LARGEST_BODY = 256 * 1024
MOST_CONNECTIONS = 128
_PAUSE_SECONDS = 0.1  # after a caller who could not be let in
REQUEST_SECONDS = 10.0  # from the connection to its end, however slow the sender is

_SILENT = logging.getLogger("batchgen.callbacks.server")  # what strangers send is no news, and must not fill a log
_SILENT.disabled = True


class CallbackServer:
    """Answers calls, and hands what they say to `hear`."""

    def __init__(self, address: Address, hear: Callable[[Mapping[str, Any]], None]) -> None:
        self._address = address
        self._hear = hear
        self.calls = 0  # that were understood

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request's answer, after which the connection is closed."""
        response = web.Response(status=await self._status(request))
        if response.status == 405:
            response.headers["Allow"] = "POST"
        response.force_close()
        return response

    async def _status(self, request: web.BaseRequest) -> int:
        if not self._address.is_meant_by(request.raw_path):
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
        self.calls += 1
        self._hear(call)
        return 200


async def _body(request: web.BaseRequest) -> bytes | None:
    """The whole body, or None where it is too large."""
    if (request.content_length or 0) > LARGEST_BODY:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # curl would else wait a second
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


class _Server(web.Server):
    """Bounds what strangers can hold: so many connections, each for so many seconds; more wait to be let in."""

    def __init__(self, intake: CallbackServer, *, seconds: float) -> None:
        super().__init__(
            intake.answer,
            access_log=None,
            logger=_SILENT,
            auto_decompress=False,  # nobody compresses a task, and a little that becomes much is an attack
            lingering_time=1.0,  # seconds in which the rest of a refused body is read, so that the refusal arrives
        )
        self._seconds = seconds
        self._ends: dict[RequestHandler, asyncio.TimerHandle] = {}
        self._places = asyncio.Semaphore(_most_connections())

    async def listen(self, port: socket.socket) -> None:
        """Let callers in until cancelled.

        asyncio's own loop accepts without a bound: what is cut at once leaves a traceback of aiohttp's, and one of its
        own is logged for each that finds no file descriptor.
        """
        port.settimeout(0)
        while True:
            await self._places.acquire()
            try:
                caller, _ = await self._loop.sock_accept(port)
                await self._let_in(caller)
            except OSError:  # it has left already, or there is no file descriptor for it now
                self._places.release()
                await asyncio.sleep(_PAUSE_SECONDS)
            except BaseException:
                self._places.release()
                raise

    async def _let_in(self, caller: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self, caller)
        except BaseException:
            caller.close()
            raise

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Let it in, for a while."""
        super().connection_made(handler, transport)
        self._ends[handler] = self._loop.call_later(self._seconds, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Its time need not be looked after any more, and its place is free."""
        super().connection_lost(handler, exc)
        if (end := self._ends.pop(handler, None)) is not None:
            end.cancel()
            self._places.release()


def _most_connections() -> int:
    """A part of what this process may open: files and downloads come first."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if allowed == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, allowed // 4))


@asynccontextmanager
async def open_callback_server(
    address: Address, hear: Callable[[Mapping[str, Any]], None], *, seconds: float = REQUEST_SECONDS
) -> AsyncIterator[CallbackServer]:
    """Take calls while the context is open; `seconds` is what one may take."""
    intake = CallbackServer(address, hear)
    server = _Server(intake, seconds=seconds)
    async with asyncio.TaskGroup() as group:
        listening = [group.create_task(server.listen(port)) for port in address.sockets]
        try:
            yield intake
        finally:
            for each in listening:
                each.cancel()
            await server.shutdown(0.1)
