"""What networks, proxies, caches, gateways and image hosts do to a request and its answer, within stated bounds.

Each fault has a name, a description and a bound. A gateway has rates for a few of them; `Gateway.strikes` decides on
each occasion, by the seed and what it is about. docs/simulation.md says how to add one.
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

ANY, IDS = "any account", "accounts that get our id"


def page(status: int) -> Answer:
    text = f"<html><head><title>{status}</title></head><body><h1>{status}</h1><hr>proxy</body></html>"
    return Answer(status=status, headers={"Content-Type": "text/html"}, body=text.encode())


def text(status: int, body: str) -> Answer:
    return Answer(status=status, headers={}, body=body.encode())


def as_json(status: int, value: object, **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body=json.dumps(value).encode())


def error(status: int, code: int, **headers: str) -> Answer:
    return as_json(status, {"code": code, "message": "no"}, **headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of one request. `told`: one of these is the answer instead of the gateway's own."""

    name: str = ""
    arrives: bool = True
    late: bool = False  # it arrives when the client has already lost the connection
    cut: bool = False  # the client sees a lost connection
    silent: bool = False  # the client waits until its time-out
    refused: bool = False  # the connection is not made
    told: tuple[Answer, ...] = ()


NO_TASK = as_json(404, {"code": 1203, "message": "the task does not exist"})
_BAD_GATEWAY = (page(502), page(503), page(504))
_GARBLED = (text(200, ""), text(200, '{"code": 0, "data": {"task_'), text(200, "<html>login</html>"))
_BY_PROXY = (
    text(503, "no healthy upstream"),
    text(
        503,
        "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>",
    ),
    text(503, "<center><h1>503 Service Temporarily Unavailable</h1></center><hr><center>nginx</center>"),
)
_ODD = (  # with our key in them
    as_json(400, {"error": {"message": "Your plan {key} does not include this any more", "type": "plan_q7"}}),
    as_json(422, {"detail": [{"loc": ["body", "prompt"], "msg": "is not acceptable to {key}"}]}),
    as_json(403, {"msg": "group {key} is not allowed"}),
    as_json(400, {"code": 1201, "message": "a field is wrong for {key}"}),
)
_AFTER_3_SECONDS = {"Retry-After": "3"}
SECOND_COPY = tuple(
    error(status, code)
    for code, status in {1000: 401, 1102: 429, 1103: 403, 1200: 400, 1203: 404, 1302: 429, 1303: 429, 1304: 429}.items()
)

Faults = dict[str, tuple[str, str, Fate]]
CREATE_FAULTS: Faults = {
    "not sent": ("the connection is refused", ANY, Fate(arrives=False, refused=True)),
    "lost before": ("the connection is cut on the way there", ANY, Fate(arrives=False, cut=True)),
    "lost after": ("the connection is cut on the way back", ANY, Fate(cut=True)),
    "silent before": ("nothing arrives, and nobody answers", ANY, Fate(arrives=False, silent=True)),
    "silent after": ("it is accepted, and nobody answers", ANY, Fate(silent=True)),
    "late": (
        "the connection is cut; the create arrives later, within 0.6 of visibility_delay",
        ANY,
        Fate(late=True, cut=True),
    ),
    "page before": ("a proxy's page, 502 to 504; nothing arrived", ANY, Fate(arrives=False, told=_BAD_GATEWAY)),
    "page after": ("a proxy's page, 502 to 504; the create was accepted", ANY, Fate(told=_BAD_GATEWAY)),
    "proxy refuses": ("a proxy's page that says: not sent, or busy", ANY, Fate(arrives=False, told=_BY_PROXY)),
    "garbled": ("accepted, and the answer is empty, cut short or a page", ANY, Fate(told=_GARBLED)),
    "too fast": (
        "429 in several spellings",
        ANY,
        Fate(arrives=False, told=(error(429, 1302), error(429, 1302, **_AFTER_3_SECONDS), page(429))),
    ),
    "too many": ("429/1303", ANY, Fate(arrives=False, told=(error(429, 1303), error(429, 1303, **_AFTER_3_SECONDS)))),
    "repeated": ("a proxy sends it twice, and tells what the second copy was answered", IDS, Fate(told=SECOND_COPY)),
    "mixed up": ("the answer is that of another create", IDS, Fate()),
    "refused oddly": ("400, 403 or 422 in words that nobody knows", ANY, Fate(arrives=False, told=_ODD)),
    "refused as page": ("a firewall's page with 403", ANY, Fate(arrives=False, told=(page(403),))),
}
QUERY_FAULTS: Faults = {
    "query not sent": ("the connection is refused", ANY, Fate(arrives=False, refused=True)),
    "query lost": ("the connection is cut", ANY, Fate(arrives=False, cut=True)),
    "query silent": ("nobody answers", ANY, Fate(arrives=False, silent=True)),
    "query page": ("a proxy's page, 502 to 504 or 404", ANY, Fate(arrives=False, told=(*_BAD_GATEWAY, page(404)))),
    "query too fast": ("429", ANY, Fate(arrives=False, told=(error(429, 1302), page(429)))),
    "query garbled": ("the answer is empty, cut short or a page", ANY, Fate(told=_GARBLED)),
    "query refused": ("400 in words that nobody knows", ANY, Fate(arrives=False, told=(error(400, 7),))),
}
TOLD_FAULTS = {  # of tasks, images and callbacks
    "query forgets": ("the first one to six answers about a task say that there is none", ANY),
    "query of other": ("the first two answers about an ended task are another's", IDS),
    "fails once": ("the first answer about an ended task says that it failed", ANY),
    "links late": ("the first three answers about an ended task name fewer images, or none", ANY),
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
HABITS = {  # always or never
    "lookup blind": ("no task is found by our id", IDS),
    "lookup lags": ("tasks are found by our id later, within 0.4 of visibility_delay", IDS),
    "lookup pages": ("a query by our id gets a proxy's page with 404", IDS),
    "lookup of other": ("a query by our id is answered with another task", IDS),
    "cache": ("a cache keeps the answer that there is no task, for whoever accepts an old answer", IDS),
    "list lags": ("the list shows tasks later, within 0.4 of visibility_delay", IDS),
    "list without ids": ("the list names no ids of ours", IDS),
    "list cuts ids": ("the list cuts our ids", IDS),
    "list in capitals": ("the list gives our ids in capitals", IDS),
    "list oldest first": ("the list begins with the oldest", IDS),
    "list shuffled": ("the list has no order", IDS),
    "list capped": ("a page of the list has at most 3 tasks", IDS),
    "list in seconds": ("times are in seconds", IDS),
    "hides running": ("list and look-up leave out tasks that run, while we know of one", IDS),
    "list few links": ("the list names one image of each task", IDS),
}
BOUNDS = {
    name: fault[1] for faults in (CREATE_FAULTS, QUERY_FAULTS, TOLD_FAULTS, HABITS) for name, fault in faults.items()
}


def fate_of(gateway: Gateway, request: Request) -> Fate:
    """What becomes of a create or a query."""
    faults = CREATE_FAULTS if request.kind == "create" else QUERY_FAULTS
    occasion = (request.attempt or request.url, request.number)
    name = next((name for name in faults if name in gateway.rates and gateway.strikes(name, *occasion)), None)
    if name is None:
        return Fate()
    fate = faults[name][2]
    told = fate.told[int(len(fate.told) * gateway.world.chance("told", *occasion)) :][:1]
    keyed = (replace(each, body=each.body.replace(b"{key}", gateway.key.encode())) for each in told)
    return replace(fate, name=name, told=tuple(keyed))


class Teller:
    """What one gateway tells of its tasks."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._strikes, self._chance = gateway.strikes, gateway.world.chance
        self._times: dict[tuple[str, str], int] = {}
        self._missing: set[str] = set()  # names for which a cache has kept "there is none"

    def prepared(self, request: Request) -> Request:
        """The request as it reaches the gateway."""
        if request.kind == "list" and self._strikes("list capped"):
            start, _, size = request.url.rpartition("=")
            return replace(request, url=f"{start}={min(3, int(size))}")
        return request

    def told(self, request: Request, answer: Answer) -> Answer:
        """What the client is told instead of the gateway's own answer to a question about tasks."""
        if request.kind == "list":
            return self._list(request, answer)
        name = request.name
        task, is_lookup = self._gateway.by_id(name), name.startswith("bg-")
        if is_lookup and name in self._missing and "no-cache" not in request.headers.get("Cache-Control", ""):
            return NO_TASK
        if task is not None and not self._is_hidden(task, request, is_lookup=is_lookup):
            return self._answer_about(task, request, answer)
        if is_lookup and self._strikes("cache"):
            self._missing.add(name)
        return answer if task is None else page(404) if is_lookup and self._strikes("lookup pages") else NO_TASK

    def _is_hidden(self, task: Task, request: Request, *, is_lookup: bool) -> bool:
        if self._is_of_other_key(task, request):
            return True
        if is_lookup:
            is_never = self._strikes("lookup blind") or self._strikes("lookup pages")
            return is_never or self._is_too_new(task, "lookup lags") or self._is_hidden_running(task)
        first = 1 + int(6 * self._chance("forgets", task.id) ** 2)
        return self._strikes("query forgets", task.id) and self._count("forgets", task.id) <= first

    def _is_of_other_key(self, task: Task, request: Request) -> bool:
        gateway = self._gateway
        return gateway.is_per_key and gateway.keys.get(task.id) != request.headers.get("Authorization")

    def _is_too_new(self, task: Task, habit: str) -> bool:
        gateway = self._gateway
        lag = 0.4 * gateway.visibility_delay * self._chance(habit, gateway.name)
        return self._strikes(habit) and gateway.world.true < gateway.due(task) - task.duration / 1000 + lag

    def _is_hidden_running(self, task: Task) -> bool:
        """Bound: a task that the client knows runs as well, and has been visible for long enough."""
        gateway = self._gateway
        is_running = gateway.world.true < gateway.due(task)
        return is_running and self._strikes("hides running") and gateway.is_known_to_run(gateway.visibility_delay)

    def _answer_about(self, task: Task, request: Request, answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        body = json.loads(answer.body)
        data, has_ended = body["data"], body["data"]["task_status"] == State.SUCCEED
        is_of_other = has_ended and self._strikes("query of other", task.id) and self._count("other", task.id) <= 2
        if is_of_other or (request.name.startswith("bg-") and self._strikes("lookup of other")):
            data = self._other(task, request) or data
        images = data.get("task_result", {}).get("images", [])
        if has_ended and self._strikes("fails once", task.id) and self._count("fails", task.id) == 1:
            data |= {"task_status": "failed", "task_status_msg": "try again", "task_result": {}}
        if has_ended and self._strikes("links late", task.id) and (times := self._count("links", task.id)) <= 3:
            del images[(times - 1) % 2 :]
        if images and self._strikes("links shuffled", task.id):
            turn = self._count("shuffled", task.id) % len(images)
            images[:] = images[turn:] + images[:turn]
        if self._strikes("numbered from one"):
            for image in images:
                image["index"] += 1
        if data["task_status"] in {"submitted", "processing"} and self._strikes("odd words", task.id):
            data["task_status"] = ("on its way", "QUEUED", "In-Progress")[int(3 * self._chance("words", task.id))]
        return self._finished(body, data)

    def _finished(self, body: dict[str, Any], data: object) -> Answer:
        return as_json(200, body | {"data": data} | ({"code": "Success"} if self._strikes("codes as text") else {}))

    def _list(self, request: Request, answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        body = json.loads(answer.body)
        shown = []
        for item in self._in_its_order(request, body["data"]):
            task = self._gateway.by_id(item["task_id"])
            if (
                self._is_of_other_key(task, request)
                or self._is_too_new(task, "list lags")
                or self._is_hidden_running(task)
            ):
                continue
            own = item.get("task_info", {}).get("external_task_id", "")
            if self._strikes("list without ids"):
                item["task_info"] = {}
            elif self._strikes("list cuts ids"):
                item["task_info"] = {"external_task_id": own[:16]}
            elif self._strikes("list in capitals"):
                item["task_info"] = {"external_task_id": own.upper()}
            if self._strikes("list in seconds"):
                item["created_at"] //= 1000
            if self._strikes("list few links") and "task_result" in item:
                del item["task_result"]["images"][1:]
            shown.append(item)
        return self._finished(body, shown)

    def _in_its_order(self, request: Request, newest: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A page of all tasks, in an order that stays the same."""
        is_oldest_first, is_shuffled = self._strikes("list oldest first"), self._strikes("list shuffled")
        if not (is_oldest_first or is_shuffled):
            return newest
        query = parse_qs(urlsplit(request.url).query)
        size, number = int(query["pageSize"][0]), int(query["pageNum"][0])
        every = replace(request, url=f"{request.url.partition('?')[0]}?pageNum=1&pageSize=500")
        items: list[dict[str, Any]] = json.loads(self._gateway.process(every)[0].body)["data"][::-1]
        if is_shuffled:
            items.sort(key=lambda item: hashlib.sha256(item["task_id"].encode()).digest())
        return items[(number - 1) * size : number * size]

    def _other(self, task: Task, request: Request) -> dict[str, Any] | None:
        """Another task of the account, as a query would tell of it."""
        tasks = self._gateway.tasks
        others = [each for each in tasks if each is not task and not self._is_of_other_key(each, request)]
        if not others:
            return None
        other = others[int(len(others) * self._chance("other", task.id))]
        answer, _ = self._gateway.process(replace(request, url=f"{request.url.rpartition('/')[0]}/{other.id}"))
        data: dict[str, Any] = json.loads(answer.body)["data"]
        return data

    def _count(self, what: str, name: str) -> int:
        self._times[what, name] = self._times.get((what, name), 0) + 1
        return self._times[what, name]
