"""Answers that the ledger cannot record, because its disk is full, are written elsewhere, to be adopted later.

One JSON line for each attempt that was accepted: its job, its task id, its links. `batchgen audit --adopt --rescue
FILE` adopts such lines, from the rescue file or from a log that contains them.
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

_PREFIX = '{"batchgen_rescue": '
_VERSION = 1
_KEYS = ("job_id", "attempt", "at", "task_id", "links", "cost")


def must_be_kept(events: Iterable[Event]) -> bool:
    """Whether the events hold what a later query may not return again: a task id, or links."""
    return any(isinstance(event, Accepted | Made) for event in events)


class Rescue:
    """Keeps what the ledger cannot record: in a file of the system's temporary folder, and as messages to `notify`."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._path = ""
        self._lines: list[str] = []

    def add(self, events: Iterable[Event]) -> None:
        """Write at once: the process may be killed."""
        data = _as_data(events)
        self._lines.append(_as_line(data | {"links": [link for link in data["links"] if not is_inline(link[1])]}))
        with suppress(OSError):  # `report` prints it in any case
            if not self._path:
                descriptor, self._path = tempfile.mkstemp(prefix="batchgen-rescue-", suffix=".jsonl")
                os.close(descriptor)
            with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123 - a name is all there is
                file.write(_as_line(data) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def report(self) -> None:
        """Print what was not recorded, and what to do with it."""
        if not self._lines:
            return
        self._notify(
            f"The ledger could not record {len(self._lines)} answers of the gateway. They are in the lines below"
            f"{f', and complete in {self._path}' if self._path else ''}. Free disk space; then `batchgen audit MANIFEST"
            " --adopt --rescue FILE` adopts them, from that file or from a log that contains these lines."
        )
        for line in self._lines:
            self._notify(line)

    def discard(self) -> None:
        """Remove the file: all of it is in the ledger after all."""
        with suppress(OSError):
            if self._path:
                os.unlink(self._path)  # noqa: PTH108 - as above
        self._lines, self._path = [], ""


def adopt_rescued(ledger: Ledger, path: Path) -> int:
    """Adopt the lines of a file; returns how many were new to the ledger, and fit the state of their jobs."""
    adopted = 0
    for data in _read(path):
        if events := _events(ledger, data):
            ledger.record(events)
            adopted += 1
    return adopted


def _events(ledger: Ledger, data: dict[str, Any]) -> list[Accepted | Made]:
    """The events of a line that are new to the ledger, and fit the state of its job."""
    job_id, attempt, at = str(data["job_id"]), int(data["attempt"]), int(data["at"])
    known = ledger.latest_attempt(job_id)
    if known is None or known.attempt != attempt:
        return []
    events: list[Accepted | Made] = []
    if known.task_id is None and known.outcome in {Outcome.LIVE, Outcome.UNKNOWN}:
        events.append(Accepted(job_id=job_id, attempt=attempt, task_id=str(data["task_id"]), at=at, found=True))
    elif known.status is not Status.SUBMITTED:
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
                if _PREFIX in (text := _message(line)):
                    data = json.loads(text[text.index(_PREFIX) :])
                    yield {key: data[key] for key in _KEYS}
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError) as error:
        raise CommandError(
            f"{path} has a rescued line that is incomplete; a log of that run may have the same line. Repair or remove"
            " it, then try again."
        ) from error


def _message(line: str) -> str:
    """The message of a line, which may be a log record in JSON."""
    with suppress(ValueError):
        logged = json.loads(line)
        return str(logged.get("message", line)) if isinstance(logged, dict) else line
    return line
