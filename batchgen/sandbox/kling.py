"""Kling's image API: create, query and list. Answers are built as text, for a list of 500 tasks is requested often."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from batchgen.catalog.accounts import Capability
from batchgen.catalog.load import builtin
from batchgen.sandbox.api import JSON, PATH, Api
from batchgen.sandbox.api_error import STATUS_OF, ApiError
from batchgen.sandbox.injector import Occasion
from batchgen.sandbox.rules import (
    check_link,
    check_text,
    check_watermark,
    identify,
    number,
    one_of,
    text,
)
from batchgen.sandbox.tasks import CreateRequest, State
from batchgen.sandbox.usage import format_units

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.sandbox.rules import Check
    from batchgen.sandbox.server import Sandbox
    from batchgen.sandbox.tasks import Task

_DEFAULT_MODEL, _DEFAULT_RATIO, _DEFAULT_RESOLUTION = "kling-v1", "16:9", "1k"  # the official service's


class KlingApi(Api):
    """As the gateways and the official service have it; what differs between them is the account's."""

    prefix = "/kling"  # of the gateways; the official service has none, and both are served

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        settings, account = sandbox.settings, sandbox.account
        self._catalog = builtin()
        self._models = frozenset(settings.models or account.models)
        self.required = sorted("model_name" if name == "model" else name for name in account.required)
        fields = account.fields | {"model_name"} if "model" in account.fields else account.fields
        self.checks = {name: check for name, check in self._all_checks().items() if name in fields}
        self._can_list = _setting_or(settings.lists_tasks, account.lists_tasks)
        self._can_find = _setting_or(settings.lookup_by_external_id, account.lookup_by_external_id)
        self._requests = 0
        self.routes = {("POST", PATH): ("create", self.create), ("GET", PATH): ("list", self._list)}
        self.subtrees = {("GET", f"{PATH}/"): ("query", self._query)}

    def _all_checks(self) -> dict[str, Check]:
        catalog = self._catalog
        characters = catalog.limits.prompt_characters
        return {
            "model_name": self._check_model,
            "model": check_text,  # accepted and ignored, as the official service does: the field is model_name
            "prompt": text(1, characters),
            "negative_prompt": text(0, characters),
            "image": text(1),
            "image_reference": one_of(catalog.image_references),
            "image_fidelity": number(int | float, 0, 1),
            "human_fidelity": number(int | float, 0, 1),
            "resolution": one_of(catalog.resolutions),
            "n": number(int, 1, catalog.limits.n),
            "aspect_ratio": one_of(catalog.aspect_ratios),
            "watermark_info": check_watermark,
            "callback_url": check_link,
            "external_task_id": check_text,
        }

    def _check_model(self, name: str, value: object) -> None:
        check_text(name, value)
        if value not in self._models:
            raise ApiError(1203, f"model {value} does not exist")

    def check_together(self, body: dict[str, Any]) -> None:
        model = self._catalog.models.get(body.get("model_name", _DEFAULT_MODEL))
        takes_reference = model is not None and model.image_reference
        if "image" in body and "negative_prompt" in body:
            raise ApiError(1201, "negative_prompt cannot be used together with image")
        if "image_reference" in body and not takes_reference:
            raise ApiError(1201, "image_reference is not supported by this model")
        if "image" in body and takes_reference and "image_reference" not in body:
            raise ApiError(1201, "image_reference is required by this model when image is given")
        if "image" in body:
            body["image"] = identify(body["image"], self._catalog.limits)

    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        return CreateRequest(
            body=body,
            prompt=body["prompt"],
            model=body.get("model_name", _DEFAULT_MODEL),
            aspect_ratio=body.get("aspect_ratio", _DEFAULT_RATIO),
            resolution=body.get("resolution", _DEFAULT_RESOLUTION),
            n=body.get("n", 1),
            external_id=body.get("external_task_id", ""),
            callback_url=body.get("callback_url", ""),
            watermark=body.get("watermark_info", {}).get("enabled", False),
            reference=body.get("image_reference", "image") if "image" in body else "",
        )

    def callback_body(self, task: Task, moment: int) -> bytes:
        return _format_task(task, moment, partial(self.sandbox.images.link, self.sandbox.origin)).encode()

    async def answer_create(self, _request: web.BaseRequest, task: Task) -> web.Response:
        """The task as submitted."""
        return self._success(_format_state(task, task.created_at, State.SUBMITTED, ""))

    async def _query(self, request: web.BaseRequest, path: str, _query: str) -> web.Response:
        self.check_access(request)
        self.sandbox.injector.inject(Occasion.QUERY)
        task = self.sandbox.store.find(unquote(path[len(PATH) + 1 :]), by_external_id=self._can_find)
        now = self.sandbox.clock()
        self.sandbox.usage.note_reported((task,), now)
        return self._success(_format_task(task, now, self.links(request)))

    async def _list(self, request: web.BaseRequest, _path: str, query: str) -> web.Response:
        if not self._can_list:
            raise ApiError(1202, "this account does not list tasks")
        self.check_access(request)
        self.sandbox.injector.inject(Occasion.QUERY)
        values = dict(parse_qsl(query, keep_blank_values=True))
        page = self.sandbox.store.page(_number(values, "pageNum", 1, 1000), _number(values, "pageSize", 30, 500))
        now = self.sandbox.clock()
        self.sandbox.usage.note_reported(page, now)
        link = self.links(request)
        return self._success(f"[{','.join(_format_task(task, now, link) for task in page)}]")

    def _success(self, data: str) -> web.Response:
        body = f'{{"code":0,"message":"SUCCEED","request_id":"{self._request_id()}","data":{data}}}'
        return web.Response(body=body.encode(), headers=JSON)

    def error(self, error: ApiError, _request: web.BaseRequest) -> tuple[int, bytes]:
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


def _format_task(task: Task, now: int, link: Callable[..., str]) -> str:
    """A task as a query reports it."""
    state = task.state(now)
    result = ""
    if state is State.SUCCEED:
        images = ",".join(_format_image(task, index, link) for index in range(task.request.n))
        result = (
            f',"task_status_msg":"","task_result":{{"images":[{images}]}}'
            f',"final_unit_deduction":"{format_units(task.units)}"'
        )
    elif state is State.FAILED:
        result = f',"task_status_msg":{json.dumps(task.failure)},"final_unit_deduction":"0"'
    return _format_state(task, task.changed_at(now), state, result)


def _format_state(task: Task, changed_at: int, state: State, result: str) -> str:
    external_id = task.request.external_id
    info = f'{{"external_task_id":{json.dumps(external_id)}}}' if external_id else "{}"
    return (
        f'{{"task_id":"{task.id}","task_status":"{state.value}","task_info":{info}'
        f',"created_at":{task.created_at},"updated_at":{changed_at}{result}}}'
    )


def _format_image(task: Task, index: int, link: Callable[..., str]) -> str:
    copy = f',"watermark_url":"{link(task, index, watermark=True)}"' if task.request.watermark else ""
    return f'{{"index":{index},"url":"{link(task, index)}"{copy}}}'
