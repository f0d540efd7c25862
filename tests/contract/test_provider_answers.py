"""The contract of every account profile with its gateway, II: what is made of each answer, over real HTTP.

The rows are data of provider_cases.py: the API's table of errors, and what gateways send instead.
"""

from __future__ import annotations

import json

import pytest
from jobs_for_tests import job as made_job
from provider_cases import CASES, ID, asked, every
from recorder import Reply

from batchgen.errors import NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import TaskState

# The accounts of a family share their answers and what reads them: one of each family stands for all.
FAMILIES = {id(case.answers): case for case in reversed(CASES.values())}.values()
ROWS = [
    pytest.param(case, meaning, id=f"{case.profile}-{name}")
    for case in FAMILIES
    for name, meaning in case.answers.items()
]


@pytest.fixture(scope="module")
def taps():
    """A recorder for each profile, for all tests here: an answer in its place needs no gateway of its own."""
    running = {profile: case.recorder().__enter__() for profile, case in CASES.items()}
    yield running
    for recorder in running.values():
        recorder.__exit__()


@pytest.fixture
def tap_of(taps):
    def fresh(case):
        taps[case.profile].clear()
        return taps[case.profile]

    return fresh


def job_of(case):
    return made_job(model=case.models[0], aspect_ratio="1:1")


async def raised(question):
    """The error that a question ends with."""
    try:
        await question
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test looks at
        return error
    pytest.fail("this was taken for a yes")


def check(error, expected, meaning):
    assert type(error) is expected, error
    said = str(error)
    assert f"HTTP {meaning.reply.status}" in said or meaning.reply.status == 200
    if isinstance(error, Throttled):
        assert error.retry_after == meaning.retry_after
    if hasattr(error, "head"):
        assert error.body_excerpt == meaning.reply.body[:500].decode()


@pytest.mark.parametrize(("case", "meaning"), ROWS)
async def test_what_an_answer_means_to_a_create_a_query_and_a_list(tap_of, case, meaning):
    recorder = tap_of(case)
    recorder.answers = dict.fromkeys(("create", "query", "list"), lambda _: meaning.reply)
    async with case.provider(recorder) as provider:
        check(await raised(provider.create(job_of(case), ID)), meaning.create, meaning)
        if case.asks:
            check(await raised(provider.query("T1")), meaning.query, meaning)
            check(await raised(provider.find(ID)), meaning.query, meaning)
            check(await raised(provider.page(1, 500)), meaning.query, meaning)
        else:
            assert type(await raised(provider.query("T1"))) is TaskNotFound


@every
async def test_a_connection_that_is_cut_is_unclear_and_one_that_is_refused_was_not_sent(tap_of, case):
    recorder = tap_of(case)
    recorder.answers = dict.fromkeys(("create", "query", "list"), lambda _: Reply(cut=True))
    async with case.provider(recorder) as provider:
        assert type(await raised(provider.create(job_of(case), ID))) is Unclear
        if case.asks:
            assert type(await raised(provider.query("T1"))) is type(await raised(provider.page(1, 500))) is Unclear
    async with case.provider(recorder, base_url="http://127.0.0.1:1") as provider:
        assert type(await raised(provider.create(job_of(case), ID))) is NotSent


# --- answers that say yes, in every spelling --------------------------------------------------------------------

LINK = "https://example.org/a.png"
YES = {
    "as the reference has it": (
        {"code": 0, "data": {"task_id": "T1", "task_status": "submitted"}},
        TaskState.RUNNING,
        0,
    ),
    "code as a text": ({"code": "success", "data": {"task_id": "T1"}}, TaskState.RUNNING, 0),
    "code 200": ({"code": 200, "data": {"task_id": "T1"}}, TaskState.RUNNING, 0),
    "no code": ({"data": {"task_id": "T1", "status": "processing"}}, TaskState.RUNNING, 0),
    "an id that is a number": ({"code": 0, "data": {"task_id": 1}}, TaskState.RUNNING, 0),
    "a status of nobody's keeps running": (
        {"code": 0, "data": {"task_id": "T1", "task_status": "queued_in_some_new_way"}},
        TaskState.RUNNING,
        0,
    ),
    "data.url": ({"code": 0, "data": {"task_id": "T1", "status": "succeeded", "url": LINK}}, TaskState.SUCCEEDED, 1),
    "no index": (
        {"data": {"task_id": "T1", "task_status": "completed", "task_result": {"images": [{"url": LINK}] * 3}}},
        TaskState.SUCCEEDED,
        3,
    ),
    "no images yet": ({"data": {"task_id": "T1", "task_status": "succeed"}}, TaskState.SUCCEEDED, 0),
    "failed": (
        {"code": 0, "message": "SUCCEED", "data": {"task_id": "T1", "task_status": "failed"}},
        TaskState.FAILED,
        0,
    ),
}


@asked
@pytest.mark.parametrize("name", YES)
async def test_a_yes_is_read_in_every_spelling(tap_of, case, name):
    data, state, links = YES[name]
    recorder = tap_of(case)
    recorder.answers = dict.fromkeys(("create", "query"), lambda _: Reply(body=json.dumps(data).encode()))
    async with case.provider(recorder) as provider:
        for task in (await provider.create(job_of(case), ID), await provider.query("T1")):
            assert (task.id in {"T1", "1"}, task.state, len(task.links)) == (True, state, links)
            assert [link.index for link in task.links] == list(range(links))


@pytest.mark.parametrize("shape", ["[{}]", '{{"list":[{}]}}', '{{"tasks":[{}]}}'])
@asked
async def test_a_list_is_read_in_every_shape(tap_of, case, shape):
    recorder = tap_of(case)
    one = '{"task_id":"T1","task_status":"succeed","task_info":{"external_task_id":"mine"},"created_at":1790000000000}'
    body = f'{{"code":0,"data":{shape.format(one)}}}'
    recorder.answers["list"] = lambda _: Reply(body=body.encode())
    async with case.provider(recorder) as provider:
        (task,) = (await provider.page(1, 500)).tasks
    assert (task.id, task.state, task.external_id) == ("T1", TaskState.SUCCEEDED, "mine")
    assert task.created_ms == 1790000000000
