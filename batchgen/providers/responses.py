"""Reads a gateway's answer, whatever came: what it says, where it says it, and nothing that a file cannot hold.

What a refusal means by its HTTP status alone is here too: codes are each wire's own.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

from batchgen.errors import (
    AccountStopped,
    JobError,
    JobRefused,
    JobRejected,
    NoSuchPath,
    PageReceived,
    RefusedOrTaken,
    TaskNotFound,
    TooFast,
    Unclear,
)
from batchgen.providers import policy
from batchgen.providers.proxies import not_reached

if TYPE_CHECKING:
    from batchgen.errors import BatchgenError
    from batchgen.http.client import Answer

_LONGEST_MESSAGE = 300
_EXCERPT = 120  # characters of a page
_PAGE = 4096  # bytes of it that are looked at
_MARKUP = re.compile(r"<(script|style)\b.*?(</\1>|\Z)|<!--.*?(-->|\Z)|<[^>]*(>|\Z)", re.DOTALL | re.IGNORECASE)
# "Not Found" alone is what any server says of a path. Sources: the Kling API's own words, new-api's `task_not_exist`.
_NO_TASK = re.compile(
    r"(task|job|generation|record|resource|\bid)\b[^.]{0,60}?"
    r"(not[ _-]?(be[ ])?(found|exist)|does ?n[o']t exist|unknown)"
    r"|(unknown|invalid|cannot find|could not find)[ _-](the )?(task|job|generation|record)"
    r"|no such (?!path|route|page|url|endpoint|method|host|api)\w"
    r"|task_?not_?(found|exists?)|任务不存在|找不到任务|记录不存在",
    re.IGNORECASE,
)
_LONGEST_TEXT = 1000  # bytes of a body without JSON that may be a sentence
_MOST_WORDS, _DEEPEST = 5, 4
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


def refusal(answer: Answer, *, creating: bool, operation: str) -> BatchgenError:
    """What an answer that is no yes means by its status; what it says to people is kept.

    `creating`: whether it answers a create, where what cannot be told may have cost money.
    """
    body = json_of(answer)
    code, message = code_of(body), message_of(body, answer)
    text = f"The gateway answered HTTP {answer.status}{f' {code}' if code else ''} to {operation}"
    return refusal_by_status(answer, f"{text}: {message}" if message else text, code=code, creating=creating)


def refusal_by_status(
    answer: Answer, text: str, *, code: str, creating: bool, refused: type[JobRefused] = RefusedOrTaken
) -> BatchgenError:
    """What an answer means by its status, and by whether it is the gateway's own; `text` is to be its sentence.

    `refused`: what a refusal of a create's parameters is.
    """
    text = text.rstrip(".")
    status, shown = answer.status, code or str(answer.status)
    if status in {401, 402} and not (creating and answer.body.lstrip().startswith(b"<")):  # a firewall's is a page
        return AccountStopped(f"{text}. Check the key and the balance of the account.")
    if status == 429:
        return TooFast(text, code=shown, retry_after=answer.retry_after)
    if (elsewhere := not_reached(answer, text)) is not None:
        return elsewhere
    if status == 408 or not 300 <= status < 500:
        return Unclear(text, code=shown, head=answer.head)
    if status < 400 or not isinstance(json_of(answer), dict):
        return _page(answer, text, code=shown, creating=creating)
    return _own_refusal(answer, text, code=code, creating=creating, refused=refused)


def _own_refusal(
    answer: Answer, text: str, *, code: str, creating: bool, refused: type[JobRefused]
) -> AccountStopped | JobError | Unclear:
    """What the gateway's own refusal is: of the account, of the create, or of a question."""
    status, message = answer.status, message_of(json_of(answer))
    kind: type[JobError | Unclear] = refused if creating else JobRefused
    if not creating and says_no_task(status, code, message):
        kind = TaskNotFound
    elif status == 403:
        return AccountStopped(f"{text}. Check the key, its rights and the balance of the account.")
    elif status in {404, 405} and creating:
        return AccountStopped(f"{text}. Check the account's base_url.")
    elif status in {404, 405}:
        kind = NoSuchPath
    elif creating and policy.is_refusal(message):
        kind = JobRejected
    return kind(text, code=code or str(status), head=answer.head)


def _page(answer: Answer, text: str, *, code: str, creating: bool) -> PageReceived | Unclear:
    """A page or a redirect: from a firewall, which may mind one prompt alone, or from a server that is not the API.

    To a question it says nothing, least of all that a task is not there.
    """
    words = excerpt(answer)
    said = f', which begins "{words}"' if words else ""
    location = answer.headers.get("Location", "")[:_EXCERPT]
    where = f" to {location}" if 300 <= answer.status < 400 and location else ""
    kind = "a redirect" if 300 <= answer.status < 400 else "a page"
    full = (
        f"{text}: {kind}{where}, not the API's own answer{said}. If all are answered so, check the account's base_url."
    )
    if creating:
        return PageReceived(full, code=code, head=answer.head)
    return (NoSuchPath if answer.status in {404, 405} else Unclear)(full, code=code, head=answer.head)


def excerpt(answer: Answer) -> str:
    """The first words of a page, without its markup."""
    text = _MARKUP.sub(" ", answer.body[:_PAGE].decode("utf-8", "replace"))
    return " ".join(html.unescape(text).replace("\0", " ").split())[:_EXCERPT]


def says_no_task(status: int, code: str, message: str) -> bool:
    """Whether the gateway itself says that it has no such task: its own word for it, not that there is no such path."""
    return status in {400, 404, 410} and bool(_NO_TASK.search(f"{code} {message}"))
