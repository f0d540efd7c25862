"""What the Kling API's answers mean: HTTP status and `code` together, by the table of errors.

Gateways also answer with plain HTTP statuses, HTML pages, `code` as a string and other spellings. They are read
tolerantly, and the HTTP status decides where the body says nothing. Sources: the vendor's reference and the two
gateways' pages, read 2026-11.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from batchgen.errors import (
    AccountStopped,
    BatchgenError,
    JobRefused,
    JobRejected,
    OwnRefusal,
    RefusedOrTaken,
    TaskNotFound,
    TooFast,
    TooManyRunning,
    Unclear,
)
from batchgen.jobs import ImageLink
from batchgen.providers import policy, responses
from batchgen.providers.base import Task, TaskState

if TYPE_CHECKING:
    from batchgen.http.client import Answer

_SUCCESS = frozenset({"0", "200", "success", "succeed", "ok"})
_WORDS = {
    TaskState.RUNNING: "submitted processing pending queued queueing waiting created starting running in_progress",
    TaskState.SUCCEEDED: "succeed succeeded success successful completed complete done finished",
    TaskState.FAILED: "failed fail failure error errored canceled cancelled aborted timeout timed_out terminated",
    TaskState.REJECTED: "rejected blocked moderated content_filtered",
    TaskState.GONE: "expired deleted removed",
}
_STATES = {word: state for state, words in _WORDS.items() for word in words.split()}
NO_SUCH_PATH = "1202"
_ADVICE = {
    "1003": "The token is not valid yet; check this machine's clock.",
    "1004": "The token has expired; check this machine's clock.",
    "1100": "The account is not in order; look at the gateway's console.",
    "1101": "The account is in arrears; top it up, then run again to go on.",
    "1102": "The resource pack is used up or expired; buy one, then run again to go on.",
    "1304": "This machine's address is not on the account's whitelist.",
} | dict.fromkeys(("1000", "1001", "1002"), "Check the account's key.")
_ERRORS: dict[str, type[BatchgenError]] = {
    **dict.fromkeys(_ADVICE, AccountStopped),
    "1103": OwnRefusal,  # no permission for this model
    "1200": RefusedOrTaken,  # also the answer to a repeated `external_task_id`
    "1201": RefusedOrTaken,
    "1300": JobRejected,
    "1301": JobRejected,
    "1302": TooFast,
    "1303": TooManyRunning,
    "5000": Unclear,
    "5001": Unclear,
    "5002": Unclear,
}
_CREATE_CODES = responses.Codes(errors=_ERRORS | {NO_SUCH_PATH: JobRefused, "1203": OwnRefusal}, advice=_ADVICE)
_QUERY_CODES = responses.Codes(errors=_ERRORS | {NO_SUCH_PATH: TaskNotFound, "1203": TaskNotFound}, advice=_ADVICE)
_LONGEST_STATUS = 40
_LATEST_MS = 2**53  # what a time can be; a larger number is none
_LARGEST_CHARGE = 10**9  # for one task, in the account's unit; a larger number is none, and could not be added up


def data_of(answer: Answer, *, creating: bool, operation: str) -> Any:  # noqa: ANN401 - the gateway's own shape
    """The `data` of a successful answer; raises what any other answer means.

    `creating`: whether it answers a create, where an unclear answer may have cost money.
    """
    body = responses.json_of(answer)
    code = responses.code_of(body)
    if 200 <= answer.status < 300 and isinstance(body, dict) and (code in _SUCCESS or (not code and "data" in body)):
        data = body.get("data")
        if isinstance(data, dict | list):
            return data
        raise Unclear(
            f"The gateway's answer to {operation} holds no data.", code=code, body_excerpt=answer.body_excerpt
        )
    codes = _CREATE_CODES if creating else _QUERY_CODES
    raise responses.refusal(answer, creating=creating, operation=operation, codes=codes)


def task_from(data: Any, body_excerpt: str) -> Task:  # noqa: ANN401 - the gateway's own shape
    """A task object as a `Task`. Raises Unclear where it holds no task id."""
    if not isinstance(data, dict) or not data.get("task_id"):
        raise Unclear("The gateway's answer holds no task id.", body_excerpt=body_excerpt)
    status = re.sub(r"[ -]", "_", str(data.get("task_status") or data.get("status") or "").strip().lower())
    message = str(data.get("task_status_msg") or "")
    # An unknown status is taken for running: a query is free.
    state = _STATES.get(status, TaskState.RUNNING)
    if state is TaskState.FAILED and policy.is_refusal(message):
        state = TaskState.REJECTED
    info = data.get("task_info")
    external_id = info.get("external_task_id") if isinstance(info, dict) else data.get("external_task_id")
    created = data.get("created_at")
    links, by_order = _links(data)
    return Task(
        id=str(data["task_id"]),
        state=state,
        unknown_status="" if status in _STATES else status[:_LONGEST_STATUS],
        external_id=str(external_id) if external_id else None,
        links=links,
        by_order=by_order,
        cost=_cost(data.get("final_unit_deduction")),
        message=message,
        created_ms=int(created) if isinstance(created, int | float) and 0 <= created < _LATEST_MS else None,
        body_excerpt=body_excerpt,
    )


def _links(data: dict[str, Any]) -> tuple[tuple[ImageLink, ...], bool]:
    """The images by the gateway's own numbers, where it gives each one of its own; else by their order (True)."""
    result = data.get("task_result")
    images = result.get("images") if isinstance(result, dict) else None
    if not isinstance(images, list):
        images = [{"url": data["url"]}] if data.get("url") else []
    found = [image for image in images if isinstance(image, dict) and image.get("url")]
    numbered = [_number(image.get("index")) for image in found]
    by_order = None in numbered or len(set(numbered)) < len(numbered)
    numbers = range(len(found)) if by_order else [number for number in numbered if number is not None]
    links = [
        ImageLink(index=index, url=str(image["url"]), watermark_url=str(image.get("watermark_url") or "") or None)
        for index, image in zip(numbers, found, strict=True)
    ]
    return tuple(sorted(links, key=lambda link: link.index)), by_order


def _number(value: object) -> int | None:
    """An index as a gateway writes it: a number, or a text of one."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def _cost(value: object) -> Decimal | None:
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and 0 <= cost < _LARGEST_CHARGE else None
