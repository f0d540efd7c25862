"""The points at which fault injection can act. Without `--faults` nothing happens at them."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.sandbox.callbacks import Callbacks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from batchgen.sandbox.tasks import Task

    Respond = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    Damage = Callable[[web.BaseRequest, bytes, Mapping[str, str]], Awaitable[web.StreamResponse]]


class Occasion(StrEnum):
    """When a fault can be injected."""

    CREATE_BEFORE = "create_before"  # a create was received and is valid, but not accepted yet
    CREATE_AFTER = "create_after"  # it is accepted and will be billed; its answer is not sent yet
    TASK = "task"  # the outcome of an accepted task
    QUERY = "query"  # a query for one task or for the list
    IMAGE = "image"  # a download
    CALLBACK = "callback"  # a callback to the user's own address


class InjectedAnswer(Exception):  # not an error: it ends the handling of a request
    """A fault replaces the answer. `label` is counted in the usage; `respond` sends something, or nothing."""

    def __init__(self, label: str, respond: Respond) -> None:
        self.label = label
        self.respond = respond
        super().__init__(label)


class Injector:
    """Injects nothing; `faults.injector` overrides it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # injected faults, by name

    def inject(self, _occasion: Occasion) -> Damage | None:
        """Raise InjectedAnswer or ApiError to replace an answer; what is returned damages a download."""
        return None

    def task_failure(self, _number: int) -> str:
        """Why the task with this number fails; empty for one that does not."""
        return ""

    def callbacks(self, clock: Callable[[], int], body_of: Callable[[Task, int], bytes]) -> Callbacks:
        """What sends the callbacks."""
        return Callbacks(clock, body_of)
