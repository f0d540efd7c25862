"""The sandbox itself: a gateway on loopback that answers as the Kling image API does.

Plain low-level handlers: as the other end of a benchmark it must cost little. A request is taken apart by
hand, answers are bytes that are put together as text, and a task's life is read off the clock.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from batchgen.catalog.accounts import SANDBOX_HEADER, Auth, Capability
from batchgen.catalog.load import builtin
from batchgen.errors import CommandError
from batchgen.sandbox import access, openai, responses
from batchgen.sandbox.api_error import Refusal
from batchgen.sandbox.callbacks import Callbacks
from batchgen.sandbox.faults.schedule import Act, Fault, FaultSchedule, Occasion
from batchgen.sandbox.images import ImageHost
from batchgen.sandbox.journal import Journal
from batchgen.sandbox.register import Register
from batchgen.sandbox.rules import Order, Rules
from batchgen.sandbox.task import Task
from batchgen.sandbox.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from types import TracebackType

    from aiohttp import StreamReader
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import RequestHandler

    from batchgen.catalog.accounts import Account
    from batchgen.catalog.load import Catalog
    from batchgen.sandbox.links import Links
    from batchgen.sandbox.settings import Settings

    Answer = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]

PATH = "/v1/images/generations"
PREFIX = "/kling"  # as at the gateways; the official service has none, and both are served
_MOST_BYTES = 24 * 1024 * 1024  # of a body: the largest image as base64, and room for the rest
_LARGE_BYTES = 256 * 1024  # a body that is not read in the event loop
_HANG_SECONDS = 3600.0
_JSON = {"Content-Type": "application/json"}
_PAGE = "<!doctype html><title>{status}</title><center><h1>{status}</h1><hr>proxy</center>\n"
_ABOUT = """\
<!doctype html><meta charset="utf-8"><title>batchgen sandbox</title>
<h1>batchgen sandbox</h1>
<p>A gateway for rehearsals that speaks the Kling image API. Nothing here costs money, and no model paints.</p>
<p>Requests go to <code>/kling/v1/images/generations</code>, also without <code>/kling</code>.
What was asked and billed stands in <a href="/_usage">/_usage</a>,
the sums alone in <a href="/_usage?tasks=0">/_usage?tasks=0</a>.</p>
"""


class _Struck(Exception):
    """No error, but the weather's way out of a request: a fault takes the place of the answer."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.name)


class Sandbox:
    """A gateway that runs while the context is open: `async with Sandbox(settings) as sandbox`.

    `clock` gives Unix seconds. Entering raises CommandError when the port is in use or the state cannot
    be read.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock: Callable[[], int] = lambda: int(clock() * 1000)
        catalog = builtin()
        profile = catalog.accounts[settings.emulate]
        self._prices = catalog.accounts["sandbox"].prices
        self._is_openai = profile.protocol == "openai"
        self._rules = _rules(catalog, profile, settings)
        self._check_access = access.checker(settings, profile.auth if settings.wants_key else Auth.NONE)
        self._lists = _able(settings.lists_tasks, profile.lists_tasks)
        self._finds = _able(settings.lookup_by_external_id, profile.lookup_by_external_id)
        self._register = Register(settings)
        self._forecast = FaultSchedule(settings.faults, settings.seed)
        self._chance = Random(settings.seed)
        self._images = ImageHost(settings, self._register, self._clock, self._weather)
        self._journal = _journal(settings, self._rules)
        self._requests = 0
        self._exact: dict[tuple[str, str], tuple[str, Answer]] = {
            ("POST", PATH): ("create", self._create),
            ("GET", PATH): ("other", self._unknown) if self._is_openai else ("list", self._list),
            ("GET", "/_usage"): ("ledger", self._ledger),
            ("GET", "/"): ("about", self._about),
            ("GET", ""): ("about", self._about),
        }
        if self._is_openai:
            self._exact["GET", openai.MODELS_PATH] = ("models", self._models)
        self.bill = Usage(self._register, self._clock)
        self.origin = ""  # as in http://127.0.0.1:8080, once it listens

    @property
    def base_url(self) -> str:
        """What an account's `base_url` is to be."""
        return self.origin if self._is_openai else self.origin + PREFIX

    async def __aenter__(self) -> Self:
        """Read the state, and listen."""
        self._closing = asyncio.Event()
        now = self._clock()
        try:
            for task in self._journal.open() if self._journal else ():
                self._register.add(task, now)
            self._runner, port = await self._listen()
        except BaseException:
            self._release()
            raise
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        self.origin = f"http://{host}:{port}"
        self._callbacks = Callbacks(self._forecast, self.bill, self._clock, lambda: self._images.links(self.origin))
        for task in self._register.tasks:
            if task.order.callback_url and task.ends_at > now:
                self._callbacks.follow(task, now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; what hangs is let go."""
        self._closing.set()
        await self._callbacks.close()
        await self._runner.cleanup()
        self._release()

    def _release(self) -> None:
        self._images.close()
        if self._journal:
            self._journal.close()

    async def _listen(self) -> tuple[web.ServerRunner, int]:
        loop = asyncio.get_running_loop()

        def roomy(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: RequestHandler,
            writer: AbstractStreamWriter,
            handler: asyncio.Task[None],
        ) -> web.BaseRequest:
            """A request that may be as large as an image; aiohttp's own bound is 1 MB."""
            return web.BaseRequest(message, payload, protocol, writer, handler, loop, client_max_size=_MOST_BYTES)

        server = web.Server(self._serve, request_factory=roomy, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, self._settings.host, self._settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            where = f"{self._settings.host} port {self._settings.port}"
            raise CommandError(
                f"The sandbox cannot listen on {where}: {error.strerror}. Choose another port, or 0 for a free one."
            ) from error
        return runner, runner.addresses[0][1]

    # --- a request ----------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, and say that it is a sandbox that does."""
        response = await self._answered(request)
        if self._settings.marked and not response.prepared:
            response.headers[SANDBOX_HEADER] = "1"
        return response

    async def _answered(self, request: web.BaseRequest) -> web.StreamResponse:
        """Find out what is asked, answer it, and count it."""
        path, _, query = request.raw_path.partition("?")
        path = path.removeprefix(PREFIX)
        kind, answer = self._route(request.method, path)
        self._requests += 1
        try:
            response = await answer(request, path, query)
        except Refusal as refused:
            self.bill.count(kind, str(refused.code))
            return self._refuse(refused)
        except _Struck as struck:
            return await self._strike(request, kind, struck.fault)
        self.bill.count(kind, "0" if response.status == 200 else str(response.status))
        return response

    def _route(self, method: str, path: str) -> tuple[str, Answer]:
        """What kind of request it is, for the bill, and who answers it."""
        if (method, path) in self._exact:
            return self._exact[method, path]
        if method == "GET":
            if path.startswith(f"{PATH}/") and not self._is_openai:
                return "query", self._query
            if path.startswith("/images/"):
                return "image", self._images.answer
        return "other", self._unknown

    def _request_id(self) -> str:
        return f"sandbox-{self._requests}"

    def _links(self, request: web.BaseRequest) -> Links:
        return self._images.links(f"http://{request.host}")

    def _refuse(self, refused: Refusal) -> web.Response:
        headers = _JSON if refused.retry_after is None else {**_JSON, "Retry-After": str(refused.retry_after)}
        words = openai.refusal if self._is_openai else responses.refusal
        status = openai.status_of(refused) if self._is_openai else refused.status
        return web.Response(body=words(self._request_id(), refused), status=status, headers=headers)

    def _succeed(self, data: str) -> web.Response:
        return web.Response(body=responses.success(self._request_id(), data), headers=_JSON)

    # --- create -------------------------------------------------------------------------------------------

    async def _create(self, request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        self._check_access(request.headers.get("Authorization", ""))
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Refusal(1201, f"the body has more than {_MOST_BYTES:,} bytes") from None
        if len(raw) > _LARGE_BYTES:
            order = await asyncio.to_thread(self._rules.read, raw)
        else:
            order = self._rules.read(raw)
        self._weather(Occasion.CREATE_BEFORE)
        task = self._accept(order, request.headers.get("X-Client-Request-Id", ""))
        self._weather(Occasion.CREATE_AFTER)
        if self._is_openai:
            return await self._made(request, task)
        return self._succeed(responses.accepted(task))

    async def _made(self, request: web.BaseRequest, task: Task) -> web.Response:
        """Keep the caller waiting until the task ends, then answer with its images."""
        while (left := task.ends_at - self._clock()) > 0 and not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), left / 1000)
        if task.failure:
            raise Refusal(5000, task.failure)
        images = None
        if openai.format_of(task, self._settings.response_format) == "b64_json":
            images = [await self._images.content(task, index) for index in range(task.order.n)]
        return web.Response(body=openai.answer(task, images, self._links(request)), headers=_JSON)

    def _accept(self, order: Order, caller_id: str) -> Task:
        """Take the order in, without a pause: from the checks to the journal nobody else is served."""
        now = self._clock()
        units = self._price(order)
        if self._register.knows(order.external_id):
            self.bill.count_repeated_id()
        self._register.check(order, units, now)
        number = len(self._register.tasks) + 1
        task = Task(
            id=self._register.next_id(now),
            number=number,
            order=order,
            created_at=now,
            duration=self._duration(),
            failure=self._failure(order, number),
            units=units,
            caller_id=caller_id,
        )
        if self._journal:
            self._journal.append(task)
        self._register.add(task, now)
        if order.callback_url:
            self._callbacks.follow(task, now - 1)
        return task

    def _price(self, order: Order) -> float:
        price = self._prices.of_image(order.model, order.resolution)
        return float(price or 0) * order.n

    def _duration(self) -> int:
        """Milliseconds that a task takes."""
        settings = self._settings
        factor = self._chance.lognormvariate(0, settings.latency_sigma) if settings.latency_sigma else 1.0
        return round(settings.latency * factor * 1000)

    def _failure(self, order: Order, number: int) -> str:
        if order.must_fail:
            return "the prompt asked for a task that fails"
        fault = self._forecast.next(Occasion.TASK, number)
        if fault is None:
            return ""
        self.bill.count_fault(fault.name)
        return "generation failed in the sandbox's weather"

    async def _models(self, request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        self._check_access(request.headers.get("Authorization", ""))
        models = self._settings.models or builtin().accounts[self._settings.emulate].models
        return web.Response(body=openai.models(models), headers=_JSON)

    # --- queries ------------------------------------------------------------------------------------------

    async def _query(self, request: web.BaseRequest, path: str, _query: str) -> web.Response:
        self._check_access(request.headers.get("Authorization", ""))
        self._weather(Occasion.QUERY)
        task = self._register.find(unquote(path[len(PATH) + 1 :]), by_external_id=self._finds)
        now = self._clock()
        self.bill.note_told((task,), now)
        return self._succeed(responses.task(task, now, self._links(request)))

    async def _list(self, request: web.BaseRequest, _path: str, query: str) -> web.Response:
        if not self._lists:
            raise Refusal(1202, "this account does not list tasks")
        self._check_access(request.headers.get("Authorization", ""))
        self._weather(Occasion.QUERY)
        asked = dict(parse_qsl(query, keep_blank_values=True))
        number = _within(asked, "pageNum", 1, 1000)
        size = _within(asked, "pageSize", 30, 500)
        page = self._register.page(number, size)
        now = self._clock()
        self.bill.note_told(page, now)
        return self._succeed(responses.page(page, now, self._links(request)))

    # --- the rest -----------------------------------------------------------------------------------------

    async def _ledger(self, _request: web.BaseRequest, _path: str, query: str) -> web.Response:
        tasks = dict(parse_qsl(query)).get("tasks") != "0"
        return web.Response(body=json.dumps(self.bill.account(tasks=tasks), ensure_ascii=True).encode(), headers=_JSON)

    async def _about(self, _request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        return web.Response(text=_ABOUT, content_type="text/html")

    async def _unknown(self, request: web.BaseRequest, path: str, _query: str) -> web.Response:
        raise Refusal(1202, f"there is no {request.method} {path} here")

    # --- weather ------------------------------------------------------------------------------------------

    def _weather(self, occasion: Occasion, bearable: Collection[Act] = ()) -> Fault | None:
        """Raise _Struck when a fault strikes; one that the caller can bear is given back to it."""
        fault = self._forecast.next(occasion)
        if fault is None:
            return None
        self.bill.count_fault(fault.name)
        if fault.act not in bearable:
            raise _Struck(fault)
        return fault

    async def _strike(self, request: web.BaseRequest, kind: str, fault: Fault) -> web.Response:
        """Answer as the fault does, or do not."""
        if fault.act is Act.REFUSE:
            self.bill.count(kind, str(fault.code))
            return self._refuse(Refusal(fault.code, retry_after=fault.retry_after))
        if fault.act in {Act.PAGE, Act.EXPIRE}:
            status = fault.code or 404
            self.bill.count(kind, f"{status} page")
            return web.Response(text=_PAGE.format(status=status), status=status, content_type="text/html")
        self.bill.count(kind, str(fault.act))
        if fault.act is Act.HANG:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _HANG_SECONDS)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()  # goes nowhere


def _rules(builtin: Catalog, profile: Account, settings: Settings) -> Rules | openai.Rules:
    models = settings.models or profile.models
    if profile.protocol == "openai":
        return openai.Rules(models, profile.defaults["model"])
    return Rules(builtin, replace(profile, models=models))


def _journal(settings: Settings, rules: Rules | openai.Rules) -> Journal | None:
    if settings.state is None:
        return None
    return Journal(settings.state, rules.order_of, keeps_callbacks=settings.keeps_callbacks)


def _able(asked: bool | None, profile: Capability) -> bool:  # noqa: FBT001 - private, and named at its calls
    return profile is not Capability.NO if asked is None else asked


def _within(asked: dict[str, str], name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most` out of the query. Raises Refusal (1201)."""
    text = asked.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= most):
        raise Refusal(1201, f"{name} must be a whole number from 1 to {most}")
    return int(text)
