"""What the ledger could not take is written here, beside the disk that refused it, to be adopted later.

One JSON line for each attempt that was accepted: its job, its task id, its links. `batchgen audit --adopt --rescue
FILE` takes such lines in, from this file or from a log that holds them.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError
from batchgen.jobs import ImageLink, Status, is_inline
from batchgen.ledger.events import Accepted, Made, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchgen.ledger.events import Event
    from batchgen.ledger.store import Ledger

_MARK = '{"batchgen_rescue": '
_VERSION = 1


def is_worth_it(events: Iterable[Event]) -> bool:
    """Whether the events hold what no later question need bring again: a task id, or links."""
    return any(isinstance(event, Accepted | Made) for event in events)


class Rescue:
    """Keeps what the ledger does not take: in a file of the system's temporary folder, and said to `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._path = ""
        self._lines: list[str] = []

    def add(self, events: Iterable[Event]) -> None:
        """Write at once: the process may not live to its end."""
        data = _as_data(events)
        self._lines.append(_as_line(data | {"links": [link for link in data["links"] if not is_inline(link[1])]}))
        with suppress(OSError):  # said it is in any case
            if not self._path:
                descriptor, self._path = tempfile.mkstemp(prefix="batchgen-rescue-", suffix=".jsonl")
                os.close(descriptor)
            with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123 - a name is all there is
                file.write(_as_line(data) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def tell(self) -> None:
        """Say what was not kept, and what to do with it."""
        if not self._lines:
            return
        self._say(
            f"The ledger could not keep {len(self._lines)} answers of the gateway. They are in the lines below"
            f"{f', and whole in {self._path}' if self._path else ''}. Free disk space; then `batchgen audit MANIFEST"
            " --adopt --rescue FILE` takes them in, from that file or from a log that has these lines."
        )
        for line in self._lines:
            self._say(line)

    def forget(self) -> None:
        """All of it is in the ledger after all."""
        with suppress(OSError):
            if self._path:
                os.unlink(self._path)  # noqa: PTH108 - as above
        self._lines, self._path = [], ""


def adopt_rescued(ledger: Ledger, path: Path) -> tuple[int, int]:
    """Take in the lines of a file; how many were new, and how many the ledger had already or cannot place."""
    taken = left = 0
    for data in _read(path):
        events = _events(ledger, data)
        if events:
            ledger.record(events)
        taken, left = taken + bool(events), left + (not events)
    return taken, left


def _events(ledger: Ledger, data: dict[str, Any]) -> list[Accepted | Made]:
    """What of a line is news to the ledger, in the state in which its job stands."""
    job_id, attempt, at = str(data["job_id"]), int(data["attempt"]), int(data["at"])
    held = ledger.attempt_state(job_id, attempt)
    if held is None:
        return []
    status, outcome, task_id = held
    events: list[Accepted | Made] = []
    if task_id is None and outcome in {Outcome.LIVE, Outcome.UNKNOWN}:
        events.append(Accepted(job_id=job_id, attempt=attempt, task_id=str(data["task_id"]), at=at, found=True))
    elif status is not Status.SUBMITTED:
        return []
    if data["links"]:
        links = tuple(ImageLink(index=int(i), url=str(u), watermark_url=m) for i, u, m in data["links"])
        events.append(Made(job_id=job_id, attempt=attempt, links=links, cost=data["cost"], at=at))
    return events


def _as_data(events: Iterable[Event]) -> dict[str, Any]:
    data: dict[str, Any] = {"task_id": "", "links": [], "cost": None}
    for event in events:
        if isinstance(event, Accepted | Made):
            data |= {"job_id": event.job_id, "attempt": event.attempt, "at": event.at}
        if isinstance(event, Accepted):
            data["task_id"] = event.task_id
        if isinstance(event, Made):
            data["links"] = [[link.index, link.url, link.watermark_url] for link in event.links]
            data["cost"] = event.cost
    return data


def _as_line(data: dict[str, Any]) -> str:
    return json.dumps({"batchgen_rescue": _VERSION} | data)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a rescue file, or those within a log, as text or as JSON."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if _MARK in (text := _message(line)):
                    yield _checked(text[text.index(_MARK) :])
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CommandError(
            f"{path} holds a rescued line that is no longer whole; the same line may stand in a log of that run. Mend"
            " it or take it out, then try again."
        ) from error


def _message(line: str) -> str:
    """A line of a log in JSON tells its message; any other is one."""
    with suppress(ValueError):
        logged = json.loads(line)
        return str(logged.get("message", line)) if isinstance(logged, dict) else line
    return line


def _checked(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(text)
    if not {"job_id", "attempt", "at", "task_id", "links", "cost"} <= data.keys():
        raise ValueError(text)
    return data
