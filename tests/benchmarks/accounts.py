"""What a gateway's own account tells of a run: how full it was, what it refused, when the end of a task was noticed."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTE = 60.0
_THROTTLED = ("1302", "1303")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A task that the gateway accepted; Unix seconds."""

    units: int
    created: float
    ended: float
    told: float | None  # when an answer first told of its end

    @property
    def seconds(self) -> float:
        """How long it held its units."""
        return self.ended - self.created


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The gateway's account after a run."""

    tasks: tuple[Served, ...]  # in the order in which they were accepted
    requests: dict[str, dict[str, int]]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Account:
        """Read what the sandbox gives at /_usage."""
        tasks = tuple(
            Served(
                units=task["n"],
                created=task["created_at"] / 1000,
                ended=task["ends_at"] / 1000,
                told=task["reported_at"] and task["reported_at"] / 1000,
            )
            for task in told["tasks"]
        )
        return cls(tasks=tasks, requests=told["requests"])

    @property
    def first_create(self) -> float:
        """When the first task was accepted."""
        return min(task.created for task in self.tasks)

    @property
    def last_create(self) -> float:
        """When the last task was accepted: until then there was work for every slot."""
        return max(task.created for task in self.tasks)

    @property
    def makespan(self) -> float:
        """Seconds from the first create to the last task's end."""
        return max(task.ended for task in self.tasks) - self.first_create

    def asked(self, kind: str) -> int:
        """How many requests of a kind (create, query, list, image) were answered, in whatever way."""
        return sum(self.requests.get(kind, {}).values())

    @property
    def refusals(self) -> int:
        """Creates that were answered 1302 or 1303."""
        return throttled(self.requests)

    def full(self, units: int) -> float:
        """The share of `units` that tasks held, from the first create to the last end."""
        return sum(task.units * task.seconds for task in self.tasks) / (units * self.makespan)

    def full_between(self, units: int, since: float, until: float) -> float:
        """The same for a stretch of Unix time."""
        held = sum(task.units * max(0.0, min(task.ended, until) - max(task.created, since)) for task in self.tasks)
        return held / (units * (until - since))

    def against_list_scheduling(self, units: int) -> float:
        """How close the run came to greedy list scheduling of the very same tasks in the same order."""
        return list_scheduling([(task.units, task.seconds) for task in self.tasks], units) / self.makespan

    def noticed_late(self) -> float:
        """How long after its end a task was told of, as a share of how long it took; the median."""
        return median((task.told - task.ended) / task.seconds for task in self.tasks if task.told is not None)


def throttled(requests: dict[str, dict[str, int]]) -> int:
    """Creates that were answered 1302 or 1303."""
    creates = requests.get("create", {})
    return sum(creates.get(code, 0) for code in _THROTTLED)


def list_scheduling(tasks: Sequence[tuple[int, float]], units: int) -> float:
    """The makespan of Graham's list scheduling: whenever units are free, the first waiting task that fits begins.

    Nothing costs time but the tasks (units, seconds). R. L. Graham, Bounds on Multiprocessing Timing Anomalies (1969).
    """
    waiting = list(tasks)
    running: list[tuple[float, int]] = []
    now, free = 0.0, units
    while waiting or running:
        left: list[tuple[int, float]] = []
        for task in waiting:
            wanted, seconds = task
            if wanted <= free:
                free -= wanted
                heapq.heappush(running, (now + seconds, wanted))
            else:
                left.append(task)
        waiting = left
        now, freed = heapq.heappop(running)
        free += freed
    return now
