"""What the APIs of the sandbox have in common: whom they serve, and how a create becomes a task."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchgen.catalog.accounts import Auth
from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.injector import Occasion
from batchgen.sandbox.rules import check_words, json_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchgen.sandbox.rules import Check
    from batchgen.sandbox.server import Sandbox
    from batchgen.sandbox.tasks import CreateRequest, Task

# Takes the request, its path without the prefix, and its query.
Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]

PATH = "/v1/images/generations"
MAX_BODY_BYTES = 24 * 1024 * 1024  # the largest reference image as base64, and other fields
_LARGE_BYTES = 256 * 1024  # a larger body is parsed outside the event loop
JSON = {"Content-Type": "application/json"}
STEP: ContextVar[str] = ContextVar("step", default="")  # of a definition, that a request is; empty for others


class Api(ABC):
    """One API. `routes` and `subtrees` give the kind and the handler of a request, by method and path or its start."""

    prefix = ""  # of every path, as in an account's base_url
    routes: Mapping[tuple[str, str], tuple[str, Handler]]
    required: Iterable[str] = ("prompt",)
    checks: Mapping[str, Check] = {}  # by the field of a create
    subtrees: Mapping[tuple[str, str], tuple[str, Handler]] = {}

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._callbacks = sandbox.injector.callbacks(sandbox.clock, self.callback_body)

    def read(self, raw: bytes) -> CreateRequest:
        """The create in a body. Raises ApiError (1200, 1201, 1203, 1300, 1301)."""
        body = json_body(raw)
        for name in self.required:
            if name not in body:
                raise ApiError(1201, f"{name} is required")
        for name, value in body.items():
            check = self.checks.get(name)
            if check is None and name in self.sandbox.settings.further:
                continue
            if check is None:
                raise ApiError(1201, f"{name} is not a field of this interface")
            check(name, value)
        check_words(body["prompt"])
        self.check_together(body)
        return self.request_of(body)

    def check_together(self, body: dict[str, Any]) -> None:  # noqa: B027 - an API may have nothing to check
        """Check what no field says alone; a reference file is replaced by its hash."""

    @abstractmethod
    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        """The create of a valid body: one just received, or one from the journal."""

    @abstractmethod
    async def answer_create(self, request: web.BaseRequest, task: Task) -> web.Response:
        """The answer to a create that was accepted."""

    @abstractmethod
    def error(self, error: ApiError, request: web.BaseRequest) -> tuple[int, bytes]:
        """HTTP status and body of an error."""

    def callback_body(self, _task: Task, _moment: int) -> bytes:
        """The body of a callback at a moment, of an API whose creates take an address for them."""
        return b""

    def start(self) -> None:
        """The server listens: send the callbacks that tasks of an earlier start still need."""
        now = self.sandbox.clock()
        for task in self.sandbox.store.tasks:
            if task.ends_at > now:
                self.follow(task, now)

    async def close(self) -> None:
        """The server stops."""
        await self._callbacks.close()

    def follow(self, task: Task, after: int) -> None:
        """Send the callbacks of a task after this moment, where its create names an address."""
        if task.request.callback_url:
            self._callbacks.follow(task, after)

    async def create(self, request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        """Accept a create as a task, and answer it."""
        self.check_access(request)
        raw = await self.body_of(request)
        wanted = await asyncio.to_thread(self.read, raw) if len(raw) > _LARGE_BYTES else self.read(raw)
        return await self.submit(request, wanted)

    async def body_of(self, request: web.BaseRequest) -> bytes:
        """The body of a request. Raises ApiError (1201) for one that is too large."""
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(1201, f"the body has more than {MAX_BODY_BYTES:,} bytes") from None

    async def submit(self, request: web.BaseRequest, wanted: CreateRequest) -> web.Response:
        """Accept a valid create as a task, and answer it; the faults of a create are injected before and after."""
        self.sandbox.injector.inject(Occasion.CREATE_BEFORE)
        task = self.accept(wanted, request.headers.get("X-Client-Request-Id", ""))
        self.sandbox.injector.inject(Occasion.CREATE_AFTER)
        return await self.answer_create(request, task)

    async def until_end(self, task: Task) -> None:
        """Wait until the task ends. Raises ApiError (5000) for one that fails."""
        while (left := task.ends_at - self.sandbox.clock()) > 0 and not self.sandbox.closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.sandbox.closing.wait(), left / 1000)
        if task.failure:
            raise ApiError(5000, task.failure)

    def accept(self, wanted: CreateRequest, caller_id: str) -> Task:
        """The new task. Raises ApiError (1102, 1201, 1302, 1303)."""
        task = self.sandbox.store.accept(wanted, caller_id)
        self.follow(task, task.created_at - 1)
        return task

    def check_access(self, request: web.BaseRequest) -> None:
        """Raise ApiError (1000 to 1004) for a request without the right key."""
        header, settings = request.headers.get("Authorization", ""), self.sandbox.settings
        if settings.access_key is not None and settings.secret_key is not None:
            _check_token(_bearer(header), settings.access_key, settings.secret_key)
        elif settings.api_key is not None:
            if _bearer(header) != settings.api_key:
                raise ApiError(1000, "authentication failed: the API key is wrong")
        elif self.sandbox.auth is not Auth.NONE:
            _bearer(header)  # any key is accepted

    def links(self, request: web.BaseRequest) -> Callable[..., str]:
        return partial(self.sandbox.images.link, f"http://{request.host}")


def _bearer(header: str) -> str:
    """The token after `Bearer`."""
    if not header.strip():
        raise ApiError(1001, "Authorization is empty")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ApiError(1002, "Authorization is not of the form: Bearer KEY")
    return token.strip()


def _check_token(token: str, access_key: str, secret_key: str) -> None:
    """Check a JWT as the official service does: HS256, `iss`, `exp` and `nbf`, without leeway."""
    import jwt  # noqa: PLC0415 - only an account with two keys pays for the import

    try:
        claims = jwt.decode(token, secret_key, algorithms=["HS256"], options={"require": ["exp", "iss"]})
    except jwt.ExpiredSignatureError:
        raise ApiError(1004, "Authorization token has expired") from None
    except jwt.ImmatureSignatureError:
        raise ApiError(1003, "Authorization token is not valid yet") from None
    except jwt.InvalidSignatureError:
        raise ApiError(1000, "authentication failed: the signature is wrong") from None
    except jwt.InvalidTokenError as error:
        raise ApiError(1002, f"Authorization token is invalid: {error}") from None
    if claims["iss"] != access_key:
        raise ApiError(1002, "Authorization token has an unknown access key")
