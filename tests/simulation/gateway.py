"""A gateway without sockets: the sandbox's own rules, and what it made and bills, which nobody can talk it out of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchgen.http.client import Answer
from batchgen.sandbox import painter
from batchgen.sandbox.callbacks import Callbacks
from batchgen.sandbox.formats import with_comment
from batchgen.sandbox.injector import Injector
from batchgen.sandbox.server import Sandbox
from batchgen.sandbox.settings import Settings
from tests.simulation.liar import Teller
from tests.simulation.world import EPOCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.sandbox.tasks import Task
    from tests.simulation.network import Window
    from tests.simulation.world import World

FAILED, RISKY = "the worker was restarted", "Failure to pass the risk control system"


@dataclass(slots=True, kw_only=True)
class Request:
    """A request as the sandbox's server reads it, and which attempt it is of (empty: of none)."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    attempt: str = ""
    number: int = 0  # of its kind and address, from 1

    @property
    def raw_path(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def name(self) -> str:
        """What a query asks for; empty for a list and a create."""
        return urlsplit(self.url).path.partition("/generations/")[2]

    @property
    def kind(self) -> str:
        if self.method == "POST":
            return "create"
        path = urlsplit(self.url).path
        return "query" if self.name else "list" if path.endswith("/generations") else "other"

    async def read(self) -> bytes:
        return self.body


class _Injector(Injector):
    """What becomes of a task, and who is told of it, is the world's."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    def task_failure(self, _number: int) -> str:
        attempt = self._gateway.world.attempt
        if self._gateway.strikes("task fails", attempt):
            return FAILED
        return RISKY if self._gateway.strikes("task refused", attempt.rpartition("-")[0]) else ""

    def callbacks(self, clock: Any, body_of: Any) -> Callbacks:
        return _Callbacks(self._gateway, clock, body_of)


class _Callbacks(Callbacks):
    def __init__(self, gateway: Gateway, clock: Any, body_of: Any) -> None:
        super().__init__(clock, body_of)
        self._gateway = gateway

    def follow(self, task: Task, after: int) -> None:
        gateway, world = self._gateway, self._gateway.world
        if gateway.strikes("callback forged", task.id):
            world.at(gateway.due(task) - task.duration / 1000 + 0.3, lambda: self._call(task, task.ends_at))
        for moment in (task.starts_at, task.ends_at):
            late = 90.0 * world.chance("late", task.id) if gateway.strikes("callback late", task.id, moment) else 0.05
            times = (
                1
                + gateway.strikes("callback repeated", task.id)
                - 2 * gateway.strikes("callback lost", task.id, moment)
            )
            for _ in range(times):
                due = moment / 1000 - EPOCH - gateway.skew
                world.at(due + late, lambda moment=moment: self._call(task, moment))

    def _call(self, task: Task, moment: int) -> None:
        if (receive := self._gateway.world.on_callback) is not None:
            receive(task.request.callback_url, json.loads(self.body_of(task, moment)))


class Gateway:
    """One account's gateway. `rates` are its faults; `skew` is how far its clock is ahead of the true time, in seconds.

    `limit` and `quota` are what the manifest says of the account now: units in flight, and creates in a minute.
    """

    def __init__(
        self, world: World, name: str, *, rates: Mapping[str, float], skew: float = 0.0, **settings: Any
    ) -> None:
        self.world, self.name, self.rates, self.skew = world, name, rates, skew
        self.key = f"key-of-{name}-1"
        self.host = f"{name}.test"
        self.is_per_key = False
        self.visibility_delay = 15.0
        self.limit: int | None = None
        self.quota: float | None = None
        self.windows: list[Window] = []
        self.known_since: dict[str, float] = {}  # by task id: when this run was told that it is accepted
        self.is_given_up = False  # whether the run does not wait for the ends of tasks
        chosen = {"blank_images": True, "require_key": False, "marked": False} | settings
        self.sandbox = Sandbox(Settings(**chosen), clock=lambda: EPOCH + world.true + self.skew)
        injector = _Injector(self)
        store = self.sandbox.store
        self.sandbox.injector = store._injector = self.sandbox.images._injector = injector
        self.sandbox._api = type(self.sandbox._api)(self.sandbox)
        self.sandbox._routes.update(self.sandbox._api.routes)
        self.sandbox._subtrees.update(self.sandbox._api.subtrees)
        self.sandbox.origin = f"http://{self.host}"
        self.sandbox.closing.set()  # OpenAI's answers are made at once; the network delivers them when they are due
        self.attempts: dict[str, str] = {}  # by task id: the attempt that it is of
        self.keys: dict[str, str] = {}  # by task id: the header that it was sent with
        self._pictures: dict[tuple[str, int, bool], str] = {}
        chosen_settings = self.sandbox.settings
        self.answers_with_images = self.sandbox.account.protocol == "openai"
        self.has_images_inside = self.answers_with_images and chosen_settings.response_format == "b64_json"
        self.can_be_asked = bool(chosen_settings.lists_tasks or chosen_settings.lookup_by_external_id)
        self.teller = Teller(self)

    def strikes(self, fault: str, *occasion: object) -> bool:
        """Whether a fault happens on this occasion; a habit has no occasion."""
        rate = self.rates.get(fault)
        return rate is not None and self.world.strikes(fault, rate, self.name, *occasion)

    # --- the truth ----------------------------------------------------------------------------------------

    @property
    def tasks(self) -> list[Task]:
        return self.sandbox.store.tasks

    def billed(self) -> list[Task]:
        """Tasks that are paid for, or will be when they end."""
        return [task for task in self.tasks if not task.failure and task.id in self.attempts]

    def picture(self, task: Task, index: int, *, watermark: bool = False) -> bytes:
        kind = self.sandbox.settings.image_format
        return with_comment(painter.blank(painter.size_of(task.request), kind), kind, f"{task.id}/{index}/{watermark}")

    def pictures(self, task: Task) -> set[str]:
        """The hashes of a task's images, without the watermarked copies."""
        found = set()
        for index in range(task.request.n):
            key = (task.id, index, False)
            if key not in self._pictures:
                self._pictures[key] = hashlib.sha256(self.picture(task, index)).hexdigest()
            found.add(self._pictures[key])
        return found

    def by_id(self, name: str) -> Task | None:
        store = self.sandbox.store
        return store._by_id.get(name) or store._by_external_id.get(name)

    def due(self, task: Task) -> float:
        """When a task ends, in true time."""
        return task.ends_at / 1000 - EPOCH - self.skew

    def is_known_to_run(self, seconds: float) -> bool:
        """Whether this run was told so long ago of a task that still runs."""
        if self.is_given_up:
            return False
        now, by_id = self.world.true, self.sandbox.store._by_id
        return any(since <= now - seconds and self.due(by_id[id_]) > now for id_, since in self.known_since.items())

    @staticmethod
    def units_of(request: Request) -> int:
        return int(json.loads(request.body).get("n", 1))

    # --- what it does -------------------------------------------------------------------------------------

    def process(self, request: Request) -> tuple[Answer, Task | None]:
        """Serve a request now; also the task that it has made."""
        before = len(self.tasks)
        self.world.attempt = request.attempt
        work = self.sandbox._serve(request)
        try:
            work.send(None)
        except StopIteration as done:
            response = done.value
        else:
            raise AssertionError("the gateway does not answer at once")
        made = self.tasks[-1] if len(self.tasks) > before else None
        if made is not None:
            self.attempts[made.id] = request.attempt
            self.keys[made.id] = request.headers.get("Authorization", "")
            self.world.note(f"{self.name} accepts {request.attempt} as {made.id}{made.failure and ', which will fail'}")
        body = response.body if isinstance(response.body, bytes) else bytes(response.body or b"")
        return Answer(status=response.status, headers=response.headers, body=body), made
