"""A sandbox that records every request as it came; a test may replace an answer of the gateway.

    with Recorder(emulate="kapon") as recorder:
        recorder.answers["create"] = lambda sent: Reply(status=502, body=b"<html>")

Both are real servers on loopback, in a thread of the test's own process. What is answered so was accepted only
where the reply says so.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

from batchgen.sandbox.server import Sandbox
from batchgen.sandbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request as it came. `number` counts those of its kind, from 1."""

    kind: str  # create | query | list | image
    number: int
    method: str
    target: str  # path and query, not decoded
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        """The body of a create, read."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is answered in the gateway's place; with `accepted` the gateway got the request first."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: bool = False
    cut: bool = False  # the connection is cut in place of an answer


class Recorder:
    """Runs between `with` and its end. `settings` are the sandbox's."""

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings(**{"latency": 0.0, "blank_images": True, **settings})
        self.answers: dict[str, Callable[[Sent], Reply | None]] = {}
        self.sent: list[Sent] = []
        self.origin = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="recorder")

    def of(self, kind: str) -> list[Sent]:
        """Requests of a kind so far, in their order."""
        return [sent for sent in self.sent if sent.kind == kind]

    def clear(self) -> None:
        """Forget what was sent, and answer as the gateway does."""
        self.sent.clear()
        self.answers.clear()

    def usage(self) -> dict[str, Any]:
        """What the sandbox has billed so far."""
        return self.sandbox.usage.report()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        kind = _kind(request.method, request.path)
        sent = Sent(
            kind=kind,
            number=len(self.of(kind)) + 1,
            method=request.method,
            target=request.raw_path,
            headers=dict(request.headers),
            body=await request.read(),
        )
        self.sent.append(sent)
        reply = self.answers.get(kind, lambda _: None)(sent)
        if reply is None or reply.accepted:
            own = await self._forward(sent)
            if reply is None:
                return own
        if reply.cut and request.transport is not None:
            request.transport.abort()
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    async def _forward(self, sent: Sent) -> web.Response:
        url = URL(self.sandbox.origin + sent.target, encoded=True)
        body = io.BytesIO(sent.body) if sent.body else None
        async with self._session.request(sent.method, url, headers=sent.headers, data=body) as answer:
            kept = {name: value for name, value in answer.headers.items() if name not in {"Content-Length", "Server"}}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with Sandbox(self._settings) as self.sandbox, aiohttp.ClientSession() as self._session:
            app = web.Application(client_max_size=32 * 1024 * 1024)
            app.router.add_route("*", "/{whatever:.*}", self._answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.origin = "http://127.0.0.1:{1}".format(*runner.addresses[0])
            self._ready.set()
            await self._ended.wait()
            await runner.cleanup()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the recorder did not start"
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


def _kind(method: str, path: str) -> str:
    if method == "POST":
        return "create"
    if path.startswith("/images/"):
        return "image"
    return "list" if path.endswith("/generations") else "query"
