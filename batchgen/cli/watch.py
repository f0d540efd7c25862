"""`batchgen status --watch`: shows the state of a run again and again, until it ends.

Each refresh opens the ledger for reading and closes it again: a reader that stays open would keep the run, when it
ends, from folding its write-ahead log into the file. The ledger is read only when one of its files has changed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from batchgen.cli import terminal
from batchgen.cli.outcome import checked
from batchgen.cli.progress import Rate
from batchgen.errors import BatchgenError
from batchgen.formatting import counted, duration, utc
from batchgen.jobs import LIVE, Status
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME
from batchgen.reports.status import as_text, cost, exit_code, not_started, status_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INTERVAL_SECONDS = 2.0
_IDLE, _MAX_IDLE_SECONDS = 10, 60.0  # wait ten times as long as a refresh took: a million jobs take a while
_UP_AND_CLEAR = "\x1b[{lines}F\x1b[J"

_Files: TypeAlias = list[tuple[int, int, int]]


class Watch:
    """Shows the state of the output `root`, every `interval` seconds while a run holds its lock."""

    def __init__(
        self,
        root: Path,
        *,
        interval: float | None = None,
        as_json: bool = False,
        unit: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._unit = unit
        self._interval = INTERVAL_SECONDS if interval is None else interval
        self._sleep = sleep
        on_terminal = sys.stdout.isatty()
        self._show = self._show_json if as_json else self._show_in_place if on_terminal else self._show_change
        self._rate = Rate(time.monotonic, window=max(120.0, 4 * self._interval))
        self._files: _Files = []  # as they were when the ledger was last read
        self._refreshes = 0
        self._lines_drawn = 0  # on the terminal
        self._last_line = ""

    def run(self) -> int:
        """Until no run is going; then as `status`: 1 when there are jobs without all their images, else 0."""
        data: dict[str, Any] = {}
        try:
            while True:
                began = time.monotonic()
                data = self._refresh(data)
                took = time.monotonic() - began
                self._show(data)
                if data["running"] is None:
                    return exit_code(data)
                self._refreshes += 1
                self._sleep(max(self._interval, min(_IDLE * took, _MAX_IDLE_SECONDS)))
        except KeyboardInterrupt:
            if self._lines_drawn:
                print()  # after the ^C that the terminal wrote
            return 130

    def _refresh(self, before: dict[str, Any]) -> dict[str, Any]:
        running = lock.holder(self._root)
        files = self._file_states()
        if before and files == self._files and running is not None:
            return before | {"running": running}
        try:
            data = status_report(self._root, self._unit)
        except BatchgenError:
            if running is None:
                raise
            # The run is just making the file, or folding its log: the next refresh will read it.
            return (before or not_started(self._root, self._unit)) | {"running": running}
        self._files = files
        self._rate.note(data["images"])
        return data

    def _file_states(self) -> _Files:
        """Inode, size and time of the ledger's files, which change when it is written to."""
        states = []
        for end in ("", "-wal"):
            with suppress(OSError):
                found = (self._root / f"{FILE_NAME}{end}").stat()
                states.append((found.st_ino, found.st_size, found.st_mtime_ns))
        return states

    # --- three ways to show it ----------------------------------------------------------------------------

    def _show_json(self, data: dict[str, Any]) -> None:
        rate, left = self._speed(data)
        line = {"time": utc(), **checked(ok=exit_code(data) == 0), **data}
        line["images_a_second"] = None if rate is None else round(rate, 3)
        line["seconds_left"] = None if left is None else round(left)
        print(json.dumps(line, ensure_ascii=False), flush=True)

    def _show_change(self, data: dict[str, Any]) -> None:
        """A line, where it differs from the last one."""
        jobs = ", ".join(f"{number} {status}" for status, number in data["jobs"].items()) or "nothing begun"
        line = f"{jobs}; {data['images']} images in place, {cost(data)}"
        if line != self._last_line:
            print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}", flush=True)
            self._last_line = line
        if data["running"] is None:
            print(self._end(data), flush=True)

    def _show_in_place(self, data: dict[str, Any]) -> None:
        """The status over the last one, cut to the terminal: a line that wraps would count as two to go up."""
        lines = as_text(data).splitlines()
        rate, left = self._speed(data)
        if data["running"] is None:
            lines.append(self._end(data))
        elif rate is not None:
            lines.append(f"  {rate:.2g} images a second" + (f", {duration(left)} left" if left else ""))
        size = shutil.get_terminal_size()
        shown = [terminal.cut(line, size.columns - 1) for line in lines[-(size.lines - 1) :]]
        if self._lines_drawn:
            terminal.write(terminal.beneath(sys.stdout), _UP_AND_CLEAR.format(lines=self._lines_drawn))
        print("\n".join(shown), flush=True)
        self._lines_drawn = len(shown)

    def _speed(self, data: dict[str, Any]) -> tuple[float | None, float | None]:
        """Images a second, and the seconds for the rest; None where too little is known."""
        rate = self._rate.a_second()
        return rate, data["images_to_come"] / rate if rate else None

    def _end(self, data: dict[str, Any]) -> str:
        what = "The run has ended" if self._refreshes else "No run is going"
        left = sum(data["jobs"].get(status, 0) for status in (Status.PENDING, *LIVE))
        rest = f"{counted(left, 'job')} left for the next run" if left else "nothing is left to do"
        return f"{what}: {rest}."
