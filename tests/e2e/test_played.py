"""The sandbox plays definitions: rehearsed by the real command, and asked by clients that know no definition.

The clients are written after the vendors' pages, as are the servers of `vendors.py`: what a definition has wrong cannot
hide in an answer that was made from it.
"""

from __future__ import annotations

import json
import queue
import threading
import uuid
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from command import KEY, batchgen
from output_checks import check_invariant, rows_of
from sandbox_server import SandboxServer
from vendors import KEY as VENDOR_KEY
from vendors import VENDORS

from batchgen.catalog import definitions

LINES = ("--latency", "0.1", "--blank-images")
JOBS = 12
PROMPTS = ", ".join(f"a fox {number}" for number in range(JOBS))


def manifest_of(folder, name, gateway=None, more="", prompts=PROMPTS):
    path = folder / "manifest.yaml"
    at = ""
    if gateway is not None:
        at = f'providers: {{{name}: {{base_url: "{gateway.base_url}", visibility_delay: 1}}}}\n'
    path.write_text(
        f"version: 1\nname: tried\nprovider: {name}\n{at}{more}matrix: {{prompt: [{prompts}]}}\n", encoding="utf-8"
    )
    return path


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """Any key will do at a sandbox; the real ones are never used."""
    for name in ("FAL_KEY", "REPLICATE_API_TOKEN", "BFL_API_KEY", "RUNWARE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "any key")


# --- rehearsals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", definitions.names())
def test_each_definition_is_rehearsed_without_a_key(name, tmp_path, monkeypatch):
    for variable in ("FAL_KEY", "REPLICATE_API_TOKEN", "BFL_API_KEY", "RUNWARE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(variable)
    done = batchgen("run", manifest_of(tmp_path, name), "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    output = tmp_path / "outputs" / "tried-sandbox"
    assert len(check_invariant(output)) == JOBS
    tasks = [json.loads(line) for line in (output / ".sandbox.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(task["body"]["prompt"] for task in tasks) == sorted(PROMPTS.split(", "))
    again = batchgen("run", tmp_path / "manifest.yaml", "--provider", "sandbox", cwd=tmp_path)
    assert (again.returncode, len(rows_of(output))) == (0, JOBS)


# --- clients that know no definition ------------------------------------------------------------------------


def ask(url, body=None, **headers):
    """Status and answer; an answer that is no JSON as its bytes."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, headers={**headers, **({"Content-Type": "application/json"} if body else {})})  # noqa: S310
    try:
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - a server of this test
            status, raw = answer.status, answer.read()
    except HTTPError as error:
        status, raw = error.code, error.read()
    return status, raw if raw.startswith(b"\x89PNG") else json.loads(raw)


def until(query, is_done):
    """Ask until it is done."""
    for _ in range(100):
        answer = query()[1]
        if is_done(answer):
            return answer
        sleep(0.02)
    raise AssertionError(answer)


def fal(url, key):
    head = {"Authorization": f"Key {key}"}
    body = {"prompt": "a fox", "num_images": 2, "seed": 77, "image_size": {"width": 64, "height": 64}}
    _, made = ask(f"{url}/fal-ai/flux/dev", body, **head)
    address = made["response_url"]
    assert address.startswith(url)
    until(lambda: ask(f"{address}/status", **head), lambda answer: answer["status"] == "COMPLETED")
    listed = f"{url}/v1/models/requests/by-endpoint?" + urlencode(
        {"endpoint_id": "fal-ai/flux/dev", "expand": "payloads", "limit": 100}
    )
    (item,) = ask(listed, **head)[1]["items"]
    assert (item["request_id"], item["json_input"]["seed"]) == (address.rpartition("/")[2], 77)
    assert ask(f"{address}x", **head)[0] == 404
    return [image["url"] for image in ask(address, **head)[1]["images"]]


def replicate(url, key):
    head = {"Authorization": f"Bearer {key}"}
    body = {"input": {"prompt": "a fox", "num_outputs": 2, "seed": 77, "aspect_ratio": "1:1"}}
    status, made = ask(f"{url}/v1/models/black-forest-labs/flux-dev/predictions", body, **head)
    assert (status, made["status"]) == (201, "starting")
    address = f"{url}/v1/predictions/{made['id']}"
    done = until(lambda: ask(address, **head), lambda answer: answer["status"] == "succeeded")
    page = ask(f"{url}/v1/predictions", **head)[1]
    assert page["next"] is None
    assert [(item["id"], item["input"]["seed"]) for item in page["results"]] == [(made["id"], 77)]
    assert ask(f"{url}/v1/predictions/none", **head)[0] == 404
    return done["output"]


def bfl(url, key):
    body = {"prompt": "a fox", "width": 64, "height": 64}
    _, made = ask(f"{url}/v1/flux-2-pro", body, **{"x-key": key})
    address = made["polling_url"]
    assert address == f"{url}/v1/get_result?id={made['id']}"
    done = until(lambda: ask(address, **{"x-key": key}), lambda answer: answer["status"] == "Ready")
    return [done["result"]["sample"]]


def runware(url, key):
    head, own = {"Authorization": f"Bearer {key}"}, str(uuid.uuid4())
    task = {"taskType": "imageInference", "taskUUID": own, "deliveryMethod": "async", "model": "runware:101@1"}
    task |= {"positivePrompt": "a fox", "numberResults": 2, "width": 64, "height": 64, "includeCost": True}
    assert ask(f"{url}/v1", [task], **head)[1]["data"][0]["taskUUID"] == own
    status, repeated = ask(f"{url}/v1", [task], **head)
    assert (status, repeated["errors"][0]["code"]) == (400, "conflictTaskUUID")
    query = [{"taskType": "getResponse", "taskUUID": own}]
    done = until(
        lambda: ask(f"{url}/v1", query, **head),
        lambda answer: {"success"} == {each["status"] for each in answer["data"]},
    )
    none = ask(f"{url}/v1", [{"taskType": "getTaskDetails", "taskUUID": str(uuid.uuid4())}], **head)[1]
    assert none["errors"][0]["code"] == "taskNotFound"
    return [each["imageURL"] for each in done["data"]]


def comfyui(url, _key):
    own = str(uuid.uuid4())
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a fox"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "5": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}},
    }
    sampler = {"seed": 1, "steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    graph["5"]["inputs"] |= {"latent_image": ["4", 0], **sampler}
    assert ask(f"{url}/prompt", {"prompt_id": own, "prompt": graph})[1]["prompt_id"] == own
    assert own in [item[1] for item in ask(f"{url}/queue")[1]["queue_running"]]
    done = until(lambda: ask(f"{url}/history/{own}"), bool)
    assert own not in [item[1] for item in ask(f"{url}/queue")[1]["queue_running"]]
    assert ask(f"{url}/history/none")[1] == {}
    newer = ask(f"{url}/api/jobs/{own}")[1]  # which has the same outputs
    files = (newer.get("outputs") or done[own]["outputs"])["7"]["images"]
    return [
        f"{url}/view?{urlencode({name: file[name] for name in ('filename', 'subfolder', 'type')})}" for file in files
    ]


def gemini(url, key):
    body = {"contents": [{"parts": [{"text": "a fox"}]}]}
    body |= {"generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "1:1"}}}
    head = {"x-goog-api-key": key}
    _, answer = ask(f"{url}/v1beta/models/gemini-2.5-flash-image:generateContent", body, **head)
    parts = answer["candidates"][0]["content"]["parts"]
    return [b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part]


CLIENTS = {"fal": fal, "replicate": replicate, "bfl": bfl, "runware": runware, "comfyui": comfyui, "gemini": gemini}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_of_the_vendor_s_page_finds_no_difference_between_the_sandbox_and_a_server_of_that_page(name):
    client, one = CLIENTS[name], name in {"bfl", "gemini"}
    with VENDORS[name]() as vendor, SandboxServer("--emulate", name, *LINES) as gateway:
        for url, key in ((vendor.url, VENDOR_KEY), (gateway.base_url, KEY["SANDBOX_KEY"])):
            images = client(url, key)
            assert len(images) == (1 if one else 2)
            for image in images:
                content = image if isinstance(image, bytes) else ask(image)[1]
                assert content.startswith(b"\x89PNG")
        assert [task["request"]["prompt"] for task in gateway.usage()["tasks"]] == ["a fox"]
        assert len(vendor.tasks) == 1


# --- as a server of its own ---------------------------------------------------------------------------------


def test_the_key_is_where_the_definition_says_and_has_to_be_the_right_one(tmp_path):
    with SandboxServer("--emulate", "bfl", "--api-key-env", "KEY", *LINES, env={"KEY": "the right key"}) as gateway:
        path = manifest_of(tmp_path, "bfl", gateway)
        assert batchgen("run", path, cwd=tmp_path).returncode == 6
        assert gateway.usage()["creates_accepted"] == 0


def test_words_in_a_prompt_and_faults_have_their_outcome(tmp_path):
    """A refusal is told as an example tells it, a failure by the state's word or by the result."""
    prompts = "a fox, a forbidden-word, fail-this-task"
    for name in ("fal", "gemini", "luma"):
        folder = tmp_path / name
        folder.mkdir()
        with SandboxServer("--emulate", name, *LINES) as gateway:
            path = manifest_of(folder, name, gateway, more="run: {max_attempts: 1}\n", prompts=prompts)
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("visibility_delay: 1", "visibility_delay: 1, api_key_env: SANDBOX_KEY"))
            assert batchgen("run", path, cwd=folder).returncode == 1
            failures = {row["prompt"]: row["status"] for row in rows_of(folder / "outputs" / "tried", "failures.csv")}
        assert failures.pop("a forbidden-word") == "rejected", name
        assert failures == {"fail-this-task": "unknown" if name == "gemini" else "failed"}


def test_a_definition_of_the_user_s_own_is_played_from_its_file_and_told_what_it_lacks(tmp_path):
    text = definitions.text_of("luma")
    (tmp_path / "my.yaml").write_text(
        text.replace("base_url: https://api.lumalabs.ai", "base_url: https://x.invalid/api")
    )
    path = manifest_of(tmp_path, "mine", more="providers: {mine: {use: ./my.yaml}}\n")
    done = batchgen("run", path, "--provider", "sandbox", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "my.yaml").write_text(text.partition("  - step: query")[0])
    done = batchgen("run", path, "--provider", "sandbox", "--output", tmp_path / "other", cwd=tmp_path)
    assert done.returncode == 2
    assert "none of its examples shows an answer to the step `query` that gives state: done" in done.stderr
    done = batchgen("sandbox", "--emulate", tmp_path / "my.yaml", "--port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "Add a documented one to `examples`: {step: query" in done.stderr
    done = batchgen("sandbox", "--emulate", "fall", "--port", "0", cwd=tmp_path)
    assert "The sandbox cannot emulate 'fall'." in done.stderr


def test_a_call_at_the_end_of_a_task_names_it_at_the_address_of_its_create():
    calls = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.put((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with SandboxServer("--emulate", "luma", *LINES) as gateway:
        for number in range(2):
            body = {"prompt": "a fox", "callback_url": f"http://127.0.0.1:{server.server_port}/{number}"}
            _, made = ask(f"{gateway.base_url}/dream-machine/v1/generations/image", body, Authorization="Bearer x")
            path, call = calls.get(timeout=10)
            assert (path, call["id"], call["state"]) == (f"/{number}", made["id"], "completed")
    server.shutdown()
    server.server_close()
    assert calls.empty()
