"""OpenAI's images API: a create that is answered when its images are made, and the list of models.

Errors are raised with the codes that the rest of the sandbox knows, and answered in OpenAI's form.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchgen.sandbox.api import JSON, PATH, Api
from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.rules import check_text, number, one_of, text
from batchgen.sandbox.tasks import CreateRequest

if TYPE_CHECKING:
    from batchgen.sandbox.server import Sandbox
    from batchgen.sandbox.tasks import Task

_MODELS_PATH = "/v1/models"
_FORMATS = ("url", "b64_json")
_MAX_CHARACTERS = 32_000
_MAX_IMAGES = 10
_SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
_DEFAULT_SIZE = "1024x1024"

# (HTTP status, type, code) of each error. Source: OpenAI's guide to error codes, read 2026-11.
_INVALID = "invalid_request_error"
_QUOTA = (429, "insufficient_quota", "insufficient_quota")
_ERRORS: dict[int, tuple[int, str, str | None]] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004), (401, _INVALID, "invalid_api_key")),
    **dict.fromkeys((1100, 1101, 1102), _QUOTA),
    1103: (403, _INVALID, "model_not_found"),
    1200: (400, _INVALID, None),
    1201: (400, _INVALID, "invalid_value"),
    1202: (404, _INVALID, "unknown_url"),
    1203: (404, _INVALID, "model_not_found"),
    1300: (400, _INVALID, "content_policy_violation"),
    1301: (400, "image_generation_user_error", "moderation_blocked"),
    1302: (429, "requests", "rate_limit_exceeded"),
    1303: (429, "requests", "rate_limit_exceeded"),
    1304: (401, _INVALID, "ip_not_authorized"),
    5000: (500, "server_error", None),
    5001: (503, "service_unavailable_error", "server_is_overloaded"),
    5002: (504, "server_error", None),
}


class OpenAIApi(Api):
    """The API for the models of one account."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self._models = sandbox.settings.models or sandbox.account.models
        self._default_model = sandbox.account.defaults["model"]
        self.checks = {
            **dict.fromkeys(("model", "user", "quality", "style", "background"), check_text),
            "prompt": text(1, _MAX_CHARACTERS),
            "n": number(int, 1, _MAX_IMAGES),
            "size": _check_size,
            "response_format": one_of(_FORMATS),
        }
        self.routes = {("POST", PATH): ("create", self.create), ("GET", _MODELS_PATH): ("models", self._list_models)}

    def check_together(self, body: dict[str, Any]) -> None:
        model = body.get("model", self._default_model)
        if model not in self._models:
            raise ApiError(1203, f"The model '{model}' does not exist.")
        if "response_format" in body and model.startswith("gpt-image"):
            raise ApiError(1201, "Unknown parameter: 'response_format'.")  # as these models really answer

    def request_of(self, body: dict[str, Any]) -> CreateRequest:
        size = body.get("size", _DEFAULT_SIZE)
        return CreateRequest(
            body=body,
            prompt=body["prompt"],
            model=body.get("model", self._default_model),
            n=body.get("n", 1),
            size=_DEFAULT_SIZE if size == "auto" else size,
        )

    async def answer_create(self, request: web.BaseRequest, task: Task) -> web.Response:
        """Wait until the task ends, then answer with its images, or with their links."""
        await self.until_end(task)
        if task.request.body.get("response_format", self.sandbox.settings.response_format) == "url":
            link = self.links(request)
            data = [{"url": link(task, index)} for index in range(task.request.n)]
        else:
            images = [await self.sandbox.images.content(task, index) for index in range(task.request.n)]
            data = [{"b64_json": base64.b64encode(image).decode("ascii")} for image in images]
        return _json_response({"created": task.ends_at // 1000, "data": data})

    async def _list_models(self, request: web.BaseRequest, _path: str, _query: str) -> web.Response:
        self.check_access(request)
        models = [{"id": name, "object": "model"} for name in self._models]
        return _json_response({"object": "list", "data": models})

    def error(self, error: ApiError, _request: web.BaseRequest) -> tuple[int, bytes]:
        status, kind, code = _ERRORS[error.code]
        body = {"error": {"message": error.message, "type": kind, "param": None, "code": code}}
        return status, json.dumps(body, ensure_ascii=False).encode()


def _json_response(data: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(data).encode(), headers=JSON)


def _check_size(name: str, value: object) -> None:
    check_text(name, value)
    if value != "auto" and not _SIZE.fullmatch(str(value)):
        raise ApiError(1201, f"Invalid '{name}': expected WIDTHxHEIGHT, such as {_DEFAULT_SIZE}.")
