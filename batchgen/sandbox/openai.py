"""OpenAI's images API, as the sandbox speaks it: its rules of a create, its answers and its errors.

A refusal is raised with the code that the rest of the sandbox knows, and told in OpenAI's words.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from batchgen.sandbox.api_error import Refusal
from batchgen.sandbox.rules import Order, body_of, check_words, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchgen.sandbox.links import Links
    from batchgen.sandbox.task import Task

MODELS_PATH = "/v1/models"
FORMATS = ("url", "b64_json")
_MOST_CHARACTERS = 32_000
_MOST_IMAGES = 10
_SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
_DEFAULT_SIZE = "1024x1024"

# (HTTP status, type, code) of each refusal. Source: OpenAI's guide to error codes, read 2026-11.
_INVALID = "invalid_request_error"
_QUOTA = (429, "insufficient_quota", "insufficient_quota")
_WORDS: dict[int, tuple[int, str, str | None]] = {
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


class Rules:
    """The rules for the models of one account."""

    def __init__(self, models: Sequence[str], default_model: str) -> None:
        self._models = tuple(models)
        self._default_model = default_model
        self._checks: dict[str, Callable[[str, Any], None]] = {
            "model": self._check_model,
            "prompt": _check_prompt,
            "n": _check_count,
            "size": _check_size,
            "response_format": _check_format,
            "user": _check_text,
            "quality": _check_text,
            "style": _check_text,
            "background": _check_text,
        }

    def read(self, raw: bytes) -> Order:
        """The order in a request's body. Raises Refusal (1200, 1201, 1203, 1300, 1301)."""
        body = body_of(raw)
        if "prompt" not in body:
            raise Refusal(1201, "Missing required parameter: 'prompt'.")
        for name, value in body.items():
            if name not in self._checks:
                raise Refusal(1201, f"Unknown parameter: '{name}'.")
            self._checks[name](name, value)
        if "response_format" in body and str(body.get("model", self._default_model)).startswith("gpt-image"):
            raise Refusal(1201, "Unknown parameter: 'response_format'.")  # as these models really answer
        check_words(body["prompt"])
        return self.order_of(body)

    def order_of(self, body: dict[str, Any]) -> Order:
        """An order from a body that was checked: one just received, or one out of the journal."""
        size = body.get("size", _DEFAULT_SIZE)
        return Order(
            body=body,
            prompt=body["prompt"],
            model=body.get("model", self._default_model),
            n=body.get("n", 1),
            size=_DEFAULT_SIZE if size == "auto" else size,
            digest=digest_of(body),
        )

    def _check_model(self, name: str, value: object) -> None:
        _check_text(name, value)
        if value not in self._models:
            raise Refusal(1203, f"The model '{value}' does not exist.")


def refusal(_request_id: str, refused: Refusal) -> bytes:
    """The answer to what is not carried out."""
    _, kind, code = _WORDS[refused.code]
    error = {"message": refused.message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode()


def status_of(refused: Refusal) -> int:
    """The HTTP status of a refusal, which is not in all cases Kling's."""
    return _WORDS[refused.code][0]


def format_of(task: Task, default: str) -> str:
    """How the caller wants its images: a link, or the file itself."""
    return str(task.order.body.get("response_format", default))


def models(names: Sequence[str]) -> bytes:
    """The list of models."""
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()


def answer(task: Task, images: Sequence[bytes] | None, links: Links) -> bytes:
    """The answer to a create whose images are made: the files themselves, or where each one is."""
    if images is None:
        data = [{"url": links.of(task, index)} for index in range(task.order.n)]
    else:
        data = [{"b64_json": base64.b64encode(image).decode("ascii")} for image in images]
    return json.dumps({"created": task.ends_at // 1000, "data": data}).encode()


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise Refusal(1201, f"Invalid type for '{name}': expected a string.")


def _check_prompt(name: str, value: object) -> None:
    _check_text(name, value)
    if not 0 < len(str(value)) <= _MOST_CHARACTERS:
        raise Refusal(1201, f"Invalid '{name}': expected a string of 1 to {_MOST_CHARACTERS} characters.")


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= _MOST_IMAGES:
        raise Refusal(1201, f"Invalid '{name}': expected an integer from 1 to {_MOST_IMAGES}.")


def _check_size(name: str, value: object) -> None:
    _check_text(name, value)
    if value != "auto" and not _SIZE.fullmatch(str(value)):
        raise Refusal(1201, f"Invalid '{name}': expected WIDTHxHEIGHT, such as {_DEFAULT_SIZE}.")


def _check_format(name: str, value: object) -> None:
    if value not in FORMATS:
        raise Refusal(1201, f"Invalid '{name}': expected one of {', '.join(FORMATS)}.")
