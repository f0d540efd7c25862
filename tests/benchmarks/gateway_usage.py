"""What the sandbox's usage says about a run: how full its slots were, what was refused, when an end was noticed."""

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
class ServedTask:
    """A task that the gateway accepted; Unix seconds."""

    units: int
    created: float
    ended: float
    reported: float | None  # when an answer first reported its end

    @property
    def seconds(self) -> float:
        """How long it held its units."""
        return self.ended - self.created


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayUsage:
    """The usage after a run."""

    tasks: tuple[ServedTask, ...]  # in the order in which they were accepted
    requests: dict[str, dict[str, int]]

    @classmethod
    def of(cls, usage: dict[str, Any]) -> GatewayUsage:
        """Read what the sandbox reports at /_usage."""
        tasks = tuple(
            ServedTask(
                units=task["n"],
                created=task["created_at"] / 1000,
                ended=task["ends_at"] / 1000,
                reported=task["reported_at"] and task["reported_at"] / 1000,
            )
            for task in usage["tasks"]
        )
        return cls(tasks=tasks, requests=usage["requests"])

    @property
    def first_create(self) -> float:
        """When the first task was accepted."""
        return min(task.created for task in self.tasks)

    @property
    def last_create(self) -> float:
        """When the last task was accepted: until then every slot had work."""
        return max(task.created for task in self.tasks)

    @property
    def makespan(self) -> float:
        """Seconds from the first create to the last task's end."""
        return max(task.ended for task in self.tasks) - self.first_create

    def count(self, kind: str) -> int:
        """Requests of a kind (create, query, list, image) that were answered."""
        return sum(self.requests.get(kind, {}).values())

    @property
    def refusals(self) -> int:
        """Creates that were answered 1302 or 1303."""
        return throttled(self.requests)

    def utilization(self, units: int) -> float:
        """The share of `units` that tasks held, from the first create to the last end."""
        return sum(task.units * task.seconds for task in self.tasks) / (units * self.makespan)

    def utilization_between(self, units: int, since: float, until: float) -> float:
        """The same between two Unix times."""
        held = sum(task.units * max(0.0, min(task.ended, until) - max(task.created, since)) for task in self.tasks)
        return held / (units * (until - since))

    def against_list_scheduling(self, units: int) -> float:
        """The makespan of greedy list scheduling of the same tasks in the same order, divided by this run's."""
        return list_scheduling([(task.units, task.seconds) for task in self.tasks], units) / self.makespan

    def notice_delay(self) -> float:
        """Median time from a task's end to the first answer that reported it, as a share of its latency."""
        return median((task.reported - task.ended) / task.seconds for task in self.tasks if task.reported is not None)


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
