"""Reads a gateway's answer, whatever came: what it says, where it says it, and nothing that a file cannot hold."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgen.door import Answer

_LONGEST_MESSAGE = 300
_HALVES = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\x00")  # where half a surrogate pair may be; \x00: in UTF-16


def json_of(answer: Answer) -> Any:  # noqa: ANN401 - whatever came
    """The body's value, or None where it is no JSON."""
    try:
        value = json.loads(answer.body)
        return _whole_characters(value) if _HALVES.search(answer.body) else value
    except (ValueError, RecursionError):
        return None


def _whole_characters(value: Any) -> Any:  # noqa: ANN401 - whatever came
    """The same with `?` for each half of a surrogate pair: JSON allows it, but no file or ledger can hold it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value


def code_of(body: object) -> str:
    """The code of a body, in small letters; empty where it has none."""
    if not isinstance(body, dict):
        return ""
    code = body.get("code")
    if code is None and isinstance(body.get("error"), dict):
        code = body["error"].get("code")
    return "" if code is None or isinstance(code, bool | dict | list) else str(code).strip().lower()


def message_of(body: object) -> str:
    """What a body says to people, cut to a length that a table can show."""
    if not isinstance(body, dict):
        return ""
    message = body.get("message") or body.get("msg")
    error = body.get("error")
    if not message and isinstance(error, dict):
        message = error.get("message")
    elif not message and isinstance(error, str):
        message = error
    return str(message or "")[:_LONGEST_MESSAGE]
