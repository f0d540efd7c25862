"""A gateway with tasks and uploads of its own kind, which counts what is billed; for definitions that tests write."""

from __future__ import annotations

import threading
import time
from collections import Counter
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from batchgen.sandbox.painter import blank

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGE = blank((64, 64))
Allows = "Callable[[Mapping[str, str], str, bytes], bool]"

DEFINITION = """\
api: 1
base_url: URL
auth: AUTH
models: [one]
defaults: {model: one}
visibility_delay: 0.2
create:
  post: /tasks
  json: {prompt: "{{ prompt }}", ref: "{{ attempt.id }}"}
  task: id
query:
  get: /tasks/{{ task }}
  state: state
  states: {running: [runs], done: [done]}
  images: {url: image}
find:
  get: /refs/{{ attempt.id }}
  task: id
errors: [{step: [query, find], status: 404, when: "code == 'none'", means: missing}]
"""


class Studio:
    """Runs between `with` and its end.

    `troubles` are of the first creates: a status, `cut` (taken, and the answer lost), or `lost` (not taken either).
    """

    def __init__(self, *troubles: int | str, allows: Allows = lambda *_: True) -> None:
        self.troubles = list(troubles)
        self.allows = allows  # by headers, path and body
        self.upload_troubles: list[int | str] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.creates: list[Any] = []
        self.listed: list[tuple[str, str]] = []  # the models and times of the lists that were asked for
        self.clock_ahead = 0.0  # seconds
        self.uploads: list[tuple[str, str, bytes]] = []  # name of the file, its type, and what is in it
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.lock = threading.Lock()
        studio = self

        class Handler(_Handler):
            of = studio

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def billed(self) -> Counter[str]:
        return Counter(task["prompt"] for task in self.tasks.values())

    def definition(self, auth: str = "{}", **parts: str) -> str:
        """The definition, with `auth`; `parts` are put in for other texts of it."""
        text = DEFINITION.replace("URL", self.url).replace("AUTH", auth)
        for old, new in parts.items():
            text = text.replace(old, new)
        return text

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    of: Studio
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._take(b"")

    def do_POST(self) -> None:
        self._take(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _take(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/images/"):
            self._say(200, IMAGE)
            return
        with self.of.lock:
            self.of.requests.append((self.command, self.path, dict(self.headers)))
            if not self.of.allows(self.headers, self.path, body):
                status, answer = 401, {"message": "who are you?"}
            else:
                status, answer = self._answer(path, body)
        if status:
            self._say(status, answer)
        else:
            self.close_connection = True

    def _answer(self, path: str, body: bytes) -> tuple[int, Any]:
        studio, (_, kind, *rest) = self.of, path.split("/")
        if kind == "files":
            return self._upload(body)
        if path == "/tasks":
            return self._create(body)
        if kind == "refs":
            found = next((task_id for task_id, task in studio.tasks.items() if task["ref"] == rest[0]), None)
            return (200, {"id": found}) if found else (404, {"code": "none"})
        if kind == "list":
            return self._list(rest[0])
        if kind == "balance":
            return 200, {"credits": 12.5}
        return (404, {"code": "none"}) if not rest or rest[0] not in studio.tasks else self._task(rest[0])

    def _task(self, task_id: str) -> tuple[int, Any]:
        return 200, {"state": "done", "image": f"{self.of.url}/images/{task_id}.png"}

    def _upload(self, body: bytes) -> tuple[int, Any]:
        name, media_type, data = parts(self.headers["Content-Type"], body)["file"]
        trouble = self.of.upload_troubles.pop(0) if self.of.upload_troubles else 0
        if not trouble:
            self.of.uploads.append((name, media_type, data))
        return (0, None) if trouble == "cut" else (trouble or 200, {"url": f"stored-{len(self.of.uploads)}"})

    def _list(self, model: str) -> tuple[int, Any]:
        since = parse_qs(urlsplit(self.path).query).get("since", [""])[0]
        self.of.listed.append((model, since))
        items = [task for task in self.of.tasks.values() if task["model"] == model and task["at"] >= since]
        return 200, {"items": items[::-1], "next": None}

    def _create(self, body: bytes) -> tuple[int, Any]:
        studio, sent = self.of, body
        is_form = "multipart" in self.headers["Content-Type"]
        fields: dict[str, Any] = parts(self.headers["Content-Type"], body) if is_form else loads(sent)
        studio.creates.append(fields)
        trouble = studio.troubles.pop(0) if studio.troubles else 0
        if trouble == "lost":
            return 0, None
        if isinstance(trouble, int) and trouble:
            return trouble, {"message": "not now"}
        task_id = f"t{len(studio.tasks)}"
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + studio.clock_ahead))
        studio.tasks[task_id] = {**fields, "id": task_id, "at": at, "state": "runs"}
        return (0, None) if trouble == "cut" else (200, {"id": task_id})

    def _say(self, status: int, answer: Any) -> None:
        raw = answer if isinstance(answer, bytes) else dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "image/png" if raw is IMAGE else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def parts(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a form: a text, or a file as its name, its type and what is in it."""
    found: dict[str, Any] = {}
    for part in message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=HTTP).iter_parts():
        data = part.get_payload(decode=True)
        name = str(part.get_param("name", header="Content-Disposition"))
        file = part.get_filename()
        found[name] = (file, part.get_content_type(), data) if file else data.decode()
    return found
