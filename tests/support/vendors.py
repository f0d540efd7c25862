"""Servers of image APIs, written after their vendors' pages, without batchgen's own code: they count what is billed.

`troubles` are of the first creates: `cut` (taken, and the answer lost), `lost` (the connection lost before), `page`
(taken, and answered with a proxy's 404), `slow` (taken, and answered when the test says so), a number (5xx: taken, and
answered so; 4xx: a proxy's page, nothing taken). Each create that is taken is billed. Those that name an address are
called back until that answers, as vendors do.
"""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from calendar import timegm
from collections import Counter
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen

from batchgen.catalog.definitions import text_of
from batchgen.sandbox.painter import blank

KEY = "a-key-of-a-vendor"
IMAGE = blank((64, 64))


class Vendor:
    """Runs between `with` and its end."""

    name = ""
    hosts: tuple[str, ...] = ()  # of the shipped definition, all of which are this server here
    key_header, key_prefix = "Authorization", "Bearer "
    rounds = 2  # a task is done when it is asked for so often
    hook = ""  # where a create's body names the address to call

    def __init__(self, *troubles: int | str) -> None:
        self.troubles = list(troubles)
        self.unanswered: str | tuple[str, ...] = ""  # ends of paths that a proxy answers with its own 404
        self.refusal: tuple[int, Any] | None = None  # how each create is refused
        self.named_url = ""  # where the tasks are said to be, in place of this server
        self.addresses: dict[str, str] = {}  # by prompt, as they came
        self.call_after = 0.1  # seconds after a create was taken
        self.is_calling = True
        self.slow = threading.Event()  # when the answers of `slow` creates may come
        self.tasks: dict[str, dict[str, Any]] = {}  # in the order of acceptance
        self.creates: list[Any] = []
        self.wrong_keys: list[str] = []
        self.paths: list[str] = []
        self.queries: Counter[str] = Counter()
        self.lock = threading.Lock()
        vendor = self

        class Handler(_Handler):
            of = vendor

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def billed(self) -> Counter[str]:
        """How often each prompt was billed."""
        return Counter(task["prompt"] for task in self.tasks.values())

    def written(self) -> str:
        return text_of(self.name)

    def definition(self, **changes: str) -> str:
        """The shipped definition, with this server in place of the vendor's; `changes` replace whole lines by key."""
        text = self.written()
        for host in self.hosts:
            text = text.replace(f"https://{host}", self.url)
        text = re.sub(r"^hosts: .*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"^(base_url: ).*$", rf"\g<1>{self.url}", text, flags=re.MULTILINE)
        text = re.sub(r"^auth: \{(.*)env: \w+\}", r"auth: {\1env: VENDOR_KEY}", text, flags=re.MULTILINE)
        text = re.sub(r"^auth: \{command: \[.*?\]", "auth: {command: [printenv, VENDOR_KEY]", text, flags=re.MULTILINE)
        text = re.sub(r"^visibility_delay: .*\n", "", text, flags=re.MULTILINE).partition("\nexamples:")[0] + "\n"
        text = "".join(line for line in text.splitlines(keepends=True) if line.partition(":")[0] not in changes)
        return text + "".join(f"{key}: {value}\n" for key, value in {"visibility_delay": "0.3", **changes}.items())

    def add(self, task_id: str, prompt: str, **more: Any) -> None:
        self.tasks[task_id] = {"prompt": prompt, "at": time.time(), **more}

    def is_done(self, task_id: str) -> bool:
        self.queries[task_id] += 1
        return self.queries[task_id] >= self.rounds

    def taken(self, body: Any) -> None:
        """Call back later, where the create's body says so."""
        if self.hook and (url := body.get(self.hook)):
            task_id = next(reversed(self.tasks))
            self.addresses[self.tasks[task_id]["prompt"]] = url
            threading.Timer(self.call_after, self.call_back, (task_id, url)).start()

    def call_back(self, task_id: str, url: str) -> None:
        """Call until somebody listens, or the server ends."""
        while self.is_calling and self.post(url, self.call(task_id)) != 200:
            time.sleep(self.call_after)

    def post(self, url: str, body: Any) -> int:
        """The status of the answer; 0 where nobody listens."""
        try:
            with urlopen(Request(url, data=json.dumps(body).encode()), timeout=5) as answer:  # noqa: S310
                return answer.status
        except HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def call(self, task_id: str) -> Any:
        """The body of a callback: the task as a query tells of it."""
        return self.answer(f"/{task_id}", {"id": [task_id]}, None)[1]

    # Of each vendor: (status, answer); an answer of bytes is sent as it is.

    def create(self, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def answer(self, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def is_create(self, method: str, path: str, body: Any) -> bool:
        return method == "POST"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.is_calling = False
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    of: Vendor
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._take("POST")

    def do_GET(self) -> None:
        self._take("GET")

    def _take(self, method: str) -> None:  # noqa: C901, PLR0911 - one answer for each case
        parts, vendor = urlsplit(self.path), self.of
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_form = self.headers.get("Content-Type", "").startswith("multipart/form-data")
        body = self._form(raw) if is_form else json.loads(raw or b"null")
        if parts.path.startswith(("/images/", "/view")):
            assert "filename=" not in self.path or parse_qs(parts.query)["filename"][0].endswith("&.png")
            if vendor.key_header in self.headers:
                vendor.wrong_keys.append(self.path)  # an image is fetched without a key
            return self._say(200, IMAGE)
        if vendor.key_header and self.headers.get(vendor.key_header) != f"{vendor.key_prefix}{KEY}":
            vendor.wrong_keys.append(self.path)
            return self._say(401, {"message": "no such key"})
        with vendor.lock:
            vendor.paths.append(f"{method} {self.path}")
            is_create = vendor.is_create(method, parts.path, body)
            if not is_create:
                if vendor.unanswered and parts.path.endswith(vendor.unanswered):
                    return self._say(404, b"<html>not here</html>")
                return self._say(*vendor.answer(parts.path, parse_qs(parts.query), body))
            vendor.creates.append(body)
            trouble = vendor.troubles.pop(0) if vendor.troubles else 0
            if trouble == "lost":
                return self._hang_up()
            if isinstance(trouble, int) and 400 <= trouble < 500:
                return self._say(trouble, b"<html>nothing here</html>")
            if vendor.refusal is not None:
                return self._say(*vendor.refusal)
            status, answer = vendor.create(parts.path, parse_qs(parts.query), body)
            vendor.taken(body)
            if trouble == "cut":
                return self._hang_up()
            if trouble == "page":
                status, answer = 404, b"<html>nothing here</html>"
            if isinstance(trouble, int) and trouble:
                return self._say(trouble, {"error": "internal"})
        if trouble == "slow":
            vendor.slow.wait(30)
        return self._say(status, answer)

    def _form(self, raw: bytes) -> dict[str, str]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + raw, policy=HTTP).iter_parts()
        return {
            part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True).decode()
            for part in parts
        }

    def _hang_up(self) -> None:
        self.close_connection = True

    def _say(self, status: int, answer: Any) -> None:
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "image/png" if raw is IMAGE else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


class Fal(Vendor):
    """The queue, and the list of ended requests with what was sent."""

    name = "fal"
    hosts = ("queue.fal.run", "api.fal.ai")
    key_prefix = "Key "

    def create(self, path, query, body):
        request = f"r{len(self.tasks)}-{body['seed']}"
        self.add(request, body["prompt"], body=body, model=path[1:])
        return 200, {
            "request_id": request,
            "response_url": f"{self.url}/fal-ai/flux/requests/{request}",
            "status": "IN_QUEUE",
        }

    def answer(self, path, query, body):
        if path == "/v1/models/requests/by-endpoint":
            start = int((query.get("cursor") or ["0"])[0])
            size = int(query["limit"][0])
            for task_id in self.tasks:
                self.is_done(task_id)
            done = [item for item in self.tasks.items() if self.queries[item[0]] >= self.rounds][::-1]
            since = (query.get("start") or ["1970-01-01T00:00:00Z"])[0]
            begin = timegm(time.strptime(since, "%Y-%m-%dT%H:%M:%SZ"))
            done = [(task_id, task) for task_id, task in done if task["at"] >= begin]
            page = [
                {
                    "request_id": task_id,
                    "endpoint_id": task["model"],
                    "sent_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(task["at"])),
                    **({"json_input": task["body"]} if query.get("expand") == ["payloads"] else {}),
                }
                for task_id, task in done[start : start + size]
            ]
            more = start + size < len(done)
            return 200, {"items": page, "next_cursor": str(start + size) if more else None, "has_more": more}
        task_id = path.split("/requests/")[1].removesuffix("/status")
        if task_id not in self.tasks:
            return 404, {"detail": "Request not found"}
        if path.endswith("/status"):
            return 200, {"status": "COMPLETED" if self.is_done(task_id) else "IN_PROGRESS"}
        if "forbidden" in self.tasks[task_id]["prompt"]:
            return 422, {"detail": [{"loc": ["body"], "type": "content_policy_violation", "msg": "flagged"}]}
        count = self.tasks[task_id]["body"]["num_images"]
        return 200, {"images": [{"url": f"{self.url}/images/{task_id}/{n}"} for n in range(count)]}


class Replicate(Vendor):
    """Predictions, and the list of them with their inputs."""

    name = "replicate"
    hosts = ("api.replicate.com",)

    def create(self, path, query, body):
        task_id = f"p{len(self.tasks)}"
        self.add(task_id, body["input"]["prompt"], body=body)
        return 201, {"id": task_id, "status": "starting", "output": None}

    def answer(self, path, query, body):
        if path == "/v1/predictions":
            start = int((query.get("cursor") or ["0"])[0])
            whole = [self.prediction(task_id) for task_id in self.tasks][::-1]
            following = f"{self.url}/v1/predictions?cursor={start + 3}" if start + 3 < len(whole) else None
            return 200, {"next": following, "previous": None, "results": whole[start : start + 3]}
        task_id = path.rpartition("/")[2]
        if task_id not in self.tasks:
            return 404, {"detail": "The requested resource could not be found."}
        self.is_done(task_id)
        return 200, self.prediction(task_id)

    def prediction(self, task_id):
        task = self.tasks[task_id]
        done = self.queries[task_id] >= self.rounds
        count = task["body"]["input"]["num_outputs"]
        return {
            "id": task_id,
            "status": "succeeded" if done else "processing",
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(task["at"])) + f".{len(self.tasks):06}Z",
            "input": task["body"]["input"],
            "output": [f"{self.url}/images/{task_id}/{n}" for n in range(count)] if done else None,
        }


class Bfl(Vendor):
    """A polling address, and nothing to ask by."""

    name, hook = "bfl", "webhook_url"
    hosts = ("api.bfl.ai",)
    key_header, key_prefix = "x-key", ""

    def create(self, path, query, body):
        task_id = f"b{len(self.tasks)}"
        self.add(task_id, body["prompt"])
        return 200, {
            "id": task_id,
            "polling_url": f"{self.named_url or self.url}/v1/get_result?id={task_id}",
            "cost": 4.0,
        }

    def call(self, task_id):
        return {"task_id": task_id, "status": "SUCCESS", "result": {"sample": "http://10.0.0.1/not-this-one"}}

    def answer(self, path, query, body):
        task_id = query["id"][0]
        if task_id not in self.tasks:
            return 200, {"id": task_id, "status": "Task not found", "result": None}
        if not self.is_done(task_id):
            return 200, {"id": task_id, "status": "Pending", "result": None}
        if "forbidden" in self.tasks[task_id]["prompt"]:
            return 200, {"id": task_id, "status": "Content Moderated", "result": None}
        return 200, {"id": task_id, "status": "Ready", "result": {"sample": f"{self.url}/images/{task_id}"}}


class Gemini(Vendor):
    """The image in the answer."""

    name = "gemini"
    key_header, key_prefix = "x-goog-api-key", ""

    def create(self, path, query, body):
        prompt = body["contents"][0]["parts"][0]["text"]
        self.add(f"g{len(self.tasks)}", prompt)
        if "forbidden" in prompt:
            return 200, {"candidates": [{"finishReason": "IMAGE_SAFETY", "content": {}}]}
        image = {"inlineData": {"mimeType": "image/png", "data": b64encode(IMAGE).decode()}}
        return 200, {"candidates": [{"finishReason": "STOP", "content": {"parts": [{"text": "Here."}, image]}}]}

    def answer(self, path, query, body):
        return (200, {"models": []}) if path == "/v1beta/models" else (404, {"error": {"code": 404}})


class Vertex(Gemini):
    """The same models in a project, with a token."""

    name = "vertex"
    key_header, key_prefix = "Authorization", "Bearer "

    def create(self, path, query, body):
        assert path == "/publishers/google/models/gemini-2.5-flash-image:generateContent"
        assert body["contents"][0]["role"] == "user"
        return super().create(path, query, body)


class Runware(Vendor):
    """Arrays of tasks at one address, named by the caller."""

    name = "runware"

    def is_create(self, method, path, body):
        return body[0]["taskType"] == "imageInference"

    def create(self, path, query, body):
        task = body[0]
        if task["taskUUID"] in self.tasks:
            return 400, {"errors": [{"code": "conflictTaskUUID", "message": "taskUUID already exists"}]}
        self.add(task["taskUUID"], task["positivePrompt"], count=task["numberResults"])
        return 200, {"data": [{"taskType": "imageInference", "taskUUID": task["taskUUID"]}]}

    def answer(self, path, query, body):
        task_id = body[0]["taskUUID"]
        if task_id not in self.tasks:
            return 400, {"errors": [{"code": "taskNotFound", "message": "no such task", "taskUUID": task_id}]}
        if body[0]["taskType"] == "getTaskDetails":
            return 200, {"data": [{"taskType": "getTaskDetails", "taskUUID": task_id, "request": {}, "response": {}}]}
        if "forbidden" in self.tasks[task_id]["prompt"]:
            return 200, {
                "errors": [{"code": "x", "status": "error", "message": "content moderation: NSFW", "taskUUID": task_id}]
            }
        done, count = self.is_done(task_id), self.tasks[task_id]["count"]
        item = {"taskType": "imageInference", "taskUUID": task_id, "status": "success" if done else "processing"}
        return 200, {
            "data": [item | ({"imageURL": f"{self.url}/images/{task_id}/{n}"} if done else {}) for n in range(count)]
        }


class ComfyUi(Vendor):
    """A queue, a history, and images by name; no key."""

    name = "comfyui"
    key_header = ""
    checkpoints: tuple[str, ...] = ()  # that it has; empty: any

    def create(self, path, query, body):
        assert path == "/prompt"
        graph, task_id = body["prompt"], body["prompt_id"]
        kinds = {node["class_type"]: node["inputs"] for node in graph.values()}
        checkpoint = kinds["CheckpointLoaderSimple"]["ckpt_name"]
        if self.checkpoints and checkpoint not in self.checkpoints:
            wrong = {"type": "value_not_in_list", "details": f"ckpt_name: '{checkpoint}' not in {self.checkpoints}"}
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return 400, {"error": error, "node_errors": {"4": {"errors": [wrong]}}}
        text, latent = (graph[kinds["KSampler"][name][0]]["inputs"] for name in ("positive", "latent_image"))
        self.add(task_id, text["text"], count=latent["batch_size"], graph=graph)
        return 200, {"prompt_id": task_id, "number": len(self.tasks), "node_errors": {}}

    def answer(self, path, query, body):
        if path in {"/system_stats", "/api/jobs"}:
            return 200, {}
        waiting = [task_id for task_id in self.tasks if self.queries[task_id] < self.rounds]
        if path == "/queue":
            return 200, {"queue_running": [[0, task_id, {}, {}, []] for task_id in waiting], "queue_pending": []}
        task_id = path.rpartition("/")[2]
        outputs = self.outputs(task_id) if task_id in self.tasks else {}
        if path.startswith("/api/jobs/"):
            if task_id not in self.tasks:
                return 404, {"error": "Job not found"}
            done = self.is_done(task_id)
            return 200, {
                "id": task_id,
                **({"status": "completed", "outputs": outputs} if done else {"status": "pending"}),
            }
        if task_id not in self.tasks or not self.is_done(task_id):
            return 200, {}
        return 200, {task_id: {"status": {"status_str": "success", "completed": True}, "outputs": outputs}}

    def outputs(self, task_id):
        task = self.tasks[task_id]
        files = [{"filename": f"{task_id} {n}&.png", "subfolder": "", "type": "output"} for n in range(task["count"])]
        return {node: {"images": files} for node, each in task["graph"].items() if each["class_type"] == "SaveImage"}


class A1111(Vendor):
    """Images in base64; no key."""

    name = "a1111"
    key_header = ""

    def create(self, path, query, body):
        assert path == "/sdapi/v1/txt2img"
        self.add(f"a{len(self.tasks)}", body["prompt"])
        return 200, {"images": [b64encode(IMAGE).decode()] * body["batch_size"], "parameters": {}, "info": ""}

    def answer(self, path, query, body):
        return 404, {"detail": "Not Found"}


class Ideogram(A1111):
    """A form; links, and none where an image is unsafe."""

    name = "ideogram"
    key_header, key_prefix = "Api-Key", ""

    def create(self, path, query, body):
        assert path == "/v1/ideogram-v3/generate"
        assert body["aspect_ratio"] == "1x1"
        self.add(f"i{len(self.tasks)}", body["prompt"])
        if "forbidden" in body["prompt"]:
            return 200, {"data": [{"url": "", "is_image_safe": False}]}
        images = [{"url": f"{self.url}/images/{n}", "is_image_safe": True} for n in range(int(body["num_images"]))]
        return 200, {"created": "2026-11-21T00:00:00Z", "data": images}


class Stability(A1111):
    """A form; the image is the answer."""

    name = "stability"
    key_header = "Authorization"

    def create(self, path, query, body):
        assert path == "/v2beta/stable-image/generate/core"
        if "forbidden" in body["prompt"]:
            return 403, {"name": "content_moderation", "errors": ["flagged"]}
        self.add(f"s{len(self.tasks)}", body["prompt"])
        return 200, IMAGE


class MiniMax(A1111):
    """HTTP 200 with a code."""

    name = "minimax"
    key_header = "Authorization"

    def create(self, path, query, body):
        if "forbidden" in body["prompt"]:
            return 200, {"base_resp": {"status_code": 1026, "status_msg": "sensitive"}}
        self.add(f"m{len(self.tasks)}", body["prompt"])
        links = [f"{self.url}/images/{len(self.tasks)}/{n}" for n in range(body["n"])]
        return 200, {"id": "x", "data": {"image_urls": links}, "base_resp": {"status_code": 0}}


class Luma(Vendor):
    """Generations, asked for by their id."""

    name, hook = "luma", "callback_url"

    def create(self, path, query, body):
        task_id = f"l{len(self.tasks)}"
        self.add(task_id, body["prompt"])
        return 201, {"id": task_id, "state": "queued", "assets": None}

    def answer(self, path, query, body):
        task_id = path.rpartition("/")[2]
        if task_id not in self.tasks:
            return 404, {"detail": "Generation not found"}
        if not self.is_done(task_id):
            return 200, {"id": task_id, "state": "dreaming", "assets": None}
        return 200, {"id": task_id, "state": "completed", "assets": {"image": f"{self.url}/images/{task_id}"}}


class DashScope(Vendor):
    """Tasks of Model Studio."""

    name = "dashscope"

    def create(self, path, query, body):
        assert path == "/api/v1/services/aigc/text2image/image-synthesis"
        assert body["model"] == "wan2.2-t2i-flash"
        assert body["parameters"]["size"] == "1024*1024"
        task_id = f"d{len(self.tasks)}"
        self.add(task_id, body["input"]["prompt"], count=body["parameters"]["n"])
        return 200, {"output": {"task_status": "PENDING", "task_id": task_id}, "request_id": "x"}

    def answer(self, path, query, body):
        task_id = path.removeprefix("/api/v1/tasks/")
        if task_id not in self.tasks:
            return 200, {"output": {"task_id": task_id, "task_status": "UNKNOWN"}}
        if not self.is_done(task_id):
            return 200, {"output": {"task_id": task_id, "task_status": "RUNNING"}}
        if "forbidden" in self.tasks[task_id]["prompt"]:
            flagged = {"code": "DataInspectionFailed", "message": "Output data may contain inappropriate content."}
            return 200, {"output": {"task_id": task_id, "task_status": "FAILED", **flagged}}
        results = [{"url": f"{self.url}/images/{task_id}/{n}"} for n in range(self.tasks[task_id]["count"])]
        return 200, {"output": {"task_id": task_id, "task_status": "SUCCEEDED", "results": results}}


class Leonardo(Vendor):
    """Generations, asked for by their id."""

    name = "leonardo"

    def create(self, path, query, body):
        assert path == "/api/rest/v1/generations"
        assert body["width"] == body["height"] == 1024
        task_id = f"e{len(self.tasks)}"
        self.add(task_id, body["prompt"], count=body["num_images"])
        return 200, {"sdGenerationJob": {"generationId": task_id, "cost": {"amount": "0.0147", "unit": "DOLLARS"}}}

    def answer(self, path, query, body):
        if path == "/api/rest/v1/me":
            return 200, {"user_details": [{"user": {"id": "u"}}]}
        task_id = path.removeprefix("/api/rest/v1/generations/")
        if task_id not in self.tasks:
            return 200, {"generations_by_pk": None}
        done = self.is_done(task_id)
        images = [{"url": f"{self.url}/images/{task_id}/{n}"} for n in range(self.tasks[task_id]["count"])]
        generation = {"id": task_id, "generated_images": images if done else []}
        return 200, {"generations_by_pk": {**generation, "status": "COMPLETE" if done else "PENDING"}}


class Seedream(A1111):
    """A link in the answer; a refusal is in place of the image, or of the answer."""

    name = "seedream"
    key_header = "Authorization"

    def create(self, path, query, body):
        assert path == "/api/v3/images/generations"
        assert body["size"] == "2048x2048"
        if "forbidden" in body["prompt"]:
            return 200, {"data": [{"error": {"code": "OutputImageSensitiveContentDetected", "message": "flagged"}}]}
        self.add(f"s{len(self.tasks)}", body["prompt"])
        image = {"url": f"{self.url}/images/{len(self.tasks)}", "size": "2048x2048"}
        return 200, {"model": body["model"], "data": [image], "usage": {"generated_images": 1}}


class Recraft(A1111):
    """Links in the answer."""

    name = "recraft"
    key_header = "Authorization"

    def create(self, path, query, body):
        assert path == "/v1/images/generations"
        assert body["size"] == "1:1"
        self.add(f"r{len(self.tasks)}", body["prompt"])
        return 200, {"credits": 35, "data": [{"url": f"{self.url}/images/{n}"} for n in range(body["n"])]}

    def answer(self, path, query, body):
        return (200, {"id": "u", "credits": 1000}) if path == "/v1/users/me" else super().answer(path, query, body)


class Bedrock(A1111):
    """The image in base64."""

    name = "bedrock"
    key_header = "Authorization"

    def create(self, path, query, body):
        assert unquote(path) == "/model/stability.stable-image-core-v1:1/invoke"
        if "forbidden" in body["prompt"]:
            return 200, {"finish_reasons": ["Filter reason: prompt"]}
        self.add(f"b{len(self.tasks)}", body["prompt"])
        return 200, {"seeds": [body["seed"]], "finish_reasons": [None], "images": [b64encode(IMAGE).decode()]}


class Runway(Vendor):
    """Tasks of Runway, after its own page; the definition is the example of docs/apis.md."""

    def written(self):
        page = (Path(__file__).parents[2] / "docs" / "apis.md").read_text(encoding="utf-8")
        return page.rpartition('```yaml title="runway.yaml"\n')[2].partition("```")[0]

    def create(self, path, query, body):
        assert path == "/v1/text_to_image"
        assert body["model"] == "gen4_image"
        assert body["ratio"] in {"720:720", "1280:720"}
        task_id = f"w{len(self.tasks)}"
        self.add(task_id, body["promptText"])
        return 200, {"id": task_id}

    def answer(self, path, query, body):
        if path == "/v1/organization":
            return 200, {"creditBalance": 100}
        task_id = path.removeprefix("/v1/tasks/")
        if task_id not in self.tasks:
            return 404, {"error": "Task not found"}
        if not self.is_done(task_id):
            return 200, {"id": task_id, "status": "THROTTLED" if self.queries[task_id] == 1 else "RUNNING"}
        if "forbidden" in self.tasks[task_id]["prompt"]:
            return 200, {"id": task_id, "status": "FAILED", "failure": "moderated", "failureCode": "SAFETY.INPUT.TEXT"}
        return 200, {"id": task_id, "status": "SUCCEEDED", "output": [f"{self.url}/images/{task_id}"]}


_KINDS = (
    *(Fal, Replicate, Bfl, Gemini, Runware, ComfyUi, A1111, Ideogram, Stability, MiniMax, Luma),
    *(DashScope, Leonardo, Seedream, Recraft, Bedrock, Vertex),
)
VENDORS = {kind.name: kind for kind in _KINDS}
