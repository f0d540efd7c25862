"""Each fault does what its description says, and is counted."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
import pytest
from sandbox_caller import gateway

from batchgen.errors import CommandError
from batchgen.sandbox.api_error import STATUS_OF
from batchgen.sandbox.faults.schedule import FaultSchedule, FaultSettings
from batchgen.sandbox.faults.table import FAULTS, IN_ALL, Act, Occasion

CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


def always(*names):
    return FaultSettings(rates=dict.fromkeys(names, 1.0))


async def raw(caller, method, url, **more):
    async with caller.session.request(method, url, **more) as response:
        return response.status, response.content_type, await response.read()


def test_fault_settings_are_parsed():
    assert FaultSettings.parse("fail=0.02, drop_after=1").rates == {"fail": 0.02, "drop_after": 1.0}
    assert FaultSettings.parse("").rates == {}
    everything = FaultSettings.parse("all=0.1,fail=0").rates
    assert everything.keys() == set(IN_ALL)
    assert {everything.pop("fail"), *everything.values()} == {0, 0.1}
    assert FaultSettings.parse("all=0.1,refuse_1101=0.5").rates["refuse_1101"] == 0.5


def test_all_sets_nothing_that_ends_a_job_or_stops_an_account():
    answers = {FAULTS[name].code for name in IN_ALL if FAULTS[name].act is Act.REFUSE}
    assert answers == {1302, 1303, 5000, 5001, 5002}


@pytest.mark.parametrize("text", ["unknown=0.1", "fail", "fail=often", "fail=1.1", "fail=-1", "fail=nan", "=1"])
def test_invalid_fault_settings_are_refused_with_a_sentence(text):
    with pytest.raises(CommandError, match=r"\.$"):
        FaultSettings.parse(text)


def test_the_same_seed_injects_the_same_faults_and_rates_are_kept():
    def injected(seed, text="fail=0.2"):
        schedule = FaultSchedule(FaultSettings.parse(text), seed)
        return [schedule.next(Occasion.TASK, number) is not None for number in range(2000)]

    assert injected(1) == injected(1) != injected(2)
    assert injected(1) == injected(1, "fail=0.2,drop_after=0.9")
    assert 300 < sum(injected(1)) < 500


def test_a_fault_is_injected_only_on_its_occasion():
    schedule = FaultSchedule(FaultSettings.parse("all=1"), 0)
    for occasion in Occasion:
        assert schedule.next(occasion).occasion is occasion


@pytest.mark.parametrize(
    ("name", "status", "code", "accepted"),
    [
        ("error_before", 500, 5000, 0),
        ("too_fast", 429, 1302, 0),
        ("too_many", 429, 1303, 0),
        ("error_after", 504, 5002, 1),
    ],
)
async def test_faults_of_a_create_that_answer(name, status, code, accepted):
    async with gateway(faults=always(name)) as caller:
        answer = await caller.create(prompt="a fox")
        assert (answer.status, answer.code, answer.data) == (status, code, None)
        usage = await caller.usage()
        assert usage["creates_accepted"] == usage["images_billed"] == accepted
        assert usage["requests"] == {"create": {str(code): 1}}
        assert usage["faults"] == {name: 1}


@pytest.mark.parametrize("code", STATUS_OF)
async def test_a_create_can_get_each_code_of_the_error_table(code):
    async with gateway(faults=always(f"refuse_{code}")) as caller:
        answer = await caller.create(prompt="a fox")
        assert (answer.status, answer.code) == (STATUS_OF[code], code)
        assert answer.message
        usage = await caller.usage()
        assert (usage["creates_accepted"], usage["faults"]) == (0, {f"refuse_{code}": 1})


@pytest.mark.parametrize("name", ["too_fast_wait", "too_many_wait"])
async def test_a_refusal_for_now_can_say_how_long(name):
    async with gateway(faults=always(name)) as caller:
        answer = await caller.create(prompt="a fox")
        assert (answer.code, answer.headers["Retry-After"]) == (FAULTS[name].code, "2")


@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith("query_refuse_")])
async def test_a_query_can_get_each_code_that_answers_one(name):
    async with gateway(faults=always(name)) as caller:
        task = await caller.made(prompt="a fox")
        assert [(await caller.query(task)).code, (await caller.listed()).code] == [FAULTS[name].code] * 2


@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith(("page_4", "query_page_4"))])
async def test_a_gateway_can_answer_with_an_http_status_alone(name):
    async with gateway(faults=always(name)) as caller:
        asked = ("GET", f"{caller.url}/1") if name.startswith("query") else ("POST", caller.url)
        body = {} if name.startswith("query") else {"json": {"prompt": "a fox"}}
        assert (await raw(caller, *asked, **body))[:2] == (FAULTS[name].code, "text/html")
        assert (await caller.usage())["creates_accepted"] == 0


@pytest.mark.parametrize(("name", "accepted"), [("drop_before", 0), ("drop_after", 1)])
async def test_a_create_can_be_cut_before_and_after_it_was_accepted(name, accepted):
    async with gateway(faults=always(name)) as caller:
        with pytest.raises(CUT):
            await caller.create(prompt="a fox", external_task_id="mine")
        found = await caller.query("mine")
        assert found.code == (0 if accepted else 1203)
        usage = await caller.usage()
        assert usage["creates_accepted"] == accepted
        assert usage["requests"]["create"] == {"cut": 1}


@pytest.mark.parametrize(("name", "accepted"), [("page_before", 0), ("page_after", 1)])
async def test_a_proxy_can_answer_a_create_with_a_page(name, accepted):
    async with gateway(faults=always(name)) as caller:
        status, kind, _ = await raw(caller, "POST", caller.url, json={"prompt": "a fox"})
        assert (status, kind) == (502, "text/html")
        assert (await caller.usage())["creates_accepted"] == accepted


@pytest.mark.parametrize(("name", "accepted"), [("hang_before", 0), ("hang", 1)])
async def test_a_create_can_hang_and_a_closing_sandbox_lets_go_of_it(name, accepted):
    async with gateway(faults=always(name)) as caller:
        waiting = asyncio.create_task(caller.create(prompt="a fox"))
        while not (await caller.usage())["requests"].get("create"):
            assert not waiting.done()
        usage = await caller.usage()
        assert usage["requests"]["create"] == {"hang": 1}
        assert usage["creates_accepted"] == accepted
        caller.sandbox.closing.set()
        with pytest.raises(CUT):
            await waiting


@pytest.mark.parametrize(("name", "status", "code"), [("query_error", 503, 5001), ("query_too_fast", 429, 1302)])
async def test_faults_of_a_query_are_injected_into_the_list_too(name, status, code):
    async with gateway(faults=always(name)) as caller:
        task = await caller.made(prompt="a fox")
        for answer in (await caller.query(task), await caller.listed()):
            assert (answer.status, answer.code) == (status, code)


async def test_a_query_can_be_cut_or_get_a_page():
    async with gateway(faults=always("query_drop")) as caller:
        with pytest.raises(CUT):
            await caller.query("1")
    async with gateway(faults=always("query_page")) as caller:
        assert (await raw(caller, "GET", f"{caller.url}/1"))[:2] == (502, "text/html")


async def test_tasks_fail_by_chance_and_are_not_billed():
    async with gateway(faults=FaultSettings.parse("fail=0.5"), concurrency=1000) as caller:
        for _ in range(60):
            await caller.made(prompt="a fox")
        usage = await caller.usage()
        failed = usage["tasks_by_status"]["failed"]
        assert 15 < failed < 45
        assert usage["images_billed"] == 60 - failed
        assert usage["faults"] == {"fail": failed}


async def image_in(name):
    """A download into which this fault is injected, and what it should be."""
    async with gateway(faults=always(name), blank_images=True) as caller:
        task = await caller.made(prompt="a fox")
        (link,) = await caller.links(task)
        whole = await caller.sandbox.images.content(caller.sandbox.store.tasks[0], 0)
        return *(await raw(caller, "GET", link["url"])), whole


async def test_a_download_can_be_half_or_damaged():
    status, _, content, whole = await image_in("shorten")
    assert (status, content) == (200, whole[: len(whole) // 2])
    status, _, content, whole = await image_in("corrupt")
    assert (status, len(content)) == (200, len(whole))
    assert content != whole


async def test_a_download_can_break_off_in_the_middle():
    with pytest.raises(aiohttp.ClientPayloadError):
        await image_in("truncate")


async def test_a_download_can_be_cut_expired_or_a_page():
    with pytest.raises(CUT):
        await image_in("image_drop")
    assert (await image_in("expire"))[:2] == (404, "text/html")
    assert (await image_in("image_page"))[:2] == (200, "text/html")


async def test_with_every_fault_at_once_the_usage_still_adds_up():
    faults = FaultSettings.parse("all=0.1,hang=0,hang_before=0,query_hang=0,image_hang=0")
    async with gateway(faults=faults, concurrency=1000, blank_images=True) as caller:
        for number in range(150):
            with suppress(*CUT, aiohttp.ContentTypeError):
                await caller.create(prompt="a fox", external_task_id=str(number))
        usage = await caller.usage()
        answers = usage["requests"]["create"]
        assert sum(answers.values()) == 150
        lost = sum(usage["faults"].get(name, 0) for name in ("drop_after", "error_after", "page_after"))
        assert usage["creates_accepted"] == answers["0"] + lost
        assert usage["images_billed"] == usage["tasks_by_status"]["succeed"]
