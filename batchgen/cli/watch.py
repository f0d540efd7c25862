"""`batchgen status --watch`: looks at a run again and again, until it ends.

Each look opens the ledger for reading and closes it again: a reader that stays would keep the run, when it ends, from
folding its write-ahead log into the file. The ledger is read only when one of its files has changed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from batchgen.cli import terminal
from batchgen.cli.progress import Rate
from batchgen.cli.status_report import as_text, cost, exit_code, head, nothing_begun, standing
from batchgen.errors import BatchgenError
from batchgen.formatting import duration
from batchgen.jobs import LIVE, Status
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INTERVAL_SECONDS = 2.0
_IDLE, _MOST_IDLE_SECONDS = 10, 60.0  # times as long as a look took, for to count a million jobs takes a while
_BACK_AND_CLEAR = "\x1b[{lines}F\x1b[J"

_Files: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Watch:
    """Shows how the output `root` stands, every `interval` seconds while a run holds its lock.

    `clock` is monotonic.
    """

    def __init__(
        self,
        root: Path,
        *,
        interval: float | None = None,
        as_json: bool = False,
        unit: str = "",
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._unit = unit
        self._interval = INTERVAL_SECONDS if interval is None else interval
        self._sleep = sleep
        self._clock = clock
        on_terminal = sys.stdout.isatty()
        self._show = self._show_json if as_json else self._show_in_place if on_terminal else self._show_change
        self._rate = Rate(clock, window=max(120.0, 4 * self._interval))
        self._files: _Files = ()  # as they were at the latest look into the ledger
        self._looks = 0
        self._drawn = 0  # lines on the terminal
        self._said = ""

    def run(self) -> int:
        """Until no run is going; then as `status`: 1 when there are jobs without all their images, else 0."""
        data: dict[str, Any] = {}
        try:
            while True:
                began = self._clock()
                data = self._look(data)
                took = self._clock() - began
                self._show(data)
                if data["running"] is None:
                    return exit_code(data)
                self._looks += 1
                self._sleep(max(self._interval, min(_IDLE * took, _MOST_IDLE_SECONDS)))
        except KeyboardInterrupt:
            if self._drawn:
                print()  # behind the ^C that the terminal wrote
            return 130

    def _look(self, before: dict[str, Any]) -> dict[str, Any]:
        running = lock.holder(self._root)
        files = self._changed()
        if before and files == self._files and running is not None:
            return before | {"running": running}
        try:
            data = standing(self._root, self._unit)
        except BatchgenError:
            if running is None:
                raise
            # The run is just making the file, or folding it: the next look will do.
            return (before or nothing_begun(self._root, self._unit)) | {"running": running}
        self._files = files
        self._rate.note(data["images"])
        return data

    def _changed(self) -> _Files:
        """What tells that the ledger was written to."""
        return tuple(_identity(self._root / f"{FILE_NAME}{end}") for end in ("", "-wal"))

    # --- three ways to show it ----------------------------------------------------------------------------

    def _show_json(self, data: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rate, left = self._speed(data)
        speed = {
            "images_a_second": None if rate is None else round(rate, 3),
            "seconds_left": None if left is None else round(left),
        }
        print(json.dumps({"time": now, **head(data), **data, **speed}, ensure_ascii=False), flush=True)

    def _show_change(self, data: dict[str, Any]) -> None:
        """A line, where anything else is to be said than in the last one."""
        jobs = ", ".join(f"{number} {status}" for status, number in data["jobs"].items()) or "nothing begun"
        line = f"{jobs}; {data['images']} images in place, {cost(data)} spent or in flight"
        if line != self._said:
            print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}", flush=True)
            self._said = line
        if data["running"] is None:
            print(self._end(data), flush=True)

    def _show_in_place(self, data: dict[str, Any]) -> None:
        """The status where it stood before, cut to the terminal: a line that wraps would be two to go back."""
        lines = as_text(data).splitlines()
        rate, left = self._speed(data)
        if data["running"] is not None and rate is not None:
            lines.append(f"  {rate:.2g} images a second" + (f", {duration(left)} left" if left else ""))
        if data["running"] is None:
            lines.append(self._end(data))
        size = shutil.get_terminal_size()
        shown = [line[: size.columns - 1] for line in lines[-(size.lines - 1) :]]
        if self._drawn:
            terminal.write(terminal.beneath(sys.stdout), _BACK_AND_CLEAR.format(lines=self._drawn))
        print("\n".join(shown), flush=True)
        self._drawn = len(shown)

    def _speed(self, data: dict[str, Any]) -> tuple[float | None, float | None]:
        """Images a second, and the seconds that the rest takes; None where too little is known."""
        rate = self._rate.a_second()
        return rate, data.get("images_to_come", 0) / rate if rate else None

    def _end(self, data: dict[str, Any]) -> str:
        what = "The run has ended" if self._looks else "No run is going"
        left = sum(data["jobs"].get(status, 0) for status in (Status.PENDING, *LIVE))
        if not left:
            return f"{what}: nothing changes any more."
        return f"{what}: {left} {'job is' if left == 1 else 'jobs are'} left, which the next run goes on with."


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
