"""A task: what was requested, and a state that follows from the clock, so that no timer drives it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_IN_THE_IMAGE = frozenset({"external_task_id", "callback_url"})


class State(StrEnum):
    """The value of `task_status`."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """A valid create. `body` is as it was sent, except that a reference file is replaced by its hash."""

    body: dict[str, Any]
    prompt: str
    model: str
    aspect_ratio: str = "16:9"
    resolution: str = "1k"
    size: str = ""  # such as `1536x1024`, where the API takes pixels instead of a ratio
    n: int = 1
    external_id: str = ""
    callback_url: str = ""
    watermark: bool = False
    reference: str = ""  # `subject`, `face`, `image`, or empty without a reference image

    @property
    def digest(self) -> str:
        """Of everything that makes the image: equal for requests that ask for the same."""
        asked = {name: value for name, value in self.body.items() if name not in _NOT_IN_THE_IMAGE}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Task:
    """An accepted create. `created_at` is in Unix milliseconds, `duration` in milliseconds."""

    id: str
    number: int  # of accepted tasks, from 1; random faults depend on it
    request: CreateRequest
    created_at: int
    duration: int
    failure: str = ""  # why it will fail; empty for one that succeeds
    units: float = 0  # its price when it succeeds
    caller_id: str = ""  # the caller's own id from a header; reported in the usage, not usable for a query

    @cached_property
    def starts_at(self) -> int:
        """When it leaves the queue."""
        return self.created_at + self.duration // 3

    @cached_property
    def ends_at(self) -> int:
        """When it has succeeded or failed."""
        return self.created_at + self.duration

    def state(self, now: int) -> State:
        """Its state at `now` (Unix milliseconds)."""
        if now >= self.ends_at:
            return State.FAILED if self.failure else State.SUCCEED
        return State.PROCESSING if now >= self.starts_at else State.SUBMITTED

    def changed_at(self, now: int) -> int:
        """When it reached the state that it has at `now`."""
        return max(moment for moment in (self.created_at, self.starts_at, self.ends_at) if moment <= now)

    def to_record(self) -> dict[str, Any]:
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "request"}
        return own | {"body": self.request.body}

    @classmethod
    def from_record(cls, record: dict[str, Any], request_of: Callable[[dict[str, Any]], CreateRequest]) -> Task:
        """Read what `to_record` gave. Raises KeyError or TypeError for anything else."""
        body = record.pop("body")
        return cls(request=request_of(body), **record)
