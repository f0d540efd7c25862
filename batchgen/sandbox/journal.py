"""The journal of accepted tasks: one JSON line each, on disk before the answer leaves.

So a sandbox whose process was killed knows its tasks when it is started again, as a real gateway would.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError
from batchgen.sandbox.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.sandbox.rules import Order


class Journal:
    """An append-only file. One write a line, so that a kill tears at most the last one."""

    def __init__(
        self, path: Path, order_of: Callable[[dict[str, Any]], Order], *, keeps_callbacks: bool = True
    ) -> None:
        self._path = path
        self._order_of = order_of
        self._keeps_callbacks = keeps_callbacks
        self._file = -1

    def open(self) -> list[Task]:
        """Open for appending and give what was accepted before, oldest first.

        A torn last line is cut off: its create was never answered, and to the caller it never happened.
        Raises CommandError when the file cannot be opened or is no journal.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            content = self._path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(self._file, whole)
        except OSError as error:
            raise CommandError(
                f"The sandbox's state {self._path} cannot be opened: {error.strerror}. Name another file."
            ) from error
        return [self._read(number, line) for number, line in enumerate(content[:whole].splitlines(), 1)]

    def _read(self, number: int, line: bytes) -> Task:
        try:
            return Task.from_record(json.loads(line), self._order_of)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(
                f"Line {number} of {self._path} is no task of a sandbox; name another file as its state."
            ) from error

    def append(self, task: Task) -> None:
        """Write a task. It is with the kernel when this returns: a killed process loses nothing."""
        record = task.record()
        if not self._keeps_callbacks:
            record["body"] = {name: value for name, value in record["body"].items() if name != "callback_url"}
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
