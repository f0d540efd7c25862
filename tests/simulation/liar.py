"""What networks, proxies, caches, gateways and image hosts do to a request and its answer, within stated bounds.

Each fault has a name, a kind and a bound. A gateway has a rate for some of them; `World.strikes` decides on each occasion,
by the seed and what it is about. docs/simulation.md says how to add one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from batchgen.http.client import Answer
from batchgen.sandbox.tasks import State

if TYPE_CHECKING:
    from batchgen.sandbox.tasks import Task
    from tests.simulation.gateway import Gateway, Request

ANY, IDS, ASKED = "any account", "accounts that get our id", "accounts that can be asked"

# What happens to a create. `arrives`: whether the gateway accepts it; the client learns nothing but what is told.
CREATE_FAULTS = {
    "not sent": ("the connection is refused", ANY),
    "lost before": ("the connection is cut on the way there", ANY),
    "lost after": ("the connection is cut on the way back", ANY),
    "silent before": ("nothing arrives, and nobody answers", ANY),
    "silent after": ("it is accepted, and nobody answers", ANY),
    "late": ("the connection is cut; the create arrives later, but within visibility_delay", ANY),
    "page before": ("a proxy's page with 502, 503 or 504; nothing arrived", ANY),
    "page after": ("a proxy's page with 502, 503 or 504; the create was accepted", ANY),
    "proxy refuses": ("a proxy's page that says: not sent, or busy", ANY),
    "garbled": ("accepted, and the answer is empty, cut short or a page", ANY),
    "too fast": ("429 in several spellings", ANY),
    "too many": ("429/1303", ANY),
    "repeated": ("a proxy sends it twice, and tells what the second copy was answered", IDS),
    "mixed up": ("the answer is that of another create", IDS),
    "refused oddly": ("400, 403 or 422 in words that nobody knows, with our key in them", ANY),
    "refused as page": ("a firewall's page with 403", ANY),
}
QUERY_FAULTS = {
    "query not sent": ("the connection is refused", ANY),
    "query lost": ("the connection is cut", ANY),
    "query silent": ("nobody answers", ANY),
    "query page": ("a proxy's page with 502, 503, 504 or 404", ANY),
    "query too fast": ("429", ANY),
    "query garbled": ("the answer is empty, cut short or a page", ANY),
    "query refused": ("400 in words that nobody knows", ANY),
}
# What is told of tasks. The rate is the share of occasions; a habit is told always or never.
TOLD_FAULTS = {
    "query forgets": ("the first one or two answers about a task say that there is none", ANY),
    "query of other": ("the first answers about an ended task are another's", IDS),
    "fails once": ("an ended task is called failed, once", ANY),
    "links late": ("the first answers about an ended task name fewer images, or none", ANY),
    "links shuffled": ("images come in another order each time", ANY),
    "numbered from one": ("images are numbered from 1", ANY),
    "odd words": ("a running task has a status that nobody knows", ANY),
    "codes as text": ("the code of a success is a word", ANY),
    "image refused": ("the first one to three requests for an image get 403", ANY),
    "image cut": ("the download is cut off", ANY),
    "image lost": ("the image's host does not answer", ANY),
    "image page": ("the image is a page with 200", ANY),
    "image short": ("the image is only its first half, as a whole answer", ANY),
    "image corrupt": ("a byte of the image is another", ANY),
    "task fails": ("the task ends as failed, and is not charged", ANY),
    "task refused": ("the task ends as refused by policy, and is not charged", ANY),
    "callback lost": ("the callback is not sent", ANY),
    "callback late": ("the callback comes up to 90 s late", ANY),
    "callback repeated": ("the callback comes twice", ANY),
    "callback forged": ("somebody says that the task has ended", ANY),
}
HABITS = {
    "lookup blind": ("no task is found by our id", IDS),
    "lookup lags": ("tasks are found by our id later, but within visibility_delay", IDS),
    "lookup pages": ("a query by our id gets a proxy's page with 404", IDS),
    "lookup of other": ("a query by our id is answered with another task", IDS),
    "cache": ("a cache keeps the answer that there is no task, and gives it to whoever accepts an old answer", IDS),
    "list lags": ("the list shows tasks later, but within visibility_delay", IDS),
    "list without ids": ("the list names no ids of ours", IDS),
    "list cuts ids": ("the list cuts our ids", IDS),
    "list in capitals": ("the list gives our ids in capitals", IDS),
    "list oldest first": ("the list begins with the oldest", IDS),
    "list shuffled": ("the list has no order", IDS),
    "list capped": ("a page of the list has at most 3 tasks", IDS),
    "list in seconds": ("times are in seconds", IDS),
    "list hides running": ("list and look-up leave out tasks that run, those that we know too", IDS),
    "list few links": ("the list names one image of each task", IDS),
}
FAULTS = CREATE_FAULTS | QUERY_FAULTS | TOLD_FAULTS | HABITS

_PAGE = b"<html><head><title>%d</title></head><body><center><h1>%d</h1></center><hr><center>proxy</center></body></html>"
_PROXIES = (
    b"no healthy upstream",
    b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>",
    b"<html><body><center><h1>503 Service Temporarily Unavailable</h1></center><hr><center>nginx</center></body></html>",
)
_ODD = (
    (400, {"error": {"message": "Your plan {key} does not include this any more", "type": "plan_q7"}}),
    (422, {"detail": [{"loc": ["body", "prompt"], "msg": "is not acceptable to {key}"}]}),
    (403, {"msg": "group {key} is not allowed"}),
    (400, {"code": 1201, "message": "a field is wrong for {key}"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of one request. `told`: instead of the gateway's answer; empty words: nobody answers."""

    name: str = ""
    arrives: bool = True
    late: bool = False
    cut: bool = False  # the client sees a lost connection
    silent: bool = False
    refused: bool = False  # the connection was not made
    told: Answer | None = None


def page(status: int) -> Answer:
    return Answer(status=status, headers={"Content-Type": "text/html"}, body=_PAGE % (status, status))


def as_json(status: int, value: object, **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body=json.dumps(value).encode())


NO_TASK = as_json(404, {"code": 1203, "message": "the task does not exist"})


def fate_of(gateway: Gateway, request: Request) -> Fate:
    """What becomes of a create or a query."""
    world, rates = gateway.world, gateway.rates
    is_create = request.kind == "create"
    for fault in CREATE_FAULTS if is_create else QUERY_FAULTS:
        rate = rates.get(fault, 0.0)
        if rate and world.strikes(fault, rate, gateway.name, request.attempt or request.url, request.number):
            return _fate(gateway, request, fault, world.chance("which", request.attempt or request.url, request.number))
    return Fate()


def _fate(gateway: Gateway, request: Request, fault: str, which: float) -> Fate:
    garbled = (b"", b'{"code": 0, "data": {"task_', b"<html>login</html>")[int(3 * which)]
    match fault.removeprefix("query "):
        case "not sent":
            return Fate(name=fault, arrives=False, refused=True)
        case "lost before" | "lost":
            return Fate(name=fault, arrives=False, cut=True)
        case "lost after":
            return Fate(name=fault, cut=True)
        case "silent before" | "silent":
            return Fate(name=fault, arrives=False, silent=True)
        case "silent after":
            return Fate(name=fault, silent=True)
        case "late":
            return Fate(name=fault, late=True, cut=True)
        case "page before":
            return Fate(name=fault, arrives=False, told=page((502, 503, 504)[int(3 * which)]))
        case "page after":
            return Fate(name=fault, told=page((502, 503, 504)[int(3 * which)]))
        case "page":
            return Fate(name=fault, arrives=False, told=page((502, 503, 504, 404)[int(4 * which)]))
        case "proxy refuses":
            told = Answer(status=503, headers={}, body=_PROXIES[int(len(_PROXIES) * which)])
            return Fate(name=fault, arrives=False, told=told)
        case "garbled":
            return Fate(name=fault, told=Answer(status=200, headers={}, body=garbled))
        case "too fast" | "too many":
            code = 1303 if fault == "too many" else 1302
            headers = {"Retry-After": "3"} if which < 0.3 else {}
            plain = which > 0.8 and fault != "too many"
            told = page(429) if plain else as_json(429, {"code": code, "message": "slower"}, **headers)
            return Fate(name=fault, arrives=False, told=told)
        case "refused":
            return Fate(name=fault, arrives=False, told=as_json(400, {"code": 7, "message": "not today"}))
        case "refused oddly":
            status, words = _ODD[int(len(_ODD) * which)]
            told = json.dumps(words).replace("{key}", gateway.key).encode()
            return Fate(name=fault, arrives=False, told=Answer(status=status, headers={}, body=told))
        case "refused as page":
            return Fate(name=fault, arrives=False, told=page(403))
    return Fate(name=fault)  # "repeated" and "mixed up" are the network's


class Teller:
    """What one gateway tells of its tasks."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._world = gateway, gateway.world
        self._times: dict[tuple[str, str], int] = {}
        self._missing: set[str] = set()  # names for which a cache has kept "there is none"

    def prepared(self, request: Request) -> Request:
        """The request as it reaches the gateway."""
        if request.kind == "list" and self._has("list capped"):
            size = min(3, int(parse_qs(urlsplit(request.url).query)["pageSize"][0]))
            return replace(request, url=f"{request.url.rpartition('=')[0]}={size}")
        return request

    def told(self, request: Request, answer: Answer) -> Answer:
        """What the client is told instead of the gateway's own answer to a question about tasks."""
        gateway, name = self._gateway, request.name
        is_lookup = name.startswith("bg-")
        if request.kind == "query":
            task = gateway.by_id(name)
            if is_lookup and name in self._missing and "no-cache" not in request.headers.get("Cache-Control", ""):
                self._world.note_fault("cache")
                return NO_TASK
            hidden = task is None or self._is_hidden(task, request, is_lookup=is_lookup)
            if hidden:
                if is_lookup and self._has("cache"):
                    self._missing.add(name)
                return answer if task is None else page(404) if is_lookup and self._has("lookup pages") else NO_TASK
            return self._answer_about(task, request, answer)
        if request.kind == "list":
            return self._list(request, answer)
        return answer

    def _is_hidden(self, task: Task, request: Request, *, is_lookup: bool) -> bool:
        gateway, world = self._gateway, self._world
        if gateway.is_per_key and gateway.keys.get(task.id) != request.headers.get("Authorization"):
            return True
        if is_lookup:
            if self._has("lookup blind") or self._has("lookup pages"):
                return True
            return self._is_too_new(task, "lookup lags") or self._is_hidden_running(task)
        first = 1 + (world.chance("forgets", task.id) < 0.5)
        share = gateway.rates.get("query forgets", 0.0)
        return world.strikes("query forgets", share, task.id) and self._count("forgets", task.id) <= first

    def _is_too_new(self, task: Task, habit: str) -> bool:
        lag = 0.4 * self._gateway.visibility_delay * self._world.chance(habit, self._gateway.name)
        return self._has(habit) and self._world.true < self._gateway.due(task) - task.duration / 1000 + lag

    def _is_hidden_running(self, task: Task) -> bool:
        """Bound: a task that the client knows runs as well, for as long as tasks take to be visible."""
        gateway = self._gateway
        is_running = self._world.true < gateway.due(task)
        return is_running and self._has("list hides running") and gateway.is_known_to_run(gateway.visibility_delay)

    def _answer_about(self, task: Task, request: Request, answer: Answer) -> Answer:
        gateway, world = self._gateway, self._world
        if answer.status != 200:
            return answer
        body = json.loads(answer.body)
        data = body["data"]
        if self._has("lookup of other") and request.name.startswith("bg-"):
            data = self._other(task, request) or data
        elif self._ended(data) and world.strikes("query of other", gateway.rates.get("query of other", 0), task.id):
            if self._count("other", task.id) <= 2:
                data = self._other(task, request) or data
        if self._ended(data):
            if world.strikes("fails once", gateway.rates.get("fails once", 0), task.id):
                if self._count("fails", task.id) == 1:
                    data["task_status"], data["task_status_msg"] = "failed", "try again"
                    data.pop("task_result", None)
            if world.strikes("links late", gateway.rates.get("links late", 0), task.id):
                times = self._count("links", task.id)
                if times <= 3 and "task_result" in data:
                    data["task_result"]["images"] = data["task_result"]["images"][: (times - 1) % 2]
        return self._finished(body, data, task.id)

    def _finished(self, body: dict[str, Any], data: dict[str, Any], name: str) -> Answer:
        gateway, world = self._gateway, self._world
        images = data.get("task_result", {}).get("images", [])
        if world.strikes("links shuffled", gateway.rates.get("links shuffled", 0), name):
            turn = self._count("shuffled", name) % max(1, len(images))
            images[:] = images[turn:] + images[:turn]
        if world.strikes("numbered from one", gateway.rates.get("numbered from one", 0), gateway.name):
            for image in images:
                image["index"] += 1
        if data.get("task_status") in {"submitted", "processing"}:
            if world.strikes("odd words", gateway.rates.get("odd words", 0), name):
                data["task_status"] = ("on its way", "QUEUED", "In-Progress")[int(3 * world.chance("words", name))]
        if world.strikes("codes as text", gateway.rates.get("codes as text", 0), gateway.name):
            body["code"] = "Success"
        return as_json(200, body | {"data": data})

    def _list(self, request: Request, answer: Answer) -> Answer:
        gateway, world = self._gateway, self._world
        if answer.status != 200:
            return answer
        body = json.loads(answer.body)
        items = body["data"]
        if self._has("list oldest first") or self._has("list shuffled"):
            items = self._in_other_order(request)
        shown = []
        for item in items:
            task = gateway.by_id(item["task_id"])
            is_foreign = gateway.is_per_key and gateway.keys.get(task.id) != request.headers.get("Authorization")
            if is_foreign or self._is_too_new(task, "list lags") or self._is_hidden_running(task):
                continue
            own = item.get("task_info", {}).get("external_task_id", "")
            if self._has("list without ids"):
                item["task_info"] = {}
            elif self._has("list cuts ids"):
                item["task_info"] = {"external_task_id": own[:16]}
            elif self._has("list in capitals"):
                item["task_info"] = {"external_task_id": own.upper()}
            if self._has("list in seconds"):
                item["created_at"] //= 1000
            if self._has("list few links") and "task_result" in item:
                item["task_result"]["images"] = item["task_result"]["images"][:1]
            shown.append(item)
        if world.strikes("codes as text", gateway.rates.get("codes as text", 0), gateway.name):
            body["code"] = "Success"
        return as_json(200, body | {"data": shown})

    def _in_other_order(self, request: Request) -> list[dict[str, Any]]:
        """A page of all tasks in an order that stays the same."""
        gateway, query = self._gateway, parse_qs(urlsplit(request.url).query)
        size, number = int(query["pageSize"][0]), int(query["pageNum"][0])
        every = replace(request, url=f"{urlsplit(request.url)._replace(query='').geturl()}?pageNum=1&pageSize=500")
        items: list[dict[str, Any]] = json.loads(gateway.process(every)[0].body)["data"]
        if self._has("list shuffled"):
            items.sort(key=lambda item: hashlib.sha256(item["task_id"].encode()).digest())
        else:
            items.reverse()
        return items[(number - 1) * size : number * size]

    def _other(self, task: Task, request: Request) -> dict[str, Any] | None:
        """Another task of the account, as a query would tell of it."""
        others = [each for each in self._gateway.tasks if each.request.external_id != task.request.external_id]
        if not others:
            return None
        other = others[int(len(others) * self._world.chance("other", task.id))]
        if self._gateway.is_per_key and self._gateway.keys.get(other.id) != request.headers.get("Authorization"):
            return None
        path = request.url.rpartition("/")[0]
        data: dict[str, Any] = json.loads(self._gateway.process(replace(request, url=f"{path}/{other.id}"))[0].body)["data"]
        return data

    def _has(self, habit: str) -> bool:
        return self._world.strikes(habit, self._gateway.rates.get(habit, 0.0), self._gateway.name)

    def _count(self, what: str, name: str) -> int:
        self._times[what, name] = self._times.get((what, name), 0) + 1
        return self._times[what, name]

    @staticmethod
    def _ended(data: dict[str, Any]) -> bool:
        return data.get("task_status") == State.SUCCEED
