"""Reads a gateway's answer, whatever came: what it says, where it says it, and nothing that a file cannot hold.

What a refusal means by its HTTP status alone is here too: codes are each wire's own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from batchgen.errors import AccountStopped, JobRefused, RefusedOrTaken, TaskNotFound, TooFast, Unclear

if TYPE_CHECKING:
    from batchgen.door import Answer
    from batchgen.errors import BatchgenError

_LONGEST_MESSAGE = 300
_HALVES = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\x00")  # where half a surrogate pair may be; \x00: in UTF-16


# 8 MB of `[],[],…` become 200 MB of objects. The largest list that makes sense, 500 tasks of 18 links, has 40,000.
_MOST_VALUES = 250_000
_TEXT_IN_JSON = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def json_of(answer: Answer) -> Any:  # noqa: ANN401 - whatever came
    """The body's value, or None where it is no JSON, or JSON of more values than an answer has."""
    if _values_at_most(answer.body) > _MOST_VALUES:
        return None
    try:
        value = json.loads(answer.body)
        return _whole_characters(value) if _HALVES.search(answer.body) else value
    except (ValueError, RecursionError):
        return None


def _values_at_most(body: bytes) -> int:
    """How many values the text can hold: each but the first comes after one of these signs, outside of strings."""
    if (found := _signs(body)) > _MOST_VALUES >= body.count(b'"') // 2:  # else the texts alone are too many
        found = _signs(_TEXT_IN_JSON.sub(b"", body))
    return found


def _signs(body: bytes) -> int:
    return sum(map(body.count, (b",", b"[", b"{", b":")))


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


def refusal(answer: Answer, *, creating: bool, doing: str) -> BatchgenError:
    """What an answer that is no yes means by its status; what it says to people is kept.

    `creating`: whether it answers a create, where what cannot be told may have cost money.
    """
    body = json_of(answer)
    code, message = code_of(body), message_of(body)
    text = f"The gateway answered HTTP {answer.status}{f' {code}' if code else ''} to {doing}"
    return refusal_by_status(answer, f"{text}: {message}" if message else text, code=code, creating=creating)


def refusal_by_status(answer: Answer, text: str, *, code: str, creating: bool) -> BatchgenError:
    """What an answer means by its status alone; `text` is to be its sentence."""
    status = answer.status
    detail = {"code": code or str(status), "head": answer.head}
    if status in {401, 402, 403}:
        return AccountStopped(f"{text}. Check the key and the balance of the account.")
    if status == 429:
        return TooFast(text, code=detail["code"], retry_after=answer.retry_after)
    if status in {404, 405} and not creating:
        return TaskNotFound(text, **detail)
    if status in {404, 405} or 300 <= status < 400:
        return AccountStopped(f"{text}. Check the account's base_url.")
    if 400 <= status < 500 and status != 408:
        return (RefusedOrTaken if creating else JobRefused)(text, **detail)
    return Unclear(text, **detail)
