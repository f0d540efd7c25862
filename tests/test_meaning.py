"""How an answer is read: its spellings, its numbers, its limits. What each means is test_provider_answers.py."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from batchgen.door import Answer
from batchgen.errors import Unclear
from batchgen.providers.base import TaskState
from batchgen.providers.meaning import data_of, task_from


def answer(status: int, body: object, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status=status, headers=headers, body=raw)


@pytest.mark.parametrize("code", [0, "0", 200, "success", "SUCCEED", "ok"])
def test_success_in_every_spelling(code):
    assert data_of(answer(200, {"code": code, "data": {"task_id": "t"}}), creating=True, doing="x") == {"task_id": "t"}


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
