"""Shows a run to people: a bar on a terminal, a line every half minute without one, JSON lines on request.

All of it goes to stderr, and a stderr that cannot be written stops nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from batchgen.app.observer import Observer
from batchgen.cli import terminal
from batchgen.formatting import duration
from batchgen.money import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from batchgen.engine.counters import Counters

BAR_INTERVAL = 0.25  # seconds between drawings
LINE_INTERVAL = 30.0  # seconds between lines
_BAR_CELLS = 8  # at least, where the terminal has 80 columns
_SHORTEST_NOTE = 12  # cells; a note that would be cut to less is left out
_WINDOW = 120.0  # seconds over which the rate is taken: images come in bursts, as tasks end together
_LEAST_SECONDS, _LEAST_IMAGES = 2.0, 3  # less than that is too little for a rate


class Rate:
    """Images a second over a moving window. `clock` is monotonic; `window` is in seconds."""

    def __init__(self, clock: Callable[[], float], *, window: float = _WINDOW) -> None:
        self._clock = clock
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, images: int) -> None:
        """Remember how many there are now."""
        now = self._clock()
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()
        self._seen.append((now, images))

    def a_second(self) -> float | None:
        """The rate; None while too little is known."""
        if not self._seen:
            return None
        (started, first), (now, last) = self._seen[0], self._seen[-1]
        if now - started < _LEAST_SECONDS or last - first < _LEAST_IMAGES:
            return None
        return (last - first) / (now - started)


class Progress(Observer):
    """Shows the counters during a run, and messages at any time."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        log_format: str = "text",
        stream: TextIO | None = None,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet = quiet
        self._as_json = log_format == "json"
        self._stream = terminal.beneath(sys.stderr) if stream is None else stream
        self._on_terminal = not self._as_json and self._stream.isatty()
        self.interval = interval or (BAR_INTERVAL if self._on_terminal else LINE_INTERVAL)
        self._rate = Rate(clock, window=max(_WINDOW, 4 * self.interval))
        self._bar: Any = None  # a tqdm bar that only shows a given position: its own timing does not matter

    def on_start(self, counters: Counters) -> None:
        self._rate.note(counters.images_done)
        if self._quiet or not self._on_terminal:
            return
        from tqdm import tqdm  # noqa: PLC0415 - 60 ms, only where a bar is drawn

        tqdm.monitor_interval = 0
        tqdm.set_lock(threading.RLock())  # its own would also take a semaphore for processes
        shape = "{percentage:3.0f}% {bar} {desc}"
        self._bar = tqdm(file=self._stream, total=1, dynamic_ncols=True, bar_format=shape)
        self.on_progress(counters)

    def on_progress(self, counters: Counters) -> None:
        if self._quiet:
            return
        self._rate.note(counters.images_done)
        rate = self._rate.a_second()
        if self._bar is not None:
            self._bar.total = max(counters.images_wanted, counters.images_done, 1)
            self._bar.n = counters.images_done
            self._bar.set_description_str(describe(counters, rate, width=self._width()), refresh=False)
            self._draw("refresh")
        elif self._as_json:
            self._line(terminal.record(level="info", event="progress", **facts(counters, rate)))
        else:
            self._line(describe(counters, rate))

    def on_end(self, counters: Counters) -> None:
        self.on_progress(counters)
        self._draw("close")
        self._bar = None

    def on_message(self, message: str, level: str = "info", **fields: object) -> None:
        """Write one message for the log, above the bar if there is one. Quiet leaves only an `error`."""
        if self._quiet and level != "error":
            return
        if self._as_json:
            self._line(terminal.record(level=level, message=message, **fields))
            return
        kind = "" if level == "info" else f"{level}: "
        more = "".join(f" {name}={value}" for name, value in fields.items())
        self._draw("clear")
        self._line(terminal.harmless(f"{kind}{message}{more}"))
        self._draw("refresh")

    def _width(self) -> int:
        """Cells for the words: percent and a bar of at least one cell stand before them; the last one stays free."""
        with suppress(OSError, ValueError):  # no terminal, or it is gone
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
            return columns - len("100%   ") - 1 - (_BAR_CELLS if columns >= 80 else 0)
        return 80

    def _line(self, text: str) -> None:
        with suppress(OSError, ValueError):  # its reader went away, or it was closed: the run goes on unseen
            terminal.write(self._stream, text + "\n")
            terminal.flush(self._stream)

    def _draw(self, action: str) -> None:
        if self._bar is not None:
            with suppress(OSError, ValueError):  # the terminal is gone: the run goes on unseen
                getattr(self._bar, action)()


# --- words --------------------------------------------------------------------------------------------------


def describe(counters: Counters, rate: float | None, *, width: int | None = None) -> str:
    """The counters in words, without those that are 0; beside a bar in `width` cells, the most important ones."""
    done, wanted = counters.images_done, counters.images_wanted
    left = seconds_left(counters, rate)
    has_unit = counters.unit is not None
    parts = {
        "images": f"{done} of {wanted} images" if width is None else f"{done}/{wanted}",
        "failed": f"{counters.jobs_failed} failed" if counters.jobs_failed else "",
        "slots": f"slots {counters.slots_in_use}/{counters.slots}" if counters.slots else "",
        "to fetch": f"{counters.images_to_fetch} to fetch" if counters.images_to_fetch else "",
        "refusals": f"{counters.refusals} refusals" if counters.refusals else "",
        "rate": f"{rate:.2g}/s" if rate is not None and rate < 10 else f"{rate:.0f}/s" if rate is not None else "",
        "left": f"{duration(left)} left" if left is not None else "",
        "cost": f"{plain(counters.cost)} {counters.unit or 'charged'}" if counters.cost and has_unit else "",
        "note": counters.note,
    }
    parts = {name: terminal.harmless(text) for name, text in parts.items() if text}
    return ", ".join(parts.values()) if width is None else _fitted(parts, width)


_FIRST = ("images", "left", "cost")  # what people look at first
_THEN = ("failed", "note", "slots", "refusals", "to fetch", "rate")


def _fitted(parts: dict[str, str], width: int) -> str:
    """What fits, in its order: closer together and shorter where not even the first parts do."""
    first = [name for name in _FIRST if name in parts]
    between = " · "
    if terminal.cells(between.join(parts[name] for name in first)) > width:
        between = " "
        parts = parts | {"left": parts.get("left", "").removesuffix(" left")}
    shown: list[str] = []
    for name in (*first, *(name for name in _THEN if name in parts)):
        room = width - terminal.cells(between.join([*(parts[each] for each in shown), ""]))
        if name == "note" and room >= _SHORTEST_NOTE:
            parts = parts | {"note": terminal.cut(parts["note"], room)}
        if not shown or terminal.cells(parts[name]) <= room:
            shown.append(name)
    return between.join(parts[name] for name in parts if name in shown)


def facts(counters: Counters, rate: float | None) -> dict[str, Any]:
    """The counters as data. `cost` is a decimal string, for sums must be exact."""
    left = seconds_left(counters, rate)
    return asdict(counters) | {
        "task_seconds": None if counters.task_seconds is None else round(counters.task_seconds, 1),
        "images_a_second": None if rate is None else round(rate, 3),
        "seconds_left": None if left is None else round(left),
        "cost": None if counters.cost is None or counters.unit is None else plain(counters.cost),
    }


def seconds_left(counters: Counters, rate: float | None) -> float | None:
    """How long the rest takes: at this rate, but not less than full slots need; None where neither is known.

    Failed jobs bring no images: the mean number of images of a job is taken off for each.
    """
    lost = counters.jobs_failed * counters.images_wanted / max(counters.jobs_wanted, 1)
    rest = counters.images_wanted - counters.images_done - lost
    if rest <= 0:
        return None
    # An image holds one slot for as long as its task takes.
    in_slots = (rest - counters.images_to_fetch) * (counters.task_seconds or 0.0) / max(counters.slots, 1)
    return max(rest / rate, in_slots) if rate else in_slots or None
