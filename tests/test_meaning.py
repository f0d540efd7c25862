"""What is made of each answer of the table in the API's reference, and of what gateways send instead."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from batchgen.door import Answer
from batchgen.errors import (
    AccountStopped,
    JobRefused,
    JobRejected,
    RefusedOrTaken,
    TaskNotFound,
    TooFast,
    TooManyRunning,
    Unclear,
)
from batchgen.providers.base import TaskState
from batchgen.providers.meaning import data_of, task_from


def answer(status: int, body: object, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status=status, headers=headers, body=raw)


def coded(status: int, code: object, message: str = "no") -> Answer:
    return answer(status, {"code": code, "message": message, "request_id": "r"})


CREATE = [
    *((coded(401, code), AccountStopped) for code in (1000, 1001, 1002, 1003, 1004)),
    *((coded(429, code), AccountStopped) for code in (1100, 1101, 1102, 1304)),
    (coded(403, 1103), JobRefused),
    (coded(400, 1200), RefusedOrTaken),
    (coded(400, 1201), RefusedOrTaken),
    (coded(404, 1202), JobRefused),
    (coded(404, 1203), JobRefused),
    (coded(400, 1300), JobRejected),
    (coded(400, 1301), JobRejected),
    (coded(429, 1302), TooFast),
    (coded(429, 1303), TooManyRunning),
    (coded(429, "1303"), TooManyRunning),
    (coded(500, 5000), Unclear),
    (coded(503, 5001), Unclear),
    (coded(504, 5002), Unclear),
    (answer(502, b"<html><h1>Bad Gateway</h1></html>"), Unclear),
    (answer(200, b""), Unclear),
    (answer(200, {"code": 0, "message": "SUCCEED"}), Unclear),
    (answer(200, b"<html>maintenance</html>"), Unclear),
    (answer(402, {"error": {"message": "insufficient balance"}}), AccountStopped),
    (answer(403, {"error": "insufficient balance"}), AccountStopped),
    (answer(401, b""), AccountStopped),
    (answer(429, b"slow down"), TooFast),
    (answer(408, b""), Unclear),
    (answer(404, b"no such page"), AccountStopped),
    (answer(301, b""), AccountStopped),
    (answer(422, {"detail": "n is wrong"}), RefusedOrTaken),
]


@pytest.mark.parametrize(("given", "meaning"), CREATE)
def test_what_an_answer_to_a_create_means(given, meaning):
    with pytest.raises(meaning) as caught:
        data_of(given, creating=True, doing="the create")
    assert type(caught.value) is meaning


@pytest.mark.parametrize("given", [coded(404, 1203), coded(404, 1202), answer(404, b"")])
def test_a_query_for_an_unknown_task_says_that_it_is_not_there(given):
    with pytest.raises(TaskNotFound):
        data_of(given, creating=False, doing="a query")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_no_server_error_after_a_create_is_taken_for_a_refusal(status):
    with pytest.raises(Unclear):
        data_of(answer(status, {"code": 9999, "message": "?"}), creating=True, doing="the create")


@pytest.mark.parametrize("code", [0, "0", 200, "success", "SUCCEED", "ok"])
def test_success_in_every_spelling(code):
    assert data_of(answer(200, {"code": code, "data": {"task_id": "t"}}), creating=True, doing="x") == {"task_id": "t"}


def test_retry_after_is_kept():
    with pytest.raises(TooManyRunning) as caught:
        data_of(answer(429, {"code": 1303}, **{"Retry-After": "7"}), creating=True, doing="x")
    assert caught.value.retry_after == 7.0


def test_the_head_of_the_answer_is_kept_with_the_failure():
    with pytest.raises(Unclear) as caught:
        data_of(answer(502, b"<html>" + b"x" * 9999), creating=True, doing="x")
    assert caught.value.head.startswith("<html>")
    assert len(caught.value.head) <= 500


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("submitted", TaskState.RUNNING),
        ("processing", TaskState.RUNNING),
        ("succeed", TaskState.SUCCEEDED),
        ("succeeded", TaskState.SUCCEEDED),
        ("completed", TaskState.SUCCEEDED),
        ("SUCCEED", TaskState.SUCCEEDED),
        ("failed", TaskState.FAILED),
        ("queued_in_some_new_way", TaskState.RUNNING),
        (None, TaskState.RUNNING),
    ],
)
def test_a_tasks_state_follows_from_its_own_status_alone(status, state):
    assert task_from({"task_id": "t", "task_status": status}, "").state is state


def test_images_are_numbered_from_0_whatever_the_gateway_counts_from():
    images = [{"index": 2, "url": "b"}, {"index": 1, "url": "a", "watermark_url": "w"}]
    task = task_from({"task_id": "t", "task_status": "succeed", "task_result": {"images": images}}, "")
    assert [(link.index, link.url, link.watermark_url) for link in task.links] == [(0, "a", "w"), (1, "b", None)]


def test_a_single_url_in_place_of_a_list_is_an_image():
    (link,) = task_from({"task_id": "t", "status": "succeeded", "url": "a"}, "").links
    assert (link.index, link.url) == (0, "a")


@pytest.mark.parametrize(
    ("given", "cost"), [("3", Decimal(3)), ("0.0035", Decimal("0.0035")), (2, Decimal(2)), ("", None), ("-1", None)]
)
def test_the_charge_is_read_exactly_or_not_at_all(given, cost):
    assert task_from({"task_id": "t", "final_unit_deduction": given}, "").cost == cost


def test_answers_that_try_to_break_the_reader_are_unclear_or_harmless():
    with pytest.raises(Unclear):
        data_of(answer(200, b"[" * 100_000), creating=True, doing="x")
    assert task_from({"task_id": "t", "created_at": float("inf")}, "").created_ms is None


@pytest.mark.parametrize("data", [{}, [], {"task_id": ""}])
def test_an_acceptance_without_a_task_id_is_unclear(data):
    with pytest.raises(Unclear):
        task_from(data, "")
