"""Callbacks: one at each change, and nothing else waits for them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

from aiohttp import web
from sandbox_caller import gateway

from batchgen.sandbox.faults.schedule import FaultSettings


@asynccontextmanager
async def listener():
    """A server of the user's own: the tasks it was told of, and its address."""
    told = asyncio.Queue()

    async def take(request):
        told.put_nowait(json.loads(await request.read()))
        return web.Response()

    runner = web.ServerRunner(web.Server(take), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield told, f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def take(told, number):
    return [await asyncio.wait_for(told.get(), 10) for _ in range(number)]


async def test_each_change_of_a_task_is_told_with_what_a_query_would_tell():
    async with listener() as (told, url), gateway(latency=0.09) as caller:
        task = await caller.made(prompt="a fox", external_task_id="mine", callback_url=url)
        calls = await take(told, 3)
        assert [call["task_status"] for call in calls] == ["submitted", "processing", "succeed"]
        assert calls[-1] == (await caller.query(task)).data


async def test_a_failed_task_is_told_too():
    async with listener() as (told, url), gateway(latency=0.03) as caller:
        await caller.made(prompt="fail-this-task", callback_url=url)
        assert (await take(told, 3))[-1]["task_status"] == "failed"


async def test_nobody_at_the_address_does_no_harm():
    async with gateway() as caller:
        await caller.made(prompt="a fox", callback_url="http://127.0.0.1:1/hook")
        await caller.made(prompt="a fox", callback_url="http://no host/")
        assert (await caller.usage())["images_billed"] == 2


async def test_calls_can_be_lost_and_repeated():
    async with listener() as (told, url):
        async with gateway(faults=FaultSettings.parse("callback_twice=1")) as caller:
            await caller.made(prompt="a fox", callback_url=url)
            states = [call["task_status"] for call in await take(told, 2)]
            assert states[0] == states[1]
            await take(told, 2 * 3 - 2)
        async with gateway(faults=FaultSettings.parse("callback_lost=1")) as caller:
            await caller.made(prompt="a fox", callback_url=url)
            while (await caller.usage())["faults"].get("callback_lost", 0) < 3:
                await asyncio.sleep(0)
        assert told.empty()


async def test_a_late_call_comes_after_the_end_with_what_it_was_to_tell():
    async with (
        listener() as (told, url),
        gateway(latency=0.03, faults=FaultSettings.parse("callback_late=1")) as caller,
    ):
        task = await caller.made(prompt="a fox", callback_url=url)
        calls = await take(told, 3)
        end = (await caller.query(task)).data["updated_at"]
        assert {call["task_status"] for call in calls} == {"submitted", "processing", "succeed"}
        assert all(call["updated_at"] <= end for call in calls)
        assert told.empty()


async def test_calls_can_come_in_another_order():
    async with (
        listener() as (told, url),
        gateway(latency=0.2, faults=FaultSettings.parse("callback_disorder=0.5")) as caller,
    ):
        orders = set()
        for _ in range(6):
            await caller.made(prompt="a fox", callback_url=url)
            orders.add(tuple([call["task_status"] for call in await take(told, 3)]))
    assert all(sorted(order) == ["processing", "submitted", "succeed"] for order in orders)
    assert ("processing", "submitted", "succeed") in orders or ("submitted", "succeed", "processing") in orders


async def test_forged_calls_name_tasks_that_are_not_there():
    async with (
        listener() as (told, url),
        gateway(latency=0.03, faults=FaultSettings.parse("callback_forged=1")) as caller,
    ):
        task = await caller.made(prompt="a fox", callback_url=url)
        calls = await take(told, 6)
        assert [call["task_id"] == task for call in calls] == [False, True] * 3
        assert (await caller.query(calls[0]["task_id"])).code == 1203


async def test_false_calls_tell_of_an_end_that_is_not_so_beside_the_true_ones():
    async with (
        listener() as (told, url),
        gateway(latency=0.09, faults=FaultSettings.parse("callback_false=1")) as caller,
    ):
        for prompt, ends in (("a fox", "succeed"), ("an owl", "succeed"), ("fail-this-task", "failed")):
            task = await caller.made(prompt=prompt, callback_url=url)
            calls = await take(told, 6)
            assert {call["task_id"] for call in calls} == {task}
            assert [call["task_status"] for call in calls[1::2]] == ["submitted", "processing", ends]
            assert {call["task_status"] for call in calls[::2]} <= {"succeed", "failed"}
            assert calls[4]["task_status"] != ends


async def test_a_restarted_sandbox_tells_of_the_changes_that_are_still_to_come(tmp_path):
    async with listener() as (told, url):
        async with gateway(latency=0.6, state=tmp_path / "state") as caller:
            await caller.made(prompt="a fox", callback_url=url)
            await take(told, 1)
        async with gateway(state=tmp_path / "state"):
            assert [call["task_status"] for call in await take(told, 2)] == ["processing", "succeed"]
