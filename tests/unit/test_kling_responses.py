"""How an answer is read: its spellings, its numbers, its limits. What each means is test_provider_answers.py."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from batchgen.errors import Unclear
from batchgen.http.client import Answer
from batchgen.jobs import ImageLink
from batchgen.providers.base import TaskState
from batchgen.providers.kling_responses import data_of, task_from


def answer(status: int, body: object, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status=status, headers=headers, body=raw)


@pytest.mark.parametrize("code", [0, "0", 200, "success", "SUCCEED", "ok"])
def test_success_in_every_spelling(code):
    assert data_of(answer(200, {"code": code, "data": {"task_id": "t"}}), creating=True, operation="x") == {
        "task_id": "t"
    }


def test_the_head_of_the_answer_is_kept_with_the_failure():
    with pytest.raises(Unclear) as caught:
        data_of(answer(502, b"<html>" + b"x" * 9999), creating=True, operation="x")
    assert caught.value.body_excerpt.startswith("<html>")
    assert len(caught.value.body_excerpt) <= 500


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


def succeeded(*images):
    found = [dict(zip(("url", "index", "watermark_url"), image, strict=False)) for image in images]
    return task_from({"task_id": "t", "task_status": "succeed", "task_result": {"images": found}}, "")


@pytest.mark.parametrize(
    ("images", "n", "numbered"),
    [
        ([("b", 2), ("a", 1, "w")], 2, {0: "a", 1: "b"}),
        ([("b", 1), ("a", 0)], 2, {0: "a", 1: "b"}),
        ([("b", "1"), ("a", "0")], 2, {0: "a", 1: "b"}),
        ([("b", 1), ("c", 2)], 3, {1: "b", 2: "c"}),
        ([("b", 2), ("c", 3)], 3, {1: "b", 2: "c"}),
        ([("a", 10), ("b", 20)], 2, {0: "a", 1: "b"}),
        ([("a", 0), ("b", 0)], 2, {0: "a", 1: "b"}),
        ([("a", None), ("b", True)], 2, {0: "a", 1: "b"}),
        ([("a",), ("b",), ("c",)], 2, {0: "a", 1: "b"}),
        ([("a", 0), ("b", 1), ("c", 2)], 2, {0: "a", 1: "b"}),
        ([("a", 1), ("b", 2), ("c", 3)], 2, {0: "a", 1: "b"}),
    ],
)
def test_images_are_numbered_from_0_by_the_gateway_s_own_index_where_it_gives_distinct_ones(images, n, numbered):
    assert {link.index: link.url for link in succeeded(*images).images(n)} == numbered


KNOWN = [ImageLink(index=index, url=f"http://x/{name}?old") for index, name in enumerate("abc")]


@pytest.mark.parametrize(
    ("images", "numbered"),
    [
        ([("http://x/c?new", 1), ("http://x/b?new", 0)], {1: "b", 2: "c"}),
        ([("http://x/c?new",), ("http://x/b?new",)], {1: "b", 2: "c"}),
        ([("http://x/c?new",), ("http://x/a?new",), ("http://x/d?new",)], {0: "a", 1: "d", 2: "c"}),
        ([("http://y/1",), ("http://y/2",)], {}),
        ([("http://y/1", 1), ("http://y/2", 2)], {1: "1", 2: "2"}),
    ],
)
def test_an_image_that_is_known_keeps_its_number(images, numbered):
    found = succeeded(*images).images(3, KNOWN)
    assert {link.index: link.url.rpartition("/")[2].partition("?")[0] for link in found} == numbered


def test_a_single_image_whose_number_was_misread_costs_no_other_its_place():
    """Image 1 of three may be the first, counted from 1, or the second, counted from 0."""
    first = succeeded(("http://x/a", 1)).images(3)
    numbered = {"http://x/a": 1, "http://x/b": 2, "http://x/c": 0}
    for images in (
        [("http://x/a", 1), ("http://x/b", 2), ("http://x/c", 3)],
        [("http://x/c", 2), ("http://x/b", 1), ("http://x/a", 0)],
    ):
        found = succeeded(*images).images(3, first)
        assert {link.url: link.index for link in found} == numbered
        assert succeeded(*images).images(3, found) == found


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
        data_of(answer(200, b"[" * 100_000), creating=True, operation="x")
    assert task_from({"task_id": "t", "created_at": float("inf")}, "").created_ms is None


@pytest.mark.parametrize("data", [{}, [], {"task_id": ""}])
def test_an_acceptance_without_a_task_id_is_unclear(data):
    with pytest.raises(Unclear):
        task_from(data, "")
