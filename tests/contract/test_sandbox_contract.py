"""Each rule and code of the API's tables, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
from io import BytesIO

import pytest
from sandbox_caller import gateway, picture

FACE = picture()
GOOD = {
    "only what is required": {"prompt": "a fox"},
    "the longest prompt": {"prompt": "a" * 2500},
    "characters, not bytes": {"prompt": "狐" * 2500},
    "the most images": {"prompt": "a fox", "n": 9},
    "everything": {
        "model_name": "kling-v1-5",
        "prompt": "a fox",
        "image": FACE,
        "image_reference": "subject",
        "image_fidelity": 1,
        "human_fidelity": 0.45,
        "resolution": "1k",
        "n": 2,
        "aspect_ratio": "21:9",
        "watermark_info": {"enabled": True},
        "callback_url": "http://127.0.0.1:9/",
        "external_task_id": "mine",
    },
    "a linked image": {"prompt": "a fox", "image": "https://example.org/fox.png"},
    "a jpeg": {"prompt": "a fox", "image": picture(kind="JPEG")},
    "the smallest image": {"prompt": "a fox", "image": picture(300, 300)},
    "the widest image": {"prompt": "a fox", "image": picture(750, 300)},
    "model for model_name": {"prompt": "a fox", "model": "whatever"},
    "human_fidelity with a face": {
        "prompt": "a fox",
        "model_name": "kling-v1-5",
        "image": FACE,
        "image_reference": "face",
        "human_fidelity": 0.9,
    },
}
BAD = {
    "no prompt": ({}, 400, 1201),
    "an empty prompt": ({"prompt": " "}, 400, 1201),
    "a prompt that is a number": ({"prompt": 42}, 400, 1201),
    "too long a prompt": ({"prompt": "a" * 2501}, 400, 1201),
    "too long a negative prompt": ({"prompt": "a", "negative_prompt": "b" * 2501}, 400, 1201),
    "null": ({"prompt": "a", "negative_prompt": None}, 400, 1201),
    "an unknown model": ({"prompt": "a", "model_name": "kling-v9"}, 404, 1203),
    "a model that is a list": ({"prompt": "a", "model_name": ["kling-v1"]}, 400, 1201),
    "no image": ({"prompt": "a", "n": 0}, 400, 1201),
    "too many images": ({"prompt": "a", "n": 10}, 400, 1201),
    "n as text": ({"prompt": "a", "n": "2"}, 400, 1201),
    "n as a boolean": ({"prompt": "a", "n": True}, 400, 1201),
    "n with a fraction": ({"prompt": "a", "n": 1.0}, 400, 1201),
    "an unknown ratio": ({"prompt": "a", "aspect_ratio": "5:4"}, 400, 1201),
    "a ratio read as base 60": ({"prompt": "a", "aspect_ratio": 969}, 400, 1201),
    "a ratio that cannot be hashed": ({"prompt": "a", "aspect_ratio": {}}, 400, 1201),
    "an unknown resolution": ({"prompt": "a", "resolution": "4k"}, 400, 1201),
    "an unknown field": ({"prompt": "a", "seed": 7}, 400, 1201),
    "fidelity above 1": ({"prompt": "a", "image_fidelity": 1.1}, 400, 1201),
    "fidelity below 0": ({"prompt": "a", "human_fidelity": -0.1}, 400, 1201),
    "fidelity as a boolean": ({"prompt": "a", "image_fidelity": True}, 400, 1201),
    "fidelity as text": ({"prompt": "a", "image_fidelity": "0.5"}, 400, 1201),
    "watermark as a boolean": ({"prompt": "a", "watermark_info": True}, 400, 1201),
    "watermark without a boolean": ({"prompt": "a", "watermark_info": {"enabled": 1}}, 400, 1201),
    "a callback that is no URL": ({"prompt": "a", "callback_url": "here"}, 400, 1201),
    "an external id that is a number": ({"prompt": "a", "external_task_id": 7}, 400, 1201),
    "a negative prompt with an image": ({"prompt": "a", "image": FACE, "negative_prompt": "b"}, 400, 1201),
    "an image with its prefix": ({"prompt": "a", "image": f"data:image/png;base64,{FACE}"}, 400, 1201),
    "an image that is no base64": ({"prompt": "a", "image": "not base64!"}, 400, 1201),
    "an empty image": ({"prompt": "a", "image": ""}, 400, 1201),
    "a gif": ({"prompt": "a", "image": picture(kind="GIF")}, 400, 1201),
    "an image that is text": ({"prompt": "a", "image": base64.b64encode(b"hello").decode()}, 400, 1201),
    "too small an image": ({"prompt": "a", "image": picture(299, 400)}, 400, 1201),
    "too wide an image": ({"prompt": "a", "image": picture(751, 300)}, 400, 1201),
    "too tall an image": ({"prompt": "a", "image": picture(300, 751)}, 400, 1201),
    "too heavy an image": ({"prompt": "a", "image": base64.b64encode(bytes(10485761)).decode()}, 400, 1201),
    "a reference with another model": (
        {"prompt": "a", "model_name": "kling-v2", "image": FACE, "image_reference": "face"},
        400,
        1201,
    ),
    "no reference with kling-v1-5": ({"prompt": "a", "model_name": "kling-v1-5", "image": FACE}, 400, 1201),
    "an unknown reference": (
        {"prompt": "a", "model_name": "kling-v1-5", "image": FACE, "image_reference": "pose"},
        400,
        1201,
    ),
    "a word against safety": ({"prompt": "a forbidden-word here"}, 400, 1301),
    "a word against policy": ({"prompt": "a policy-word here"}, 400, 1300),
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
async def test_what_keeps_the_rules_is_accepted(body):
    async with gateway(blank_images=True) as caller:
        answer = await caller.create(**body)
        assert (answer.status, answer.code) == (200, 0), answer.message
        assert answer.data["task_status"] == "submitted"
        assert answer.data["created_at"] == answer.data["updated_at"] > 1_600_000_000_000


@pytest.mark.parametrize(("body", "status", "code"), BAD.values(), ids=BAD.keys())
async def test_what_breaks_a_rule_is_refused_with_its_code_and_not_billed(body, status, code):
    async with gateway() as caller:
        answer = await caller.create(**body)
        assert (answer.status, answer.code, answer.data) == (status, code, None)
        assert answer.message
        assert (await caller.usage())["creates_accepted"] == 0


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"a"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused_with_1200(raw):
    async with gateway() as caller:
        answer = await caller.ask("POST", caller.url, data=raw)
        assert (answer.status, answer.code) == (400, 1200)


async def test_a_body_beyond_every_bound_is_refused_in_the_apis_words():
    async with gateway() as caller:
        answer = await caller.ask("POST", caller.url, data=BytesIO(b" " * (25 * 1024 * 1024)))
        assert (answer.status, answer.code) == (400, 1201)


async def test_the_usage_holds_the_request_as_it_was_sent_and_a_sent_image_by_its_hash():
    body = GOOD["everything"]
    async with gateway() as caller:
        await caller.create(**body)
        (task,) = (await caller.usage())["tasks"]
    digest = hashlib.sha256(base64.b64decode(FACE)).hexdigest()
    assert task["request"] == {**body, "image": f"sha256:{digest}"}
    assert list(task["request"]) == list(body)


async def test_model_in_place_of_model_name_means_kling_v1():
    async with gateway() as caller:
        task = await caller.made(prompt="a fox", model="kling-v3", resolution="1k")
        await caller.query(task)
        assert caller.sandbox.store.tasks[0].request.model == "kling-v1"


async def test_an_external_id_is_taken_once():
    async with gateway() as caller:
        await caller.made(prompt="a fox", external_task_id="one")
        again = await caller.create(prompt="another fox", external_task_id="one")
        assert (again.status, again.code) == (400, 1201)
        assert (await caller.usage())["duplicates"]["external_ids"] == 1


async def test_a_refused_create_does_not_use_up_its_external_id():
    async with gateway() as caller:
        await caller.create(prompt="forbidden-word", external_task_id="one")
        await caller.made(prompt="a fox", external_task_id="one")


async def test_both_paths_are_served():
    async with gateway() as caller:
        url = f"{caller.sandbox.origin}/v1/images/generations"
        made = await caller.ask("POST", url, json={"prompt": "a fox"})
        assert (await caller.query(made.data["task_id"])).code == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/images/generations"), ("POST", "/v1/images/generations/1"), ("GET", "/v1/videos")],
)
async def test_what_is_not_served_gets_1202(method, path):
    async with gateway() as caller:
        answer = await caller.ask(method, caller.sandbox.base_url + path)
        assert (answer.status, answer.code) == (404, 1202)


async def test_a_task_is_found_by_both_ids_and_an_unknown_one_is_1203():
    async with gateway(blank_images=True) as caller:
        task = await caller.made(prompt="a fox", external_task_id="mein/fuchs 1")
        assert (await caller.query(task)).data["task_id"] == task
        by_external = await caller.query("mein%2Ffuchs%201")
        assert by_external.data["task_id"] == task
        assert by_external.data["task_info"] == {"external_task_id": "mein/fuchs 1"}
        unknown = await caller.query("123")
        assert (unknown.status, unknown.code) == (404, 1203)


async def test_texts_of_any_script_come_back_unharmed():
    async with gateway() as caller:
        prompt = 'ein "Fuchs" \\ 🦊 \ud800 狐狸\n'
        task = await caller.made(prompt=prompt, external_task_id='"\\\u00fc')
        assert (await caller.query(task)).data["task_info"]["external_task_id"] == '"\\\u00fc'
        assert (await caller.usage())["tasks"][0]["request"]["prompt"] == prompt


# --- what differs between accounts -------------------------------------------------------------------------


async def test_anyapi_wants_its_three_fields_and_knows_no_external_id_and_no_list():
    async with gateway(emulate="anyapi") as caller:
        full = {"model_name": "kling-v3", "prompt": "a fox", "n": 1}
        task = await caller.made(**full)
        for name in full:
            short = {key: value for key, value in full.items() if key != name}
            assert (await caller.create(**short)).code == 1201
        assert (await caller.create(**full, external_task_id="one")).code == 1201
        assert (await caller.create(**full, watermark_info={"enabled": True})).code == 1201
        listed = await caller.listed()
        assert (listed.status, listed.code) == (404, 1202)
        assert "external_task_id" not in (await caller.query(task)).data["task_info"]


async def test_kapon_has_no_kling_v3():
    async with gateway(emulate="kapon") as caller:
        assert (await caller.create(prompt="a fox", model_name="kling-v3")).code == 1203
        await caller.made(prompt="a fox", model_name="kling-v2-1")


async def test_abilities_can_be_taken_from_a_profile():
    async with gateway(lists_tasks=False, lookup_by_external_id=False) as caller:
        await caller.made(prompt="a fox", external_task_id="one")
        assert (await caller.listed()).code == 1202
        assert (await caller.query("one")).code == 1203


async def test_the_four_scenes_of_the_kapon_page_are_accepted_as_they_are():
    scenes = [
        {"model_name": "kling-v2-1", "prompt": "a hall of mirrors", "resolution": "2k", "aspect_ratio": "16:9"},
        {
            "model_name": "kling-v1-5",
            "prompt": "on a beach",
            "image": FACE,
            "image_reference": "subject",
            "image_fidelity": 0.8,
        },
        {
            "model_name": "kling-v1-5",
            "prompt": "as a knight",
            "image": FACE,
            "image_reference": "face",
            "human_fidelity": 0.9,
        },
        {"model_name": "kling-v2", "prompt": "four cats", "n": 4},
    ]
    async with gateway(emulate="kapon") as caller:
        for scene in scenes:
            await caller.made(**scene)
        usage = await caller.usage()
        assert [row["n"] for row in usage["tasks"]] == [1, 1, 1, 4]
        assert json.dumps(usage["tasks"][3]["request"]) == json.dumps(scenes[3])
