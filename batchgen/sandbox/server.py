"""The sandbox: a gateway on loopback that serves Kling's, OpenAI's or a declared image API over real HTTP.

It uses aiohttp's low-level server, and tasks need no timers: as the other side of a benchmark it must cost little.
"""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl

from aiohttp import web

from batchgen.catalog.accounts import SANDBOX_HEADER, Auth
from batchgen.catalog.load import builtin
from batchgen.errors import CommandError
from batchgen.sandbox.api import JSON, MAX_BODY_BYTES, STEP, Api, Handler
from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.declared import DeclaredApi
from batchgen.sandbox.images import PREFIX, ImageHost
from batchgen.sandbox.injector import InjectedAnswer, Injector
from batchgen.sandbox.kling import KlingApi
from batchgen.sandbox.openai import OpenAIApi
from batchgen.sandbox.task_store import TaskStore
from batchgen.sandbox.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from batchgen.sandbox.settings import Settings

_PROTOCOLS: Mapping[str, Callable[[Sandbox], Api]] = {"kling": KlingApi, "openai": OpenAIApi, "declared": DeclaredApi}
_ABOUT = """\
<!doctype html><meta charset="utf-8"><title>batchgen sandbox</title>
<h1>batchgen sandbox</h1>
<p>A local gateway for tests. It speaks Kling's, OpenAI's or a declared image API, costs nothing, and paints placeholder
images.</p>
<p>Its usage is at <a href="/_usage">/_usage</a>, the totals alone at <a href="/_usage?tasks=0">/_usage?tasks=0</a>.</p>
"""


class Sandbox:
    """A gateway that runs while the context is open: `async with Sandbox(settings) as sandbox`.

    `clock` gives Unix seconds. Entering raises CommandError when the port is in use or the state cannot be read.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.closing = asyncio.Event()  # set when the sandbox stops
        accounts = builtin().accounts
        self.account = settings.account or accounts[settings.emulate]
        self.auth = self.account.auth if settings.require_key else Auth.NONE
        self.clock: Callable[[], int] = lambda: int(clock() * 1000)  # Unix milliseconds
        self.injector = _injector(settings, self.closing)
        self.store = TaskStore(settings, accounts["sandbox"].prices, self.clock, self.injector)
        self.usage = Usage(self.store, self.injector, self.clock)
        self.images = ImageHost(settings, self.store, self.clock, self.injector)
        self._api = _PROTOCOLS[self.account.protocol](self)
        self._routes: dict[tuple[str, str], tuple[str, Handler]] = {
            ("GET", "/_usage"): ("usage", self._answer_usage),
            ("GET", "/"): ("about", self._answer_about),
            ("GET", ""): ("about", self._answer_about),
            **self._api.routes,
        }
        self._subtrees = {("GET", PREFIX): ("image", self.images.answer), **self._api.subtrees}
        self.origin = ""  # as in http://127.0.0.1:8080, once it listens

    @property
    def base_url(self) -> str:
        return self.origin + self._api.prefix

    async def __aenter__(self) -> Self:
        """Read the state, and listen."""
        try:
            self.store.open(self._api.request_of)
            self._runner, port = await self._listen()
        except BaseException:
            self._release()
            raise
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.origin = f"http://{host}:{port}"
        self._api.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; requests that hang end."""
        self.closing.set()
        await self._api.close()
        await self._runner.cleanup()
        self._release()

    def _release(self) -> None:
        self.images.close()
        self.store.close()

    async def _listen(self) -> tuple[web.ServerRunner, int]:
        make_request = partial(web.BaseRequest, loop=asyncio.get_running_loop(), client_max_size=MAX_BODY_BYTES)
        server = web.Server(self._serve, request_factory=make_request, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, self.settings.host, self.settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            address = f"{self.settings.host} port {self.settings.port}"
            raise CommandError(
                f"The sandbox cannot listen on {address}: {error.strerror}. Choose another port, or 0 for a free one."
            ) from error
        return runner, runner.addresses[0][1]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, count it in the usage, and mark the answer as a sandbox's."""
        path, _, query = request.raw_path.partition("?")
        path = path.removeprefix(self._api.prefix)
        kind, handler = self._route(request.method, path)
        STEP.set("")
        try:
            response = await handler(request, path, query)
            self.usage.count(STEP.get() or kind, "0" if response.status in {200, 201, 202} else str(response.status))
        except ApiError as error:
            self.usage.count(STEP.get() or kind, str(error.code))
            response = self._error_response(error, request)
        except InjectedAnswer as injected:
            self.usage.count(STEP.get() or kind, injected.label)
            response = await injected.respond(request)
        if self.settings.marked and not response.prepared:
            response.headers[SANDBOX_HEADER] = "1"
        return response

    def _route(self, method: str, path: str) -> tuple[str, Handler]:
        """The kind of a request, for the usage, and its handler."""
        if (found := self._routes.get((method, path))) is not None:
            return found
        for (known_method, start), found in self._subtrees.items():
            if method == known_method and path.startswith(start):
                return found
        return "other", self._answer_unknown

    def _error_response(self, error: ApiError, request: web.BaseRequest) -> web.Response:
        headers = JSON if error.retry_after is None else {**JSON, "Retry-After": str(error.retry_after)}
        status, body = self._api.error(error, request)
        return web.Response(body=body, status=status, headers=headers)

    async def _answer_usage(self, _request: web.BaseRequest, _path: str, query: str) -> web.Response:
        tasks = dict(parse_qsl(query)).get("tasks") != "0"
        return web.Response(body=json.dumps(self.usage.report(tasks=tasks)).encode(), headers=JSON)

    async def _answer_about(self, _request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        return web.Response(text=_ABOUT, content_type="text/html")

    async def _answer_unknown(self, request: web.BaseRequest, path: str, _query: str) -> web.Response:
        raise ApiError(1202, f"there is no {request.method} {path} here")


def _injector(settings: Settings, closing: asyncio.Event) -> Injector:
    if settings.faults is None:
        return Injector()
    from batchgen.sandbox.faults.injector import FaultInjector  # noqa: PLC0415 - only with --faults

    return FaultInjector(settings.faults, settings.seed, closing)
