"""What both APIs of the sandbox have in common: whom they serve, and how a create becomes a task."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchgen.sandbox import access
from batchgen.sandbox.api_error import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.catalog.accounts import Account, Auth
    from batchgen.sandbox.images import ImageHost, Links
    from batchgen.sandbox.injector import Injector
    from batchgen.sandbox.settings import Settings
    from batchgen.sandbox.task_store import TaskStore
    from batchgen.sandbox.tasks import CreateRequest, Task
    from batchgen.sandbox.usage import Usage

# Takes the request, its path without the prefix, and its query.
Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]

PATH = "/v1/images/generations"
MAX_BODY_BYTES = 24 * 1024 * 1024  # the largest reference image as base64, and other fields
_LARGE_BYTES = 256 * 1024  # a larger body is parsed outside the event loop
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the sandbox gives to its API. `clock` gives Unix milliseconds, `closing` is set when the sandbox stops."""

    settings: Settings
    account: Account
    auth: Auth
    store: TaskStore
    usage: Usage
    images: ImageHost
    injector: Injector
    clock: Callable[[], int]
    closing: asyncio.Event


class Api(ABC):
    """One API. `routes` and `subtrees` give the kind and the handler of a request, by method and path or its start."""

    prefix = ""  # of every path, as in an account's base_url
    routes: Mapping[tuple[str, str], tuple[str, Handler]]
    subtrees: Mapping[tuple[str, str], tuple[str, Handler]] = {}

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @abstractmethod
    def read(self, raw: bytes) -> CreateRequest:
        """The create in a body. Raises ApiError (1200, 1201, 1203, 1300, 1301)."""

    @abstractmethod
    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        """The create of a valid body: one just received, or one from the journal."""

    @abstractmethod
    async def answer_create(self, request: web.BaseRequest, task: Task) -> web.Response:
        """The answer to a create that was accepted."""

    @abstractmethod
    def error(self, error: ApiError) -> tuple[int, bytes]:
        """HTTP status and body of an error."""

    def start(self, origin: str) -> None:  # noqa: B027 - most APIs have nothing to start
        """The server listens at this origin."""

    async def close(self) -> None:  # noqa: B027 - most APIs have nothing to close
        """The server stops."""

    async def create(self, request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        """Accept a create as a task, and answer it."""
        self.check_access(request)
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(1201, f"the body has more than {MAX_BODY_BYTES:,} bytes") from None
        wanted = await asyncio.to_thread(self.read, raw) if len(raw) > _LARGE_BYTES else self.read(raw)
        self.parts.injector.before_create()
        task = self.accept(wanted, request.headers.get("X-Client-Request-Id", ""))
        self.parts.injector.after_create()
        return await self.answer_create(request, task)

    def accept(self, wanted: CreateRequest, caller_id: str) -> Task:
        """The new task. Raises ApiError (1102, 1201, 1302, 1303)."""
        return self.parts.store.accept(wanted, caller_id)

    def check_access(self, request: web.BaseRequest) -> None:
        """Raise ApiError (1000 to 1004) for a request without the right key."""
        access.check(request.headers.get("Authorization", ""), self.parts.settings, self.parts.auth)

    def links(self, request: web.BaseRequest) -> Links:
        """The links in an answer to this request."""
        return self.parts.images.links(f"http://{request.host}")
