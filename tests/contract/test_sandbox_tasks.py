"""A task's states by the clock, the units it holds, its price, and how the usage reports it."""

from __future__ import annotations

import pytest
from sandbox_caller import Clock, gateway


async def test_a_task_goes_through_its_states_as_time_passes():
    clock = Clock()
    async with gateway(clock, latency=3.0, blank_images=True) as caller:
        task = await caller.made(prompt="a fox", n=2, resolution="2k", model_name="kling-v2-1")
        seen = []
        for seconds in (0, 0.999, 0.001, 1.999, 0.001):
            clock.now += seconds
            data = (await caller.query(task)).data
            seen.append((data["task_status"], data["updated_at"] - data["created_at"]))
        assert seen == [
            ("submitted", 0),
            ("submitted", 0),
            ("processing", 1000),
            ("processing", 1000),
            ("succeed", 3000),
        ]
        assert data["final_unit_deduction"] == "4"
        assert [image["index"] for image in data["task_result"]["images"]] == [0, 1]


async def test_an_image_is_not_there_before_its_task_has_succeeded():
    clock = Clock()
    async with gateway(clock, blank_images=True) as caller:
        task = await caller.made(prompt="a fox")
        url = f"{caller.sandbox.origin}/images/{task}/0.png"
        assert (await caller.ask("GET", url)).status == 404
        clock.now += 1
        assert (await caller.fetch(url)).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["1.png", "-1.png", "0", "0.jpg", "00.png", "0-watermark.png", "x/0.png", ""])
async def test_only_the_images_that_a_task_made_are_there(name):
    async with gateway(blank_images=True) as caller:
        task = await caller.made(prompt="a fox", n=1)
        answer = await caller.ask("GET", f"{caller.sandbox.origin}/images/{task}/{name}")
        assert (answer.status, answer.code) == (404, 1203)


async def test_a_watermarked_copy_is_made_when_asked_for():
    async with gateway() as caller:
        task = await caller.made(prompt="a fox", watermark_info={"enabled": True})
        (link,) = await caller.links(task)
        assert await caller.fetch(link["url"]) != await caller.fetch(link["watermark_url"])
        plain = await caller.made(prompt="a fox", watermark_info={"enabled": False})
        assert "watermark_url" not in (await caller.links(plain))[0]


async def test_a_task_can_be_made_to_fail_and_then_costs_nothing():
    async with gateway() as caller:
        task = await caller.made(prompt="please fail-this-task")
        answer = await caller.query(task)
        assert answer.code == 0
        assert answer.data["task_status"] == "failed"
        assert answer.data["task_status_msg"]
        assert answer.data["final_unit_deduction"] == "0"
        usage = await caller.usage()
        assert (usage["images_billed"], usage["units_billed"]) == (0, "0")
        assert usage["tasks_by_status"] == {"failed": 1}


async def test_a_task_holds_as_many_units_as_it_makes_images_until_it_ends():
    clock = Clock()
    async with gateway(clock, concurrency=9) as caller:
        await caller.made(prompt="a fox", n=5)
        clock.now += 0.5
        await caller.made(prompt="a fox", n=4)
        refused = await caller.create(prompt="a fox", n=1)
        assert (refused.status, refused.code) == (429, 1303)
        assert refused.headers["Retry-After"] == "1"
        clock.now += 0.5  # the first has ended
        assert (await caller.create(prompt="a fox", n=6)).code == 1303
        await caller.made(prompt="a fox", n=5)
        usage = await caller.usage()
        assert (usage["units_held"], usage["peak_units_held"]) == (9, 9)


async def test_creates_beyond_the_pace_are_refused_until_a_minute_has_passed():
    clock = Clock()
    async with gateway(clock, creates_per_minute=2) as caller:
        await caller.made(prompt="a fox")
        clock.now += 20
        await caller.made(prompt="a fox")
        refused = await caller.create(prompt="a fox")
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, 1302, "40")
        clock.now += 40
        await caller.made(prompt="a fox")
        assert (await caller.create(prompt="a fox")).code == 1302


async def test_a_balance_is_used_up_by_spent_and_reserved_units_but_not_by_failures():
    async with gateway(balance=3) as caller:
        await caller.made(prompt="fail-this-task", n=3)
        await caller.made(prompt="a fox", n=2)
        refused = await caller.create(prompt="a fox", resolution="2k", model_name="kling-v3")
        assert (refused.status, refused.code) == (429, 1102)
        await caller.made(prompt="a fox")


async def test_latencies_spread_round_their_median_and_follow_from_the_seed():
    async def durations(seed):
        clock = Clock()
        async with gateway(clock, latency=10.0, latency_sigma=0.5, seed=seed, concurrency=1000) as caller:
            for _ in range(101):
                await caller.made(prompt="a fox")
            return [row["ends_at"] - row["created_at"] for row in (await caller.usage())["tasks"]]

    first, again, other = [await durations(seed) for seed in (1, 1, 2)]
    assert first == again != other
    assert 7_000 < sorted(first)[50] < 14_000
    assert max(first) > 20_000
    assert min(first) < 5_000


# --- the list ----------------------------------------------------------------------------------------------


async def test_the_list_is_newest_first_and_in_pages():
    async with gateway(concurrency=1000) as caller:
        made = [await caller.made(prompt="a fox") for _ in range(35)]
        newest = made[::-1]
        pages = {
            "": newest[:30],
            "?pageNum=2": newest[30:],
            "?pageNum=1&pageSize=500": newest,
            "?pageNum=4&pageSize=10": newest[30:],
            "?pageNum=5&pageSize=10": [],
            "?pageNum=1000&pageSize=1": [],
        }
        for query, expected in pages.items():
            answer = await caller.listed(query)
            assert [task["task_id"] for task in answer.data] == expected, query


async def test_the_list_tells_of_a_task_what_a_query_tells():
    async with gateway() as caller:
        for prompt in ("a fox", "fail-this-task"):
            task = await caller.made(prompt=prompt, external_task_id=prompt)
            assert (await caller.listed("?pageSize=1")).data == [(await caller.query(task)).data]


@pytest.mark.parametrize(
    "query",
    ["?pageNum=0", "?pageNum=1001", "?pageSize=0", "?pageSize=501", "?pageSize=x", "?pageNum=", "?pageSize=1.5"],
)
async def test_pages_out_of_bounds_are_refused(query):
    async with gateway() as caller:
        answer = await caller.listed(query)
        assert (answer.status, answer.code) == (400, 1201)


# --- usage ------------------------------------------------------------------------------------------------


async def test_the_usage_counts_requests_by_kind_and_code():
    async with gateway(blank_images=True) as caller:
        task = await caller.made(prompt="a fox")
        await caller.create(prompt="")
        await caller.create(prompt="forbidden-word")
        await caller.query(task)
        await caller.query("unknown")
        await caller.listed()
        await caller.fetch((await caller.links(task))[0]["url"])
        usage = await caller.usage("?tasks=0")
        assert usage["requests"] == {
            "create": {"0": 1, "1201": 1, "1301": 1},
            "query": {"0": 2, "1203": 1},
            "list": {"0": 1},
            "image": {"0": 1},
        }
        assert "tasks" not in usage


async def test_the_usage_keeps_when_a_query_or_a_list_first_reported_a_tasks_end():
    clock = Clock()
    async with gateway(clock, latency=10.0) as caller:
        asked, listed, unasked = [await caller.made(prompt=f"a fox, {number}") for number in range(3)]
        ends = int((clock.now + 10) * 1000)
        await caller.query(asked)
        clock.now += 11
        await caller.query(asked)
        clock.now += 1
        await caller.listed("?pageNum=2&pageSize=1")
        clock.now += 1
        await caller.query(asked)
        reported = {row["task_id"]: row["reported_at"] for row in (await caller.usage())["tasks"]}
        assert reported == {asked: ends + 1000, listed: ends + 2000, unasked: None}


async def test_the_usage_bills_each_image_of_a_task_that_succeeded():
    async with gateway() as caller:
        await caller.made(prompt="a fox", n=3)
        await caller.made(prompt="a hare", n=2, resolution="2k", model_name="kling-v2-1")
        await caller.made(prompt="fail-this-task", n=4)
        usage = await caller.usage()
        assert (usage["images_billed"], usage["units_billed"]) == (5, "7")
        assert [row["units_billed"] for row in usage["tasks"]] == ["3", "4", "0"]


async def test_the_usage_counts_repeated_requests_whatever_their_ids_and_spelling():
    async with gateway() as caller:
        await caller.made(prompt="a fox", n=2, external_task_id="one")
        await caller.made(n=2, prompt="a fox", external_task_id="two", callback_url="http://127.0.0.1:9/")
        await caller.made(prompt="a fox", n=3)
        await caller.made(prompt="fail-this-task", external_task_id="three")
        await caller.made(prompt="fail-this-task", external_task_id="four")
        assert (await caller.usage())["duplicates"] == {"requests": 2, "images_billed": 2, "external_ids": 0}


async def test_a_page_at_the_root_says_what_this_is():
    async with gateway() as caller:
        page = await caller.fetch(f"{caller.sandbox.origin}/")
        assert b"sandbox" in page
        assert b"/_usage" in page
