"""Reads a gateway's answer, whatever it is: its JSON, code and message, and the error that a refusal means."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchgen.errors import (
    AccountStopped,
    JobError,
    JobRefused,
    JobRejected,
    NoSuchPath,
    NotSent,
    PageReceived,
    ProxyBusy,
    RefusedOrTaken,
    TaskNotFound,
    Throttled,
    TooFast,
    Unclear,
)
from batchgen.providers import policy
from batchgen.providers.proxies import answering_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.errors import BatchgenError
    from batchgen.http.client import Answer

_LONGEST_MESSAGE = 300
_EXCERPT = 120  # characters of a page
_PAGE = 4096  # bytes of it that are looked at
_MARKUP = re.compile(r"<(script|style)\b.*?(</\1>|\Z)|<!--.*?(-->|\Z)|<[^>]*(>|\Z)", re.DOTALL | re.IGNORECASE)
# "Not Found" alone is any server's answer to an unknown path. Sources: the Kling API's own messages, new-api's codes.
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
_SURROGATES = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\x00")  # may be half a surrogate pair; \x00: in UTF-16


# 8 MB of `[],[],…` become 200 MB of objects. The largest list that makes sense, 500 tasks of 18 links, has 40,000.
_MOST_VALUES = 250_000
_TEXT_IN_JSON = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def json_of(answer: Answer) -> Any:  # noqa: ANN401 - whatever came
    """The body's value, or None where it is no JSON, or JSON of more values than an answer has."""
    if _values_at_most(answer.body) > _MOST_VALUES:
        return None
    try:
        value = json.loads(answer.body)
        return _without_surrogates(value) if _SURROGATES.search(answer.body) else value
    except (ValueError, RecursionError):
        return None


def _values_at_most(body: bytes) -> int:
    """How many values the text can hold: each but the first comes after one of these signs, outside of strings."""
    if (found := _separators(body)) > _MOST_VALUES >= body.count(b'"') // 2:  # else the texts alone are too many
        found = _separators(_TEXT_IN_JSON.sub(b"", body))
    return found


def _separators(body: bytes) -> int:
    return sum(map(body.count, (b",", b"[", b"{", b":")))


def _without_surrogates(value: Any) -> Any:  # noqa: ANN401 - whatever came
    """The value with `?` for each half of a surrogate pair: JSON allows it, but no file or ledger can hold it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
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
    """The message of a body, cut to a length that a table can show; of an `answer` without JSON its short text."""
    if body is None and answer is not None:
        text = answer.body.decode("utf-8", "replace") if len(answer.body) <= _LONGEST_TEXT else ""
        return "" if "<" in text or not any(map(str.isalpha, text)) else _one_line(text)
    return _one_line(_words(body))


def _words(value: object, depth: int = 0) -> str:
    """The first words for people in a value, wherever gateways put them."""
    if isinstance(value, str) or depth > _DEEPEST:
        return value if isinstance(value, str) else ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(each, depth + 1) for each in value[:_MOST_WORDS])))
    if not isinstance(value, dict):
        return ""
    place = value.get("loc")  # FastAPI's way to say where
    where = f"{'.'.join(map(str, place))}: " if isinstance(place, list) and place else ""
    for name in ("message", "msg", "error", "detail", "errors", "error_description", "title"):
        if name in value and (words := _words(value[name], depth + 1)):
            return f"{where}{words}"
    if not depth:
        return ""
    named = list(value.items())[:_MOST_WORDS]  # as in {"prompt": ["is too long"]}
    return "; ".join(f"{name}: {words}" for name, each in named if (words := _words(each, depth + 1)))


def _one_line(text: str) -> str:
    return " ".join(text[: 10 * _LONGEST_MESSAGE].split())[:_LONGEST_MESSAGE]


def type_of(body: object) -> str:
    """The error type of a body, in small letters; empty where it has none."""
    error = body.get("error", body) if isinstance(body, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind.strip().lower() if isinstance(kind, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """What a protocol's own codes mean, before the HTTP status decides.

    `advice`: the sentence that follows for an account that stops; `with_types`: whether the error's `type` counts where
    its `code` is not known; `refused`: what a refusal of a create's parameters is.
    """

    errors: Mapping[str, type[BatchgenError]] = field(default_factory=dict)
    advice: Mapping[str, str] = field(default_factory=dict)
    with_types: bool = False
    refused: type[JobRefused] = RefusedOrTaken


_NO_CODES = Codes()


def refusal(answer: Answer, *, creating: bool, operation: str, codes: Codes = _NO_CODES) -> BatchgenError:
    """The error that an answer means by its code, else by its status; its words for people are kept.

    `creating`: whether it answers a create, where an unclear answer may have cost money.
    """
    body = json_of(answer)
    code, message = code_of(body), message_of(body, answer)
    kind = type_of(body) if codes.with_types else ""
    text = f"The gateway answered HTTP {answer.status}{f' {code}' if code else ''} to {operation}"
    text = f"{text}: {message}".rstrip(".") if message else text
    error: type[BatchgenError]
    if (known := next((name for name in (code, kind) if name in codes.errors), None)) is not None:
        error, more = codes.errors[known], f". {codes.advice[known]}" if known in codes.advice else ""
    elif (proxy := answering_proxy(answer)) is not None:
        error = ProxyBusy if proxy.busy else NotSent
        more = f": {proxy.proxy}, in front of the gateway, {proxy.what}; the gateway was not reached."
    else:
        error, more = _by_status(answer, creating=creating)
        if error is JobRefused:  # the gateway's own, in words or a code
            error, more = _own_refusal(answer.status, code or kind, message, codes.refused if creating else None)
    shown = code or kind or str(answer.status)
    if issubclass(error, Throttled):
        return error(text + more, code=shown, retry_after=answer.retry_after)
    if issubclass(error, JobError | Unclear):
        return error(text + more, code=shown, body_excerpt=answer.body_excerpt)
    return error(text + more)


def _by_status(answer: Answer, *, creating: bool) -> tuple[type[BatchgenError], str]:
    """What an answer means by its status, and what follows its words; JobRefused for the gateway's own refusal."""
    status = answer.status
    if status in {401, 402} and not (creating and answer.body.lstrip().startswith(b"<")):  # a firewall's is a page
        return AccountStopped, ". Check the key and the balance of the account."
    if status == 429:
        return TooFast, ""
    if status == 408 or not 300 <= status < 500:
        return Unclear, "; it holds no result" if status < 300 else ""
    if status < 400 or not isinstance(json_of(answer), dict):
        return _page(answer, creating=creating)
    return JobRefused, ""


def _own_refusal(
    status: int, code: str, message: str, refused: type[JobRefused] | None
) -> tuple[type[BatchgenError], str]:
    """What the gateway's own refusal concerns: the account, the create (which is then `refused`), or a query."""
    if refused is None and says_no_task(status, code, message):
        return TaskNotFound, ""
    if status == 403:
        return AccountStopped, ". Check the key, its rights and the balance of the account."
    if status in {404, 405}:
        return (NoSuchPath, "") if refused is None else (AccountStopped, ". Check the account's base_url.")
    if refused is not None and policy.is_refusal(message):
        return JobRejected, ""
    return refused or JobRefused, ""


def _page(answer: Answer, *, creating: bool) -> tuple[type[BatchgenError], str]:
    """A page or a redirect: from a firewall, which may block one prompt alone, or from a server that is not the API.

    After a query it proves nothing, least of all that a task does not exist.
    """
    is_redirect = answer.status < 400
    location = answer.headers.get("Location", "")[:_EXCERPT] if is_redirect else ""
    what = f"a redirect{f' to {location}' if location else ''}" if is_redirect else "a page"
    words = excerpt(answer)
    beginning = f', which begins "{words}"' if words else ""
    more = (
        f": {what}, not the API's own answer{beginning}."
        " If every request is answered like this, check the account's base_url."
    )
    if creating:
        return PageReceived, more
    return NoSuchPath if answer.status in {404, 405} else Unclear, more


def excerpt(answer: Answer) -> str:
    """The first words of a page, without its markup."""
    text = _MARKUP.sub(" ", answer.body[:_PAGE].decode("utf-8", "replace"))
    return " ".join(html.unescape(text).replace("\0", " ").split())[:_EXCERPT]


def says_no_task(status: int, code: str, message: str) -> bool:
    """Whether the gateway itself says that it has no such task, not only that there is no such path."""
    return status in {400, 404, 410} and bool(_NO_TASK.search(f"{code} {message}"))
