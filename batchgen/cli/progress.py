"""How a run stands, for whoever watches: a bar on a terminal, a line now and then without one, JSON on request.

An observer: the engine adds to plain counters and never waits for anything here; one task looks at them
a few times a second. All of it goes to stderr, and a stderr that cannot be written ends nothing.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

from batchgen.cli import terminal
from batchgen.durations import duration
from batchgen.money import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import TextIO

    from batchgen.engine.counters import Counters

BAR_INTERVAL = 0.25  # seconds between drawings
LINE_INTERVAL = 30.0  # seconds between lines
_WINDOW = 120.0  # seconds over which the rate is taken: images come in bursts, as tasks end together
_LEAST_SECONDS, _LEAST_IMAGES = 2.0, 3  # before that a rate would be chance


class LogFormat(StrEnum):
    """How lines are written."""

    TEXT = "text"
    JSON = "json"


class Rate:
    """Images a second over a moving window."""

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
        """The rate; None before there is enough to say."""
        if not self._seen:
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        if now - began < _LEAST_SECONDS or last - first < _LEAST_IMAGES:
            return None
        return (last - first) / (now - began)


class _View(Protocol):
    """A way to show the counters."""

    def show(self, counters: Counters, rate: float | None) -> None: ...

    def line(self, text: str) -> None:
        """Write a line of its own."""

    def close(self) -> None: ...


class Progress:
    """Shows the counters while it is entered; `say` writes a line at any time.

    `interval` is in seconds; `clock` is monotonic. They and `sleep` are arguments so that tests do not wait.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        quiet: bool = False,
        log_format: LogFormat = LogFormat.TEXT,
        stream: TextIO | None = None,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counters = counters
        self._quiet = quiet
        self._format = LogFormat(log_format)  # as it comes from a command line
        self._stream = terminal.beneath(sys.stderr) if stream is None else stream
        self._on_terminal = self._format is LogFormat.TEXT and self._stream.isatty()
        self._interval = interval or (BAR_INTERVAL if self._on_terminal else LINE_INTERVAL)
        self._sleep = sleep
        self._rate = Rate(clock, window=max(_WINDOW, 4 * self._interval))
        self._view: _View = _Lines(self._stream, self._format)
        self._watch: asyncio.Task[None] | None = None
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        if self._quiet:
            return self
        self._rate.note(self.counters.images_done)
        if self._on_terminal:
            self._view = _Bar(self._stream)
            self._show()
        await self._group.__aenter__()
        self._watch = self._group.create_task(self._look(), name="progress")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is None:
            return
        self._watch.cancel()
        self._watch = None
        # The group is told of no error: it would wrap it, and its only child is ended already.
        await self._group.__aexit__(None, None, None)
        self._show()
        self._view.close()
        self._view = _Lines(self._stream, self._format)

    def say(self, message: str, level: str = "info", **fields: object) -> None:
        """Write one message for the log, above the bar if there is one. Quiet leaves only an `error`."""
        if self._quiet and level != "error":
            return
        if self._format is LogFormat.JSON:
            self._view.line(terminal.record(level=level, message=message, **fields))
            return
        kind = "" if level == "info" else f"{level}: "
        more = "".join(f" {name}={value}" for name, value in fields.items())
        self._view.line(terminal.harmless(f"{kind}{message}{more}"))

    async def _look(self) -> None:
        while True:
            await self._sleep(self._interval)
            self._show()

    def _show(self) -> None:
        self._rate.note(self.counters.images_done)
        self._view.show(self.counters, self._rate.a_second())


# --- views --------------------------------------------------------------------------------------------------


class _Lines:
    """Plain lines, or JSON ones."""

    def __init__(self, stream: TextIO, log_format: LogFormat) -> None:
        self._stream = stream
        self._format = log_format

    def show(self, counters: Counters, rate: float | None) -> None:
        if self._format is LogFormat.JSON:
            self.line(terminal.record(level="info", event="progress", **facts(counters, rate)))
        else:
            self.line(describe(counters, rate))

    def line(self, text: str) -> None:
        try:
            terminal.write(self._stream, text + "\n")
            terminal.flush(self._stream)
        except (OSError, ValueError):  # its reader went away, or it was closed: the run goes on unseen
            return

    def close(self) -> None:
        """Nothing to end."""


class _Bar:
    """A tqdm bar that is only ever told where it stands: its own timing and its monitor thread are not used."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - 60 ms, only where a bar is drawn

        tqdm.monitor_interval = 0
        tqdm.set_lock(threading.RLock())  # its own would also take a semaphore for processes
        self._stream = stream
        self._bar = tqdm(file=stream, total=1, dynamic_ncols=True, bar_format="{percentage:3.0f}% {bar} {desc}")

    def show(self, counters: Counters, rate: float | None) -> None:
        self._bar.total = max(counters.images_wanted, counters.images_done, 1)
        self._bar.n = counters.images_done
        self._bar.set_description_str(describe(counters, rate, short=True), refresh=False)
        self._draw(self._bar.refresh)

    def line(self, text: str) -> None:
        self._draw(self._bar.clear)
        _Lines(self._stream, LogFormat.TEXT).line(text)
        self._draw(self._bar.refresh)

    def close(self) -> None:
        self._draw(self._bar.close)

    def _draw(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError):  # the terminal is gone: the run goes on unseen
            return


# --- words --------------------------------------------------------------------------------------------------


def describe(counters: Counters, rate: float | None, *, short: bool = False) -> str:
    """The counters in words; what is nothing is left out. `short` is for beside a bar."""
    parts = [
        f"{counters.images_done}/{counters.images_wanted}" if short else _images(counters),
        f"{counters.jobs_failed} failed" if counters.jobs_failed else "",
        f"slots {counters.slots_in_use}/{counters.slots}" if counters.slots else "",
        f"{counters.images_to_fetch} to fetch" if counters.images_to_fetch else "",
        f"{counters.refusals} refusals" if counters.refusals else "",
        f"{rate:.2g}/s" if rate is not None and rate < 10 else f"{rate:.0f}/s" if rate is not None else "",
        f"{duration(left)} left" if (left := seconds_left(counters, rate)) is not None else "",
        f"{plain(counters.cost)} {counters.unit or 'charged'}" if counters.cost else "",
        counters.note,
    ]
    return terminal.harmless((" · " if short else ", ").join(filter(None, parts)))


def _images(counters: Counters) -> str:
    return f"{counters.images_done} of {counters.images_wanted} images"


def facts(counters: Counters, rate: float | None) -> dict[str, Any]:
    """The counters as data. `cost` is a decimal string, for sums must be exact."""
    left = seconds_left(counters, rate)
    return {
        "images_done": counters.images_done,
        "images_wanted": counters.images_wanted,
        "images_to_fetch": counters.images_to_fetch,
        "jobs_done": counters.jobs_done,
        "jobs_failed": counters.jobs_failed,
        "jobs_wanted": counters.jobs_wanted,
        "slots_in_use": counters.slots_in_use,
        "slots": counters.slots,
        "waiting": counters.waiting,
        "task_seconds": None if counters.task_seconds is None else round(counters.task_seconds, 1),
        "refusals": counters.refusals,
        "images_a_second": None if rate is None else round(rate, 3),
        "seconds_left": None if left is None else round(left),
        "cost": None if counters.cost is None else plain(counters.cost),
        "unit": counters.unit,
        "note": counters.note,
    }


def seconds_left(counters: Counters, rate: float | None) -> float | None:
    """How long the rest takes: at this rate, but not less than full slots need; None where neither is known.

    Jobs that failed bring no images: as many are taken off as a job has on the average.
    """
    lost = counters.jobs_failed * counters.images_wanted / max(counters.jobs_wanted, 1)
    rest = counters.images_wanted - counters.images_done - lost
    if rest <= 0:
        return None
    # An image holds one slot for as long as its task takes.
    in_slots = (rest - counters.images_to_fetch) * (counters.task_seconds or 0.0) / max(counters.slots, 1)
    return max(rest / rate, in_slots) if rate else in_slots or None
