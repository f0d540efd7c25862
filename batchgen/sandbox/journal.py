"""The journal of accepted tasks: one JSON line each, written before the answer is sent.

A sandbox whose process was killed knows its tasks again at the next start, as a real gateway would. The lines are not
synced: after a power cut the last ones may be missing, and to a run those tasks never existed.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError
from batchgen.sandbox.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.sandbox.tasks import CreateRequest


class Journal:
    """An append-only file. A line is one write, so a kill tears at most the last one."""

    def __init__(self, path: Path, *, keep_callbacks: bool = True) -> None:
        self._path = path
        self._keep_callbacks = keep_callbacks
        self._file = -1

    def open(self, request_of: Callable[[dict[str, Any]], CreateRequest]) -> list[Task]:
        """Open for appending; the tasks of earlier starts, oldest first.

        A torn last line is cut off: its create was never answered. Raises CommandError when the file cannot be opened
        or is no journal.
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
                f"Cannot open the sandbox's state file {self._path}: {error.strerror}. Name another file."
            ) from error
        tasks = []
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                tasks.append(Task.from_record(json.loads(line), request_of))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CommandError(
                    f"Line {number} of {self._path} is not a task of the sandbox. Name another file as its state."
                ) from error
        return tasks

    def append(self, task: Task) -> None:
        """Write a task. The operating system has it when this returns, so a killed process loses nothing."""
        record = task.to_record()
        if not self._keep_callbacks:
            record["body"] = {name: value for name, value in record["body"].items() if name != "callback_url"}
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
