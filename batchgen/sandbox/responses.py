"""Answers in the API's words. They are put together as text: a list of 500 tasks is asked for often."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchgen.sandbox.task import State
from batchgen.sandbox.usage import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchgen.sandbox.api_error import Refusal
    from batchgen.sandbox.links import Links
    from batchgen.sandbox.task import Task


def success(request_id: str, data: str) -> bytes:
    """The frame round every answer that is no refusal; `data` is JSON."""
    return f'{{"code":0,"message":"SUCCEED","request_id":"{request_id}","data":{data}}}'.encode()


def refusal(request_id: str, refused: Refusal) -> bytes:
    """The answer to what is not carried out."""
    return json.dumps(
        {"code": refused.code, "message": refused.message, "request_id": request_id}, ensure_ascii=False
    ).encode()


def accepted(task: Task) -> str:
    """A task as the create's own answer tells of it: always submitted."""
    return _task(task, task.created_at, State.SUBMITTED, "")


def task(told: Task, now: int, links: Links) -> str:
    """A task as a query tells of it."""
    state = told.state(now)
    more = ""
    if state is State.SUCCEED:
        pictures = ",".join(_picture(told, index, links) for index in range(told.order.n))
        more = (
            f',"task_status_msg":"","task_result":{{"images":[{pictures}]}}'
            f',"final_unit_deduction":"{plain(told.units)}"'
        )
    elif state is State.FAILED:
        more = f',"task_status_msg":{json.dumps(told.failure)},"final_unit_deduction":"0"'
    return _task(told, told.changed_at(now), state, more)


def page(told: Iterable[Task], now: int, links: Links) -> str:
    """A page of the list."""
    return f"[{','.join(task(each, now, links) for each in told)}]"


def _task(told: Task, changed_at: int, state: State, more: str) -> str:
    external_id = json.dumps(told.order.external_id) if told.order.external_id else ""
    info = f'{{"external_task_id":{external_id}}}' if external_id else "{}"
    return (
        f'{{"task_id":"{told.id}","task_status":"{state.value}","task_info":{info}'
        f',"created_at":{told.created_at},"updated_at":{changed_at}{more}}}'
    )


def _picture(told: Task, index: int, links: Links) -> str:
    marked = f',"watermark_url":"{links.of(told, index, marked=True)}"' if told.order.watermark else ""
    return f'{{"index":{index},"url":"{links.of(told, index)}"{marked}}}'
