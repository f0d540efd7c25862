"""The end of a run before its time: who asked for it, why, and how long what is in flight may take.

A terminal that is closed sends SIGHUP, often twice (by the kernel and by the shell): it is as SIGTERM, but never the
second signal that leaves at once. Where it was ignored at the start, as under nohup, it stays ignored.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import ReasonCode, RunStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from batchgen.errors import BatchgenError


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """A moment by a clock: the wall's for a time of day, the monotonic one for a duration."""

    at: float  # seconds, as the clock gives them
    clock: Callable[[], float]

    def left(self) -> float:
        """Seconds until then; negative after it."""
        return self.at - self.clock()


class Interrupted(RunStopped):
    """A signal ended the run; `exit_code` is 128 and the signal's number, as shells have it."""

    reason_code = ReasonCode.INTERRUPTED

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class Signalled(KeyboardInterrupt):
    """A signal came while nothing was in flight: the command ends, as by Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__()


NAMES = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated", signal.SIGHUP: "The terminal was closed"}


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that end a run."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in NAMES if number is not signal.SIGHUP or not ignored)


@contextmanager
def signals_raised() -> Iterator[None]:
    """While nothing is in flight, a signal that ends a run raises Signalled."""

    def raise_it(number: int, _frame: FrameType | None) -> None:
        raise Signalled(number)

    with _restored():
        for number in heeded():
            if number is not signal.SIGINT:  # Python's own KeyboardInterrupt
                signal.signal(number, raise_it)
        yield


@contextmanager
def signals_told(told: Callable[[signal.Signals], None]) -> Iterator[None]:
    """While the running loop works, a signal that ends a run is told of between two of its steps.

    Once the terminal is closed, its further signals are for nobody.
    """
    loop = asyncio.get_running_loop()
    numbers = heeded()
    closed = False

    def tell(number: signal.Signals) -> None:
        nonlocal closed
        closed = closed or number is signal.SIGHUP
        told(number)

    with _restored():
        for number in numbers:
            loop.add_signal_handler(number, tell, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
    if closed:
        signal.signal(signal.SIGHUP, lambda *_: None)


@contextmanager
def _restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NAMES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Set by whoever comes first; a later request may only shorten what is in flight.

    A part of the run that can end by itself (another account's lane) has a stop of its own: `child`.
    """

    def __init__(self) -> None:
        self.reason: BatchgenError | None = None
        self.asked = asyncio.Event()
        self._ends: float | None = None  # by the loop's clock; None: what is in flight is finished
        self._shortened = asyncio.Event()
        self._children: list[Stop] = []

    def child(self) -> Stop:
        """A stop that obeys this one, and whose own requests stay its own."""
        stop = Stop()
        self._children.append(stop)
        return stop

    @property
    def is_asked(self) -> bool:
        """Whether nothing new is to be begun."""
        return self.reason is not None

    def request(self, reason: BatchgenError, *, grace: float | None) -> None:
        """Begin nothing more; give what is in flight `grace` seconds, or all the time it needs.

        A signal is the reason even where there was another one: it is what the user did last.
        """
        if self.reason is None or isinstance(reason, Interrupted):
            self.reason = reason
        if grace is not None:
            ends = asyncio.get_running_loop().time() + grace
            if self._ends is None or ends < self._ends:
                self._ends = ends
                shortened, self._shortened = self._shortened, asyncio.Event()
                shortened.set()
        self.asked.set()
        for child in self._children:
            child.request(reason, grace=grace)

    async def grace_over(self) -> None:
        """Return when what is in flight has had its time; never, while it may take all it needs."""
        while True:
            left = None if self._ends is None else max(0.0, self._ends - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(left):
                    await self._shortened.wait()
            except TimeoutError:
                return
