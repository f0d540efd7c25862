"""Kling's image API: create, query and list. Answers are built as text, for a list of 500 tasks is requested often."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from batchgen.catalog.accounts import Capability
from batchgen.catalog.load import builtin
from batchgen.sandbox.api import JSON, PATH, Api
from batchgen.sandbox.api_error import STATUS_OF, ApiError
from batchgen.sandbox.kling_rules import Rules
from batchgen.sandbox.tasks import State
from batchgen.sandbox.usage import format_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.sandbox.api import Parts
    from batchgen.sandbox.images import Links
    from batchgen.sandbox.tasks import CreateRequest, Task


class KlingApi(Api):
    """As the gateways and the official service have it; what differs between them is the account's."""

    prefix = "/kling"  # of the gateways; the official service has none, and both are served

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        settings, account = parts.settings, parts.account
        self._rules = Rules(builtin(), replace(account, models=settings.models or account.models))
        self._can_list = _setting_or(settings.lists_tasks, account.lists_tasks)
        self._can_find = _setting_or(settings.lookup_by_external_id, account.lookup_by_external_id)
        self._requests = 0
        self._origin = ""
        self._callbacks = parts.injector.callbacks(parts.clock, self._callback_body)
        self.routes = {("POST", PATH): ("create", self.create), ("GET", PATH): ("list", self._list)}
        self.subtrees = {("GET", f"{PATH}/"): ("query", self._query)}

    def read(self, raw: bytes) -> CreateRequest:
        """The create in a body. Raises ApiError (1200, 1201, 1203, 1300, 1301)."""
        return self._rules.read(raw)

    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        """The create of a valid body: one just received, or one from the journal."""
        return self._rules.request_of(body)

    def start(self, origin: str) -> None:
        """Send the callbacks that tasks of an earlier start still need."""
        self._origin = origin
        now = self.parts.clock()
        for task in self.parts.store.tasks:
            if task.ends_at > now:
                self._follow(task, now)

    async def close(self) -> None:
        """Send no more callbacks."""
        await self._callbacks.close()

    def accept(self, wanted: CreateRequest, caller_id: str) -> Task:
        """The new task, whose callbacks are sent. Raises ApiError (1102, 1201, 1302, 1303)."""
        task = super().accept(wanted, caller_id)
        self._follow(task, task.created_at - 1)
        return task

    def _follow(self, task: Task, after: int) -> None:
        if task.request.callback_url:
            self._callbacks.follow(task, after)

    def _callback_body(self, task: Task, moment: int) -> bytes:
        return _format_task(task, moment, self.parts.images.links(self._origin)).encode()

    async def answer_create(self, _request: web.BaseRequest, task: Task) -> web.Response:
        """The task as submitted."""
        return self._success(_format_state(task, task.created_at, State.SUBMITTED, ""))

    async def _query(self, request: web.BaseRequest, path: str, _query: str) -> web.Response:
        self.check_access(request)
        self.parts.injector.query()
        task = self.parts.store.find(unquote(path[len(PATH) + 1 :]), by_external_id=self._can_find)
        now = self.parts.clock()
        self.parts.usage.note_reported((task,), now)
        return self._success(_format_task(task, now, self.links(request)))

    async def _list(self, request: web.BaseRequest, _path: str, query: str) -> web.Response:
        if not self._can_list:
            raise ApiError(1202, "this account does not list tasks")
        self.check_access(request)
        self.parts.injector.query()
        values = dict(parse_qsl(query, keep_blank_values=True))
        page = self.parts.store.page(_number(values, "pageNum", 1, 1000), _number(values, "pageSize", 30, 500))
        now = self.parts.clock()
        self.parts.usage.note_reported(page, now)
        return self._success(_format_page(page, now, self.links(request)))

    def _success(self, data: str) -> web.Response:
        body = f'{{"code":0,"message":"SUCCEED","request_id":"{self._request_id()}","data":{data}}}'
        return web.Response(body=body.encode(), headers=JSON)

    def error(self, error: ApiError) -> tuple[int, bytes]:
        """HTTP status and body of an error."""
        body = {"code": error.code, "message": error.message, "request_id": self._request_id()}
        return STATUS_OF[error.code], json.dumps(body, ensure_ascii=False).encode()

    def _request_id(self) -> str:
        self._requests += 1
        return f"sandbox-{self._requests}"


def _setting_or(setting: bool | None, capability: Capability) -> bool:  # noqa: FBT001 - named at its calls
    return capability is not Capability.NO if setting is None else setting


def _number(values: dict[str, str], name: str, default: int, maximum: int) -> int:
    """A whole number from 1 to `maximum` of the query. Raises ApiError (1201)."""
    text = values.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= maximum):
        raise ApiError(1201, f"{name} must be a whole number from 1 to {maximum}")
    return int(text)


def _format_task(task: Task, now: int, links: Links) -> str:
    """A task as a query reports it."""
    state = task.state(now)
    result = ""
    if state is State.SUCCEED:
        images = ",".join(_format_image(task, index, links) for index in range(task.request.n))
        result = (
            f',"task_status_msg":"","task_result":{{"images":[{images}]}}'
            f',"final_unit_deduction":"{format_units(task.units)}"'
        )
    elif state is State.FAILED:
        result = f',"task_status_msg":{json.dumps(task.failure)},"final_unit_deduction":"0"'
    return _format_state(task, task.changed_at(now), state, result)


def _format_page(tasks: Sequence[Task], now: int, links: Links) -> str:
    return f"[{','.join(_format_task(task, now, links) for task in tasks)}]"


def _format_state(task: Task, changed_at: int, state: State, result: str) -> str:
    external_id = task.request.external_id
    info = f'{{"external_task_id":{json.dumps(external_id)}}}' if external_id else "{}"
    return (
        f'{{"task_id":"{task.id}","task_status":"{state.value}","task_info":{info}'
        f',"created_at":{task.created_at},"updated_at":{changed_at}{result}}}'
    )


def _format_image(task: Task, index: int, links: Links) -> str:
    copy = f',"watermark_url":"{links.of(task, index, watermark=True)}"' if task.request.watermark else ""
    return f'{{"index":{index},"url":"{links.of(task, index)}"{copy}}}'
