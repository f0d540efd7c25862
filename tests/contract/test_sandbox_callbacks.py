"""Callbacks: one at each change of a task; nothing else waits for them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

from aiohttp import web
from sandbox_caller import gateway

from batchgen.sandbox.faults.schedule import FaultSettings


@asynccontextmanager
async def listener():
    """The user's own server: the callbacks it received, and its URL."""
    received = asyncio.Queue()

    async def take(request):
        received.put_nowait(json.loads(await request.read()))
        return web.Response()

    runner = web.ServerRunner(web.Server(take), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield received, f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def take(received, number):
    return [await asyncio.wait_for(received.get(), 10) for _ in range(number)]


async def test_each_change_of_a_task_sends_what_a_query_would_answer():
    async with listener() as (received, url), gateway(latency=0.09) as caller:
        task = await caller.made(prompt="a fox", external_task_id="mine", callback_url=url)
        calls = await take(received, 3)
        assert [call["task_status"] for call in calls] == ["submitted", "processing", "succeed"]
        assert calls[-1] == (await caller.query(task)).data


async def test_a_failed_task_sends_a_callback_too():
    async with listener() as (received, url), gateway(latency=0.03) as caller:
        await caller.made(prompt="fail-this-task", callback_url=url)
        assert (await take(received, 3))[-1]["task_status"] == "failed"


async def test_an_unreachable_address_does_no_harm():
    async with gateway() as caller:
        await caller.made(prompt="a fox", callback_url="http://127.0.0.1:1/hook")
        await caller.made(prompt="a fox", callback_url="http://no host/")
        assert (await caller.usage())["images_billed"] == 2


async def test_callbacks_can_be_lost_and_repeated():
    async with listener() as (received, url):
        async with gateway(faults=FaultSettings.parse("callback_twice=1")) as caller:
            await caller.made(prompt="a fox", callback_url=url)
            states = [call["task_status"] for call in await take(received, 2)]
            assert states[0] == states[1]
            await take(received, 2 * 3 - 2)
        async with gateway(faults=FaultSettings.parse("callback_lost=1")) as caller:
            await caller.made(prompt="a fox", callback_url=url)
            while (await caller.usage())["faults"].get("callback_lost", 0) < 3:
                await asyncio.sleep(0)
        assert received.empty()


async def test_a_late_callback_comes_after_the_end_with_its_old_body():
    async with (
        listener() as (received, url),
        gateway(latency=0.03, faults=FaultSettings.parse("callback_late=1")) as caller,
    ):
        task = await caller.made(prompt="a fox", callback_url=url)
        calls = await take(received, 3)
        end = (await caller.query(task)).data["updated_at"]
        assert {call["task_status"] for call in calls} == {"submitted", "processing", "succeed"}
        assert all(call["updated_at"] <= end for call in calls)
        assert received.empty()


async def test_callbacks_can_come_in_another_order():
    async with (
        listener() as (received, url),
        gateway(latency=0.2, faults=FaultSettings.parse("callback_disorder=0.5")) as caller,
    ):
        orders = set()
        for _ in range(6):
            await caller.made(prompt="a fox", callback_url=url)
            orders.add(tuple([call["task_status"] for call in await take(received, 3)]))
    assert all(sorted(order) == ["processing", "submitted", "succeed"] for order in orders)
    assert ("processing", "submitted", "succeed") in orders or ("submitted", "succeed", "processing") in orders


async def test_forged_callbacks_name_tasks_that_do_not_exist():
    async with (
        listener() as (received, url),
        gateway(latency=0.03, faults=FaultSettings.parse("callback_forged=1")) as caller,
    ):
        task = await caller.made(prompt="a fox", callback_url=url)
        calls = await take(received, 6)
        assert [call["task_id"] == task for call in calls] == [False, True] * 3
        assert (await caller.query(calls[0]["task_id"])).code == 1203


async def test_false_callbacks_report_a_wrong_end_beside_the_true_ones():
    async with (
        listener() as (received, url),
        gateway(latency=0.09, faults=FaultSettings.parse("callback_false=1")) as caller,
    ):
        for prompt, ends in (("a fox", "succeed"), ("an owl", "succeed"), ("fail-this-task", "failed")):
            task = await caller.made(prompt=prompt, callback_url=url)
            calls = await take(received, 6)
            assert {call["task_id"] for call in calls} == {task}
            assert [call["task_status"] for call in calls[1::2]] == ["submitted", "processing", ends]
            assert {call["task_status"] for call in calls[::2]} <= {"succeed", "failed"}
            assert calls[4]["task_status"] != ends


async def test_a_restarted_sandbox_sends_the_callbacks_that_are_still_due(tmp_path):
    async with listener() as (received, url):
        async with gateway(latency=0.6, state=tmp_path / "state") as caller:
            await caller.made(prompt="a fox", callback_url=url)
            await take(received, 1)
        async with gateway(state=tmp_path / "state"):
            assert [call["task_status"] for call in await take(received, 2)] == ["processing", "succeed"]
