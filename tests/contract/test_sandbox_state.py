"""A sandbox with a state knows its tasks again after anything, and serves the same files."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import pytest
from sandbox_caller import Clock, gateway, picture
from sandbox_process import SandboxProcess

from batchgen.errors import CommandError


async def test_a_restarted_sandbox_knows_its_tasks_and_paints_the_same_images(tmp_path):
    state = tmp_path / "new folder" / "state.jsonl"
    body = {
        "prompt": "ein Fuchs 🦊",
        "model_name": "kling-v1-5",
        "n": 2,
        "image": picture(),
        "image_reference": "face",
        "external_task_id": "mine",
        "watermark_info": {"enabled": True},
    }
    starts = []
    for start in range(2):
        async with gateway(state=state) as caller:
            if start == 0:
                await caller.made(**body)
                await caller.made(prompt="fail-this-task")
            links = await caller.links("mine")
            usage = await caller.usage()
            usage.pop("requests")
            usage.pop("peak_units_held")
            for task in usage["tasks"]:
                task.pop("reported_at")
            files = [await caller.fetch(link[kind]) for link in links for kind in ("url", "watermark_url")]
            starts.append((usage, files))
            assert (await caller.create(**body)).code == 1201 or start == 0
    first, second = starts
    assert len(set(first[1])) == 4
    first[0]["duplicates"] = second[0]["duplicates"] = None
    assert first == second


async def test_a_running_task_goes_on_by_the_clock_and_still_holds_its_units(tmp_path):
    clock = Clock()
    settings = {"state": tmp_path / "state", "concurrency": 9, "latency": 9.0, "creates_per_minute": 2}
    async with gateway(clock, **settings) as caller:
        task = await caller.made(prompt="a fox", n=9)
    clock.now += 4
    async with gateway(clock, **settings) as caller:
        assert (await caller.query(task)).data["task_status"] == "processing"
        assert (await caller.create(prompt="a fox")).code == 1303
        clock.now += 5
        assert (await caller.query(task)).data["task_status"] == "succeed"
        later = await caller.made(prompt="a fox")
        assert int(later) > int(task)
        assert (await caller.create(prompt="a fox")).code == 1302


async def test_a_task_id_is_not_given_again_though_the_clock_was_put_back(tmp_path):
    clock = Clock()
    async with gateway(clock, state=tmp_path / "state") as caller:
        first = await caller.made(prompt="a fox")
    clock.now -= 3600
    async with gateway(clock, state=tmp_path / "state") as caller:
        assert int(await caller.made(prompt="a fox")) > int(first)


async def test_a_torn_last_line_is_forgotten_and_the_journal_goes_on(tmp_path):
    state = tmp_path / "state"
    async with gateway(state=state) as caller:
        await caller.made(prompt="a fox", external_task_id="whole")
        await caller.made(prompt="a fox", external_task_id="torn")
    state.write_bytes(state.read_bytes()[:-20])
    async with gateway(state=state) as caller:
        assert (await caller.query("whole")).code == 0
        assert (await caller.query("torn")).code == 1203
        await caller.made(prompt="a fox", external_task_id="after")
    async with gateway(state=state) as caller:
        assert [row["external_task_id"] for row in (await caller.usage())["tasks"]] == ["whole", "after"]


@pytest.mark.parametrize("line", ["not json", "[]", '{"id": "1"}', '{"body": {}}', '{"body": 7}'])
async def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, line):
    state = tmp_path / "state"
    state.write_text(f"{line}\n")
    with pytest.raises(CommandError, match="Line 1 of"):
        async with gateway(state=state):
            pass
    assert state.read_text() == f"{line}\n"


async def test_a_state_that_cannot_be_opened_is_a_sentence(tmp_path):
    with pytest.raises(CommandError, match=r"Cannot open the sandbox.*\.$"):
        async with gateway(state=tmp_path):
            pass


async def test_the_journal_holds_no_image_but_its_hash(tmp_path):
    state = tmp_path / "state"
    sent = picture()
    async with gateway(state=state) as caller:
        await caller.made(prompt="a fox", image=sent)
    (line,) = state.read_text().splitlines()
    assert json.loads(line)["body"]["image"].startswith("sha256:")
    assert sent not in line


def test_a_killed_process_has_forgotten_no_task_that_it_answered(tmp_path):
    options = ("--state", str(tmp_path / "state"), "--latency", "0", "--concurrency", "99")
    with SandboxProcess(*options) as sandbox:
        for number in range(20):
            _create(sandbox.base_url, {"prompt": "a fox", "external_task_id": str(number)})
        sandbox.kill()
    with SandboxProcess(*options) as sandbox:
        ids = [row["external_task_id"] for row in sandbox.usage()["tasks"]]
        assert ids == [str(number) for number in range(20)]


def _create(base_url, body):
    url = f"{base_url}/v1/images/generations"
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode(), headers)) as answer:  # noqa: S310 - our own server's
        assert json.load(answer)["code"] == 0
