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
_LONGEST_TEXT = 1000  # bytes of a body without JSON that may be a sentence
_MOST_WORDS, _DEEPEST = 5, 4
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


def message_of(body: object, answer: Answer | None = None) -> str:
    """What a body says to people, cut to a length that a table can show; of an `answer` without JSON its short text."""
    if body is None and answer is not None:
        text = answer.body.decode("utf-8", "replace") if len(answer.body) <= _LONGEST_TEXT else ""
        return "" if "<" in text or not any(map(str.isalpha, text)) else _one_line(text)
    return _one_line(_words(body))


def _words(told: object, depth: int = 0) -> str:
    """The first words for people in a value, wherever gateways put them."""
    if isinstance(told, str) or depth > _DEEPEST:
        return told if isinstance(told, str) else ""
    if isinstance(told, list):
        return "; ".join(filter(None, (_words(each, depth + 1) for each in told[:_MOST_WORDS])))
    if not isinstance(told, dict):
        return ""
    place = told.get("loc")  # FastAPI's way to say where
    where = f"{'.'.join(map(str, place))}: " if isinstance(place, list) and place else ""
    for name in ("message", "msg", "error", "detail", "errors", "error_description", "title"):
        if name in told and (words := _words(told[name], depth + 1)):
            return f"{where}{words}"
    if not depth:
        return ""
    named = list(told.items())[:_MOST_WORDS]  # as in {"prompt": ["is too long"]}
    return "; ".join(f"{name}: {words}" for name, each in named if (words := _words(each, depth + 1)))


def _one_line(text: str) -> str:
    return " ".join(text[: 10 * _LONGEST_MESSAGE].split())[:_LONGEST_MESSAGE]


def refusal(answer: Answer, *, creating: bool, doing: str) -> BatchgenError:
    """What an answer that is no yes means by its status; what it says to people is kept.

    `creating`: whether it answers a create, where what cannot be told may have cost money.
    """
    body = json_of(answer)
    code, message = code_of(body), message_of(body, answer)
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
