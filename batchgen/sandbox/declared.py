"""A declared API: its definition says which requests there are, and its examples how they are answered.

Each step is served: the create, queries, look-ups by an id of the caller's, lists with a mark, callbacks and errors. An
id that a create repeats is refused where the definition has a row for that (`means: taken`), else answered again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from batchgen.apis.compiler import definition_of
from batchgen.apis.definition import OF_ATTEMPT, OF_IMAGE
from batchgen.catalog.accounts import Auth
from batchgen.sandbox.api import JSON, STEP, Api
from batchgen.sandbox.api_error import STATUS_OF, ApiError
from batchgen.sandbox.declared_answers import Answers, Wanted
from batchgen.sandbox.declared_check import check
from batchgen.sandbox.declared_requests import Requests, body_of, pattern
from batchgen.sandbox.images import PREFIX
from batchgen.sandbox.injector import Occasion
from batchgen.sandbox.rules import check_words
from batchgen.sandbox.tasks import CreateRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.apis.definition import Images, Step
    from batchgen.sandbox.server import Sandbox
    from batchgen.sandbox.tasks import Task

_PAGE_SIZE = 50  # tasks of a list
_MAX_IMAGES = 100
_LASTING = f"expires={10**18}&hop={10**18}"  # of a link that has no place for its own end, or for redirects
# What each code of the sandbox's errors means in a definition; of 5xx nobody knows.
_MEANS = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1100, 1101, 1102, 1103, 1304), ("account",)),
    1302: ("slower", "busy"),
    1303: ("busy", "slower"),
    **dict.fromkeys((1300, 1301), ("rejected",)),
    **dict.fromkeys((1200, 1201), ("refused",)),
    1203: ("missing",),
}
_STATUSES = {**STATUS_OF, 1100: 402, 1101: 402, 1102: 402}  # where neither an example nor a row says another one


class RepeatedId(ApiError):
    """A create with an id that is known already."""


class DeclaredApi(Api):
    """The API of an account with a definition. Raises CommandError where its examples do not show how it answers."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        account = sandbox.account
        self._definition = definition_of(account.definition)
        self._steps = self._definition.steps
        self.prefix = urlsplit(self._definition.hosts.base_url).path
        self._answers = Answers(self._definition, account.definition)
        self._requests = Requests(self._definition, self._answers.name, self.prefix)
        self._takes_mark = self._answers.takes_mark
        hosts = [urlsplit(self._definition.hosts.base_url).netloc, *account.definition.get("hosts", ())]
        self._hosts = re.compile(rf"https?://(?:{'|'.join(map(re.escape, hosts))})(?=[/?\"]|$)")
        check(self._answers, self._steps, one_image=account.max_n == 1)
        self.routes = {}
        self.subtrees = {(method, ""): ("other", self._serve) for method in ("GET", "POST", "PUT")}

    # --- requests -----------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        address = f"{path}?{query}" if query else path
        if request.method == "GET" and (image := self._image_at(address)):
            STEP.set("image")
            return await self.sandbox.images.answer(request, image, _LASTING)
        matches = self._requests.matches(request, address, body_of(request, await self.body_of(request)))
        if not matches:
            raise ApiError(1202, f"no step of the definition sends this: {request.method} {path}")
        step, values = matches[0]
        STEP.set(step.name)
        self._check_key(request)
        if step.name == "create":
            return await self.submit(request, self._wanted(values))
        self.sandbox.injector.inject(Occasion.QUERY)
        if "items" in step.selectors:
            return self._list(request, step, dict(parse_qsl(query)))
        if step.name == "probe":
            return self._send(request, *(self._answers.make([step], Wanted()) or (200, {})))
        return await self._of_task(request, [step for step, _ in matches], values)

    def _check_key(self, request: web.BaseRequest) -> None:
        """Raise ApiError (1000, 1001) for a request without the right key, which is where the definition says."""
        key = request.headers.get(self._definition.header, "") if self._definition.header else ""
        wanted = self.sandbox.settings.api_key
        if self.sandbox.auth is Auth.NONE or not self._definition.header:
            return
        if not key.startswith(self._definition.prefix) or not (key := key.removeprefix(self._definition.prefix)):
            raise ApiError(1001, f"{self._definition.header} has no key")
        if wanted is not None and key != wanted:
            raise ApiError(1000, "authentication failed: the API key is wrong")

    def _wanted(self, values: dict[str, Any]) -> CreateRequest:
        """The create with these values. Raises ApiError (1201, 1300, 1301)."""
        body = {name: value for name, value in values.items() if name not in OF_ATTEMPT and value is not None}
        for name in OF_IMAGE & body.keys():
            body[name] = f"sha256:{hashlib.sha256(str(body[name]).encode()).hexdigest()}"
        for name, words in self._definition.words.items():
            ours = {str(theirs): own for own, theirs in words.items()}
            if name in body:
                body[name] = ours.get(str(body[name]), body[name])
        n = str(body.get("n", 1))
        if not (n.isdecimal() and 1 <= int(n[:9]) <= _MAX_IMAGES):
            raise ApiError(1201, f"the number of images is {n[:20]}; it must be from 1 to {_MAX_IMAGES}")
        if not isinstance(body.get("prompt", ""), str) or not body.get("prompt", "-").strip():
            raise ApiError(1201, "the prompt is empty")
        body |= {"n": int(n), "external_task_id": self._own_id(values)}
        check_words(body.get("prompt", ""))
        return self.request_of(body)

    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        width, height = str(body.get("width", "")), str(body.get("height", ""))
        has_size = width.isdecimal() and height.isdecimal() and 0 < int(width) <= 4096 >= int(height) > 0
        return CreateRequest(
            body=body,
            prompt=body.get("prompt", ""),
            model=str(body.get("model", self.sandbox.account.models[0])),
            aspect_ratio=str(body.get("aspect_ratio", "1:1")),
            resolution=str(body.get("resolution", "1k")).lower(),
            size=f"{width}x{height}" if has_size else "",
            n=body.get("n", 1),
            external_id=body.get("external_task_id", "") if self._definition.can_find or self._takes_mark else "",
            callback_url=str(body.get("callback_url", "")),
            reference="image" if OF_IMAGE & body.keys() else "",
        )

    def _own_id(self, values: dict[str, Any]) -> str:
        """The mark in these values, or the id of the caller's that a look-up holds; empty where neither is there."""
        texts = {name: str(value) for name, value in values.items()}
        if (mark := self._definition.mark) is not None:
            return mark.text(texts) if mark.names <= texts.keys() else ""
        find = self._steps.get("find")
        return next((texts[name] for name in sorted(find.names if find else ()) if name in texts), "")

    # --- creates ------------------------------------------------------------------------------------------

    def accept(self, wanted: CreateRequest, caller_id: str) -> Task:
        known = self.sandbox.store.by_external_id(wanted.external_id) if wanted.external_id else None
        if known is not None:
            if self._answers.error(self._steps["create"], "taken") is None:
                return known
            self.sandbox.store.repeated_ids += 1
            raise RepeatedId(1201, "this id was used before")
        return super().accept(wanted, caller_id or wanted.body["external_task_id"])

    async def answer_create(self, request: web.BaseRequest, task: Task) -> web.Response:
        """The task; or its images, once they are made."""
        step = self._steps["create"]
        if self._answers.has_tasks:
            return self._made(request, [step], self._named(task))
        await self.until_end(task)
        if step.images is None or step.images.kind == "body":
            kind = self.sandbox.settings.image_format
            return web.Response(body=await self.sandbox.images.content(task, 0), headers=kind.headers)
        return self._made(request, [step], Wanted(images=await self._images(request, task, step.images)))

    # --- tasks --------------------------------------------------------------------------------------------

    async def _of_task(self, request: web.BaseRequest, steps: Sequence[Step], values: dict[str, Any]) -> web.Response:
        task, now = self._find(values), self.sandbox.clock()
        if task is None or (self._knows_ended(steps[0]) and now < task.ends_at):
            if (found := self._answers.make(steps, Wanted(is_missing=True))) is None:
                raise ApiError(1203, "there is no such task")
            return self._send(request, *found)
        self.sandbox.usage.note_reported((task,), now)
        state = self._state(task, now)
        if steps[0].name == "result" and state != "done":
            raise ApiError(1200, "the task has not ended")
        if steps[0].name == "result" and task.failure:
            for means in ("again", "rejected", "refused"):
                if (failed := self._answers.error(steps[0], means)) is not None:
                    return self._send(request, *failed)
        images = next((step.images for step in steps if step.images is not None and state == "done"), None)
        files = await self._images(request, task, images) if images is not None else None
        return self._made(request, steps, self._named(task, state, files))

    def _find(self, values: dict[str, Any]) -> Task | None:
        """The task that a query or a look-up names; None where there is none."""
        store = self.sandbox.store
        if "task" not in values:
            return store.by_external_id(self._own_id(values))
        name = self._answers.name
        word = str(values["task"])
        if name is not None and word.startswith(name.prefix) and word.endswith(name.suffix):
            word = word[len(name.prefix) : len(word) - len(name.suffix)]
        return store.by_external_id(word) or store.by_id(word)

    def _state(self, task: Task, now: int) -> str:
        """The word of a definition for a task's state; one that failed is done where only its result can say so."""
        if now < task.ends_at:
            return "running"
        ways = ("failed", "rejected") if task.failure else ()
        return next(filter(self._answers.has_word, ways), "done")

    def _named(self, task: Task, state: str = "", images: Sequence[Any] | None = None) -> Wanted:
        """What is to be read of a task."""
        mark = task.request.body.get("external_task_id", "")
        word = (self._takes_mark and mark) or task.id
        name = self._answers.name
        wanted = Wanted(
            task=name.with_word(word) if name is not None and word == task.id else word,
            word=word,
            mark=mark,
            state=state,
            created_ms=task.created_at,
            message=task.failure,
            images=images,
            cursor="",
        )
        return replace(wanted, items=(wanted,))

    async def _images(self, request: web.BaseRequest, task: Task, images: Images) -> list[Any]:
        """The images of a task in the form in which an answer has them."""
        numbers, host = range(task.request.n), self.sandbox.images
        if images.kind == "b64":
            return [base64.b64encode(await host.content(task, number)).decode("ascii") for number in numbers]
        if images.link is not None:
            ext = self.sandbox.settings.image_format.ext
            return [self._answers.linked(f"{task.id}_{number}{ext}") for number in numbers]
        link = self.links(request)
        return [link(task, number) for number in numbers]

    # --- lists --------------------------------------------------------------------------------------------

    def _list(self, request: web.BaseRequest, step: Step, query: dict[str, str]) -> web.Response:
        """Tasks, the newest first; in pages where the definition's example shows how a list goes on."""
        now, name = self.sandbox.clock(), self._answers.cursor_of(step)
        text = query.get(name, "")
        before = int(text) if text.isdecimal() and len(text) < 20 else None
        found = [task for task in reversed(self.sandbox.store.tasks) if self._is_in(step, task, now)]
        found = [task for task in found if before is None or task.number < before]
        page = found[:_PAGE_SIZE] if name else found
        self.sandbox.usage.note_reported(page, now)
        items = tuple(self._named(task, self._state(task, now)) for task in page)
        cursor = str(page[-1].number) if len(page) < len(found) else None
        return self._made(request, [step], Wanted(items=items, cursor=cursor))

    def _knows_ended(self, step: Step) -> bool:
        """Whether a look-up is the second step of one that searches what waits and runs."""
        find = self._steps.get("find")
        return find is not None and step is find.alternative and "items" in find.selectors

    @staticmethod
    def _is_in(step: Step, task: Task, now: int) -> bool:
        """Whether a list has a task: one with a second step has what runs, one without states what has ended."""
        if step.alternative is not None:
            return task.ends_at > now
        return "state" in step.selectors or task.ends_at <= now

    # --- callbacks ----------------------------------------------------------------------------------------

    def follow(self, task: Task, after: int) -> None:
        if self._definition.callback_task is not None and "query" in self._steps:
            super().follow(task, max(after, task.ends_at - 1))  # a call at its end

    def callback_body(self, task: Task, moment: int) -> bytes:
        link = partial(self.sandbox.images.link, self.sandbox.origin)
        state = self._state(task, moment)
        images = [link(task, number) for number in range(task.request.n)] if state == "done" else None
        return self._text(self._answers.callback(self._named(task, state, images)), self.sandbox.origin)

    # --- answers ------------------------------------------------------------------------------------------

    def error(self, error: ApiError, request: web.BaseRequest) -> tuple[int, bytes]:
        """As the definition shows that the API says it; else by a plain status."""
        step, status = self._steps.get(STEP.get()), _STATUSES[error.code]
        found = None
        for means in ("taken",) if isinstance(error, RepeatedId) else _MEANS.get(error.code, ()):
            found = found or (step and self._answers.error(step, means))
        words = "content policy violation: " if error.code in {1300, 1301} else ""  # as APIs say it
        status, body = found or (status, {"error": {"code": error.code, "message": words + error.message}})
        return status, self._text(body, f"http://{request.host}")

    def _made(self, request: web.BaseRequest, steps: Sequence[Step], wanted: Wanted) -> web.Response:
        """The answer from which this is read. Raises ApiError (5000) where no example shows how the API says it."""
        if (found := self._answers.make(steps, wanted)) is None:
            raise ApiError(5000, "no example of the definition shows how the API says this")
        return self._send(request, *found)

    def _send(self, request: web.BaseRequest, status: int, body: Any) -> web.Response:  # noqa: ANN401
        return web.Response(body=self._text(body, f"http://{request.host}"), status=status, headers=JSON)

    def _text(self, body: Any, origin: str) -> bytes:  # noqa: ANN401 - any value of JSON
        """An answer as it is sent: what is at the vendor's hosts is at the sandbox."""
        return self._hosts.sub(origin, json.dumps(body, ensure_ascii=False)).encode()

    def _image_at(self, address: str) -> str:
        """The path of the image that an address names by the definition's own link; empty where it names none."""
        images = next((step.images for step in self._requests.steps if step.images and step.images.link), None)
        if images is None or images.link is None:
            return ""
        found = re.fullmatch(pattern(images.link.source), address)
        name = next(iter(found.groupdict().values()), "") if found else ""
        return f"{PREFIX}{name.replace('_', '/')}" if found else ""
