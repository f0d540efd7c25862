"""A task: what was ordered, and a life that is read off the clock instead of being driven by timers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.sandbox.rules import Order


class State(StrEnum):
    """`task_status` on the wire."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Task:
    """An accepted create. `created_at` is in Unix milliseconds, `duration` in milliseconds."""

    id: str
    number: int  # of accepted tasks, from 1: chance is asked by it
    order: Order
    created_at: int
    duration: int
    failure: str = ""  # why it will fail; empty for one that succeeds
    units: float = 0  # what it costs when it succeeds
    caller_id: str = ""  # the caller's own id in a header, which is kept with the bill and finds nothing

    @cached_property
    def begins_at(self) -> int:
        """When it leaves the queue."""
        return self.created_at + self.duration // 3

    @cached_property
    def ends_at(self) -> int:
        """When its images are there, or it has failed."""
        return self.created_at + self.duration

    def state(self, now: int) -> State:
        """How far it is at `now` (Unix milliseconds)."""
        if now >= self.ends_at:
            return State.FAILED if self.failure else State.SUCCEED
        return State.PROCESSING if now >= self.begins_at else State.SUBMITTED

    def changed_at(self, now: int) -> int:
        """When it came to the state it has at `now`."""
        if now >= self.ends_at:
            return self.ends_at
        return self.begins_at if now >= self.begins_at else self.created_at

    def record(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "id": self.id,
            "number": self.number,
            "created_at": self.created_at,
            "duration": self.duration,
            "failure": self.failure,
            "units": self.units,
            "caller_id": self.caller_id,
            "body": self.order.body,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], order_of: Callable[[dict[str, Any]], Order]) -> Task:
        """Read back what `record` gave. Raises KeyError or TypeError for anything else."""
        body = record.pop("body")
        return cls(order=order_of(body), **record)
