"""A gateway that lies, within bounds that are written down: the witness of what batchgen believes unverified.

What it says is spoilt by its `Lies`, which may be replaced while it runs (`Lies()` tells the truth). What it
accepted, and so bills, is in `tasks`, by the key that it came with. Each lie is drawn from the seed and
from what it is about (the prompt, the task), never from the order in which requests happen to arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from scripted_gateway import Call, ScriptedGateway, Task

POLICY = "Failure to pass the risk control system"  # the vendor's own words
# What the second copy of a create may be told.
REFUSALS = {1000: 401, 1102: 429, 1103: 403, 1200: 400, 1203: 404, 1302: 429, 1303: 429, 1304: 429}
_STRANGERS = "of somebody else"
_HOUR = 3600.0
_HOURS = 3 * _HOUR
_TIMES = {"ms": (1000, 0.0), "s": (1, 0.0), "behind": (1000, -_HOURS), "ahead": (1000, _HOURS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lies:
    """One gateway's habits. Shares are from 0 to 1, times in seconds."""

    seed: int = 0
    # A create's answer.
    lost: float = 0.0  # the share of creates whose answer is lost,
    never_arrived: float = 0.0  # and the share of those that were not accepted
    lost_by: str = "cut"  # cut | 502 | 504 | silence
    lost_after: float = 0.0  # when the answer is lost,
    accepted_after: float = 0.0  # and how long after that the create is accepted; less than `visibility_delay`
    repeated: float = 0.0  # the share of creates that a proxy sends twice: the first copy is accepted,
    second_copy: int = 1303  # and this is what the second is answered
    mixed_up: float = 0.0  # the share of creates that get the answer to another create; both are accepted
    outage: tuple[int, float] = (0, 0.0)  # after so many creates, for so long: 503, and none is accepted
    # A question by the caller's id.
    finds: str = "yes"  # yes | never | ended | lags | proxy | cached | other
    lag: float = 0.0  # of `lags` and of the list; less than `visibility_delay`
    # The list.
    lists: str = "yes"  # yes | no
    order: str = "newest"  # newest | oldest | shuffled
    page_cap: int = 500
    gaps: bool = False  # each second page is empty
    hides: str = ""  # of running tasks: their "ids", or the "tasks" themselves
    ids: str = ""  # altered: "upper", "cut", or all of them left out, "none"
    clock: str = "ms"  # ms | s | behind | ahead
    list_links: int = 9  # so many links of a task the list shows at most
    # What is told of a task.
    forgets: int = 0  # so many questions by the gateway's own id are first "not found"; 2 at most are soon forgiven
    fewer: int = 0  # so many answers first show only the last link of an ended task
    shuffled: bool = False  # links come in another order each time, each with its own index
    foreign: int = 0  # so many answers about an ended task first are another task's
    slow: float = 0.0  # the share of prompts whose tasks go on for as long as this is said
    words: str = "processing"  # the status of a running task
    policy: float = 0.0  # the share of prompts whose tasks end as refused by policy
    image_refusals: int = 0  # so many requests for each image are first answered 403
    per_key: bool = False  # keys see their own tasks only

    def strikes(self, share: float, *what: object) -> bool:
        """Whether a lie of this share is told on this occasion."""
        digest = hashlib.sha256(repr((self.seed, *what)).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48 < share


@dataclass(slots=True, kw_only=True)
class Billed(Task):
    """A task, and who pays for it."""

    key: str
    is_refused: bool = False  # by policy, at its end: not charged


class LyingGateway(ScriptedGateway):
    """Tells what `lies` says; `struck` counts the lies that were told, so that no test passes for want of one."""

    def __init__(self, lies: Lies | None = None, *, latency: float = 0.05) -> None:
        super().__init__(latency=latency)
        self.lies = lies or Lies()
        self.struck: Counter[str] = Counter()
        self._down_until: float | None = None
        self._cached: set[str] = set()
        self._told: Counter[tuple[str, str]] = Counter()
        self.answers = {"create": self._create, "query": self._query, "list": self._list, "image": self._image}

    # --- the truth ----------------------------------------------------------------------------------------

    def billed(self) -> Counter[str]:
        """Tasks that are paid for, by their prompt."""
        tasks = [task for task in list(self.tasks.values()) if task.prompt != _STRANGERS and not task.is_refused]
        return Counter(task.prompt for task in tasks)

    def pictures(self) -> dict[str, tuple[str, str]]:
        """Of each image's hash the prompt and the task that it was made for."""
        return {
            hashlib.sha256(task.image(index)).hexdigest(): (task.prompt, task.id)
            for task in list(self.tasks.values())
            for index in range(task.n)
        }

    def creates(self, prompt: str) -> int:
        """Creates of a prompt that arrived, whatever became of them."""
        return sum(call.body["prompt"] == prompt for call in self.of("create"))

    def remember(self, number: int, *, seconds: float) -> None:
        """Tasks that somebody else made so long ago."""
        for _ in range(number):
            self.accept({"external_task_id": "theirs", "prompt": _STRANGERS}).created -= seconds

    def accept(self, body: dict[str, Any], key: str = "") -> Billed:
        """A new task."""
        prompt = body["prompt"]
        task = Billed(
            id=f"T{len(self.tasks) + 1}",
            external_id=body.get("external_task_id", ""),
            prompt=prompt,
            n=body.get("n", 1),
            key=key,
            is_refused=self.lies.strikes(self.lies.policy, "policy", prompt),
        )
        self.tasks[task.id] = task
        return task

    # --- what it says of creates --------------------------------------------------------------------------

    async def _create(self, call: Call) -> web.Response:
        lies, prompt = self.lies, call.body["prompt"]
        if self._is_down(call):
            return self.page_of_text(503)
        occasion = (prompt, self.creates(prompt))
        if lies.strikes(lies.lost, "lost", *occasion):
            return await self._lost(call, occasion)
        before = next((task for task in reversed(self.tasks.values()) if task.key == _key(call)), None)
        task = self.accept(call.body, _key(call))
        if lies.strikes(lies.repeated, "repeated", *occasion):
            self.struck["repeated"] += 1
            return self.no(REFUSALS[lies.second_copy], lies.second_copy, "of the second copy")
        if before is not None and lies.strikes(lies.mixed_up, "mixed up", *occasion):
            self.struck["mixed_up"] += 1
            task = before
        return self.yes(self.view(task) | {"task_status": "submitted", "task_result": {}})

    async def _lost(self, call: Call, occasion: tuple[object, ...]) -> web.Response:
        lies = self.lies
        is_accepted = not lies.strikes(lies.never_arrived, "never arrived", *occasion)
        self.struck["lost" if is_accepted else "never_arrived"] += 1
        if is_accepted:
            after = lies.lost_after + lies.accepted_after
            if after:
                asyncio.get_running_loop().call_later(after, self.accept, call.body, _key(call))
            else:
                self.accept(call.body, _key(call))
        await asyncio.sleep(3600 if lies.lost_by == "silence" else lies.lost_after)
        return call.cut() if lies.lost_by == "cut" else self.page_of_text(int(lies.lost_by))

    def _is_down(self, call: Call) -> bool:
        after, seconds = self.lies.outage
        if seconds and self._down_until is None and call.number > after:
            self._down_until = time.monotonic() + seconds
        is_down = bool(seconds) and self._down_until is not None and time.monotonic() < self._down_until
        self.struck["outage"] += is_down
        return is_down

    @staticmethod
    def page_of_text(status: int) -> web.Response:
        """A page of the proxy in front of the gateway."""
        return web.Response(status=status, text=f"<html><h1>{status}</h1><hr>nginx</html>", content_type="text/html")

    # --- what it says of tasks ----------------------------------------------------------------------------

    def view(self, task: Task, *, links: bool = True) -> dict[str, Any]:
        """A task as a single question is answered."""
        lies, factor, ahead = self.lies, *_TIMES[self.lies.clock]
        data = {
            "task_id": task.id,
            "task_status": "succeed" if self.has_ended(task) else lies.words,
            "task_info": {"external_task_id": task.external_id},
            "created_at": int((task.created + ahead) * factor),
        }
        if not self.has_ended(task) or not links:
            return data
        if getattr(task, "is_refused", False):
            return data | {"task_status": "failed", "task_status_msg": POLICY}
        turn = self._times("shuffled", task.id) if lies.shuffled else 0
        order = [(index + turn) % task.n for index in range(task.n)]
        images = [{"index": index, "url": f"{self.host}/images/{task.id}/{index}"} for index in order]
        return data | {"task_result": {"images": images}}

    def has_ended(self, task: Task) -> bool:
        """Whether it is no longer running."""
        age, prompt = time.time() - task.created, task.prompt
        return age >= self.latency and (age > _HOUR or not self.lies.strikes(self.lies.slow, "slow", prompt))

    def _query(self, call: Call) -> web.Response:
        if call.by_own_id:
            return self._by_own_id(call)
        lies, task = self.lies, self._seen_by(call, call.task)
        if task is None or self._times("asked", call.name) <= lies.forgets:
            return self.no(404, 1203, "no such task")
        if self.has_ended(task):
            if (other := self._other(task)) is not None and self._times("foreign", task.id) <= lies.foreign:
                self.struck["foreign"] += 1
                return self.yes(self.view(other))
            data = self.view(task)
            if task.n > 1 and self._times("fewer", task.id) <= lies.fewer and "task_result" in data:
                self.struck["fewer"] += 1
                data["task_result"]["images"] = data["task_result"]["images"][-1:]
            return self.yes(data)
        return self.yes(self.view(task))

    def _by_own_id(self, call: Call) -> web.Response:
        lies, task = self.lies, self._seen_by(call, call.task)
        is_hidden = task is not None and (
            lies.finds in {"never", "proxy"}
            or (lies.finds == "ended" and not self.has_ended(task))
            or (lies.finds == "lags" and time.time() - task.created < lies.lag)
            or (lies.finds == "cached" and call.name in self._cached and not _is_fresh(call))
        )
        self.struck[f"finds_{lies.finds}"] += is_hidden
        if lies.finds == "other" and task is not None and (other := self._other(task, ended=False)) is not None:
            self.struck["finds_other"] += 1
            return self.yes(self.view(other))
        if task is not None and not is_hidden:
            return self.yes(self.view(task))
        self._cached.add(call.name)
        return self.page_of_text(404) if lies.finds == "proxy" else self.no(404, 1203, "no such task")

    def _list(self, call: Call) -> web.Response:
        lies = self.lies
        if lies.lists == "no":
            return self.no(404, 1202, "no such method")
        now = time.time()
        shown = [task for task in self.tasks.values() if self._seen_by(call, task) and now - task.created >= lies.lag]
        if lies.hides == "tasks":
            self.struck["hides_tasks"] += any(not self.has_ended(task) for task in shown)
            shown = [task for task in shown if self.has_ended(task)]
        orders = {
            "newest": lambda task: -int(task.id[1:]),
            "oldest": lambda task: int(task.id[1:]),
            "shuffled": lambda task: hashlib.sha256(f"{lies.seed}{task.id}".encode()).digest(),
        }
        size = min(int(call.request.query["pageSize"]), lies.page_cap)
        page = int(call.request.query["pageNum"]) - 1
        if lies.gaps and page % 2:
            return self.yes([])
        start = size * (page // 2 if lies.gaps else page)
        return self.yes([self._entry(task) for task in sorted(shown, key=orders[lies.order])[start : start + size]])

    def _entry(self, task: Task) -> dict[str, Any]:
        lies, data = self.lies, self.view(task)
        own = task.external_id
        is_hidden = lies.ids == "none" or (lies.hides == "ids" and not self.has_ended(task))
        altered = {"": own, "none": own, "upper": own.upper(), "cut": own[:16]}[lies.ids]
        self.struck["list_ids"] += is_hidden or altered != own
        data["task_info"] = {} if is_hidden else {"external_task_id": altered}
        if "images" in data.get("task_result", {}):
            data["task_result"]["images"] = data["task_result"]["images"][: lies.list_links]
        return data

    def _image(self, call: Call) -> web.Response | None:
        if self._times("image", call.request.path) <= self.lies.image_refusals:
            self.struck["image_refusals"] += 1
            return web.Response(status=403, text="<html>403 Forbidden</html>", content_type="text/html")
        return None

    # --- helpers of the above -----------------------------------------------------------------------------

    def _times(self, what: str, name: str) -> int:
        """How often this was asked, this time included."""
        self._told[what, name] += 1
        return self._told[what, name]

    def _seen_by(self, call: Call, task: Task | None) -> Task | None:
        is_hidden = self.lies.per_key and task is not None and task.key not in {"", _key(call)}
        self.struck["per_key"] += is_hidden
        return None if is_hidden else task

    def _other(self, task: Task, *, ended: bool = True) -> Task | None:
        number = int(task.id[1:])
        others = [
            other
            for other in self.tasks.values()
            if other.prompt != task.prompt and (self.has_ended(other) or not ended)
        ]
        return min(others, key=lambda other: abs(int(other.id[1:]) - number), default=None)


def _key(call: Call) -> str:
    return call.request.headers.get("Authorization", "")


def _is_fresh(call: Call) -> bool:
    return "no-cache" in call.request.headers.get("Cache-Control", "")


FOR_EVER = math.inf  # a time of `outage`
