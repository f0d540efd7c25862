"""Stops a run early: who asked for it, why, and how long what is in flight may take.

A closed terminal sends SIGHUP, often twice (from the kernel and from the shell): it counts as SIGTERM, but never as the
second signal that quits at once. Where it was ignored at the start, as under nohup, it stays ignored.
"""

from __future__ import annotations

import asyncio
import os
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
    """A moment on a clock: the wall clock for a time of day, the monotonic one for a duration."""

    at: float  # seconds on that clock
    clock: Callable[[], float]

    def left(self) -> float:
        """Seconds until then; negative after it."""
        return self.at - self.clock()


class Interrupted(RunStopped):
    """A signal ended the run; `exit_code` is 128 plus the signal's number, as in shells."""

    reason_code = ReasonCode.INTERRUPTED

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class Signalled(KeyboardInterrupt):
    """A signal came while nothing was in flight: the command ends, as with Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__()


NAMES = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated", signal.SIGHUP: "The terminal was closed"}


def _stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a run."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in NAMES if number is not signal.SIGHUP or not ignored)


@contextmanager
def signals_raised() -> Iterator[None]:
    """While nothing is in flight, a signal that ends a run raises Signalled."""

    def raise_it(number: int, _frame: FrameType | None) -> None:
        raise Signalled(number)

    with _restored():
        for number in _stop_signals():
            if number is not signal.SIGINT:  # Python's own KeyboardInterrupt
                signal.signal(number, raise_it)
        yield


@contextmanager
def graceful_signals(
    stop: Stop,
    *,
    grace: float,
    consequence: str,
    notify: Callable[[str], None],
    before_exit: Callable[[int, str], None] | None = None,
) -> Iterator[None]:
    """While the running loop works, a signal stops sending and gives what is in flight `grace` seconds.

    A second Ctrl-C or SIGTERM ends the process at once, after `before_exit(exit_code, reason)`; `consequence` says what
    that costs. After the terminal was closed, its further signals are ignored.
    """
    loop = asyncio.get_running_loop()
    numbers = _stop_signals()
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        code, name = 128 + number, NAMES[number]
        is_second = any(each is not signal.SIGHUP for each in received)
        is_first = not received
        received.append(number)
        if number is signal.SIGHUP and not is_first:
            return
        if is_second:
            if before_exit is not None:
                before_exit(code, f"{name} twice: the run quit at once. Run again to go on.")
            os._exit(code)  # the ledger is whole at every moment
        stop.request(Interrupted(f"{name}. Run again to go on.", code), grace=grace)
        notify(
            f"{name}: nothing more is sent. Finishing what is in flight (up to {grace:g} s)."
            f" Press Ctrl-C again to quit now; {consequence}."
        )

    with _restored():
        for number in numbers:
            loop.add_signal_handler(number, on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
    if signal.SIGHUP in received:
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
    """A request to stop: the first reason stands, and a later request can only shorten the grace period.

    A part of the run that can end by itself (another account's scheduler) has a stop of its own: `child`.
    """

    def __init__(self) -> None:
        self.reason: BatchgenError | None = None
        self.asked = asyncio.Event()
        self._grace_over = asyncio.Event()
        self._children: list[Stop] = []

    def child(self) -> Stop:
        """A stop that follows this one; its own requests do not reach this one."""
        stop = Stop()
        self._children.append(stop)
        return stop

    @property
    def is_asked(self) -> bool:
        """Whether nothing new may start."""
        return self.reason is not None

    def request(self, reason: BatchgenError, *, grace: float | None) -> None:
        """Start nothing more; give what is in flight `grace` seconds, or all the time it needs where that is None.

        A signal replaces an earlier reason: it is what the user did last.
        """
        if self.reason is None or isinstance(reason, Interrupted):
            self.reason = reason
        if grace is not None:
            asyncio.get_running_loop().call_later(grace, self._grace_over.set)  # the earliest counts
        self.asked.set()
        for child in self._children:
            child.request(reason, grace=grace)

    async def grace_over(self) -> None:
        """Return when the grace period is over; never, while there is no limit."""
        await self._grace_over.wait()
