"""A gateway in a thread of the test's own process, well-behaved until a test replaces one of its answers.

The sandbox is a gateway as it should be, in a process that only its options change. This one is for gateways as they
are: a test sets `gateway.answers["query"]` to a function of the call, which answers as it likes, or gives None
where the gateway's own answer will do.

    def empty_at_first(call):
        return call.gateway.yes(call.gateway.view(call.task, links=False)) if call.number == 1 else None

    gateway.answers["query"] = empty_at_first
"""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

_PATH = "/kling/v1/images/generations"


@dataclass(slots=True, kw_only=True)
class Task:
    """What the gateway made, and bills."""

    id: str
    external_id: str
    prompt: str
    n: int
    created: float = field(default_factory=time.time)  # Unix seconds

    def image(self, index: int) -> bytes:
        """A tiny PNG that no other image of this gateway equals."""
        picture = Image.new("RGB", (8, 8), (int(self.id[1:]) % 256, index, int(self.id[1:]) // 256))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, as a scripted answer sees it."""

    gateway: ScriptedGateway
    kind: str  # create | query | list | image
    number: int  # of its kind at this gateway, from 1
    request: web.Request
    body: dict[str, Any]  # of a create
    name: str  # what a query asks for: our own id or the gateway's
    task: Task | None  # of a query or an image
    index: int  # of an image
    at: float = field(default_factory=time.monotonic)

    @property
    def by_own_id(self) -> bool:
        """Whether a query asks by the caller's id."""
        return self.name.startswith("bg-")

    def cut(self) -> web.Response:
        """Cut the connection: what is answered after this, nobody hears."""
        self.request.transport.abort()
        return web.Response()

    def store(self) -> Task:
        """Accept the create, whatever is answered."""
        return self.gateway.accept(self.body)

    def store_after(self, seconds: float) -> None:
        """Accept the create later, as a gateway does whose client has long hung up."""
        asyncio.get_running_loop().call_later(seconds, self.store)


class ScriptedGateway:
    """Runs between `with` and its end. `latency` is in seconds and may be changed while tasks run.

    `calls` are all requests so far; the counts are made from it and from `tasks`, which are what was paid for.
    """

    def __init__(self, *, latency: float = 0.1) -> None:
        self.latency = latency
        self.answers: dict[str, Callable[[Call], Any]] = {}
        self.calls: list[Call] = []
        self.tasks: dict[str, Task] = {}
        self.host = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="scripted-gateway")

    # --- what a test asks ---------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What an account's `base_url` is to be."""
        return f"{self.host}/kling"

    def count(self, kind: str) -> int:
        """Requests of a kind so far."""
        return len(self.of(kind))

    def of(self, kind: str) -> list[Call]:
        """Requests of a kind so far, in their order."""
        return [call for call in self.calls if call.kind == kind]

    def creates_by_external_id(self) -> Counter[str]:
        """Creates that arrived, whatever became of them."""
        return Counter(call.body["external_task_id"] for call in self.of("create"))

    def creates_by_job(self) -> Counter[str]:
        """Creates that arrived, by the job of their external id."""
        return Counter(call.body["external_task_id"].split("-")[1] for call in self.of("create"))

    def billed_by_job(self) -> Counter[str]:
        """Tasks that were accepted, by the job of their external id."""
        return Counter(task.external_id.split("-")[1] for task in list(self.tasks.values()))

    # --- how it answers by itself -------------------------------------------------------------------------

    def accept(self, body: dict[str, Any]) -> Task:
        """A new task."""
        number = len(self.tasks) + 1
        task = Task(id=f"T{number}", external_id=body["external_task_id"], prompt=body["prompt"], n=body.get("n", 1))
        self.tasks[task.id] = task
        return task

    def view(self, task: Task, *, links: bool = True) -> dict[str, Any]:
        """A task as a query tells of it; without `links` it is one of those that forget them."""
        has_ended = time.time() - task.created >= self.latency
        data = {
            "task_id": task.id,
            "task_status": "succeed" if has_ended else "processing",
            "task_info": {"external_task_id": task.external_id},
            "created_at": int(task.created * 1000),
        }
        if has_ended and links:
            urls = [f"{self.host}/images/{task.id}/{index}" for index in range(task.n)]
            data["task_result"] = {"images": [{"index": index, "url": url} for index, url in enumerate(urls)]}
        return data

    @staticmethod
    def yes(data: object) -> web.Response:
        """A successful answer."""
        return web.json_response({"code": 0, "message": "SUCCEED", "request_id": "r", "data": data})

    @staticmethod
    def no(status: int, code: int, message: str = "no", **headers: str) -> web.Response:
        """A refusal; a header's `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"code": code, "message": message}, status=status, headers=named)

    def page(self, call: Call, *, at_most: int = 500, links: bool = True) -> web.Response:
        """A page of the list, newest first, cut to `at_most` however much was asked for."""
        size = min(int(call.request.query["pageSize"]), at_most)
        start = (int(call.request.query["pageNum"]) - 1) * size
        newest = sorted(self.tasks.values(), key=lambda task: -int(task.id[1:]))
        return self.yes([self.view(task, links=links) for task in newest[start : start + size]])

    def _own(self, call: Call) -> web.Response:
        match call.kind:
            case "create":
                return self.yes({"task_id": call.store().id, "task_status": "submitted"})
            case "list":
                return self.page(call)
            case _ if call.task is None:
                return self.no(404, 1203, "no such task")
            case "query":
                return self.yes(self.view(call.task))
        return web.Response(body=call.task.image(call.index), content_type="image/png")

    async def _answer(self, kind: str, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "")
        call = Call(
            gateway=self,
            kind=kind,
            number=self.count(kind) + 1,
            request=request,
            body=await request.json() if kind == "create" else {},
            name=name,
            task=next((task for task in self.tasks.values() if name in {task.id, task.external_id}), None),
            index=int(request.match_info.get("index", 0)),
        )
        self.calls.append(call)
        answer = self.answers.get(kind, lambda _: None)(call)
        if inspect.isawaitable(answer):
            answer = await answer
        return self._own(call) if answer is None else answer

    # --- its thread ---------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=32 * 1024 * 1024)
        for method, path, kind in (
            ("POST", _PATH, "create"),
            ("GET", _PATH, "list"),
            ("GET", f"{_PATH}/{{name}}", "query"),
            ("GET", "/images/{name}/{index}", "image"),
        ):
            app.router.add_route(method, path, partial(self._answer, kind))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.host = "http://127.0.0.1:{1}".format(*runner.addresses[0])
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the scripted gateway did not start"
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
