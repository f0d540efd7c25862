"""Many jobs' changes in one durable commit, without a timer.

Events that arrive during a commit go into the next one ("natural" group commit: 40,000 acknowledged changes a second
with `synchronous=FULL`, against 365 with a commit for each). Events are applied on the event loop's thread, because
the many small statements of a batch would switch between threads all the time; a thread of its own does what waits
for the disk: the commit, and then the moves of files that follow it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from batchgen.errors import DiskRefused, RunStopped
from batchgen.ledger.connection import BUSY_TIMEOUT
from batchgen.ledger.events import Intent
from batchgen.ledger.rescue import Rescue, must_be_kept
from batchgen.ledger.transitions import IllegalTransition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from batchgen.ledger.events import Event
    from batchgen.ledger.reserve import Reserve
    from batchgen.ledger.store import Ledger

_LAST_BUSY_TIMEOUT = 5.0  # seconds
_MAX_BATCH = 100  # entries: to apply them blocks the event loop for some milliseconds


@dataclass(slots=True)
class _Entry:
    events: tuple[Event, ...]
    after_commit: Callable[[], None] | None
    done: asyncio.Future[None]
    failure: BaseException | None = None

    def acknowledge(self) -> None:
        if self.done.done():
            return
        if self.failure is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.failure)

    def run_after_commit(self) -> None:
        """The events are on disk: run what follows."""
        if self.after_commit is not None:
            try:
                self.after_commit()
            except BaseException as error:  # noqa: BLE001 - the waiting task raises it
                self.failure = error


class Writer:
    """Takes events from the event loop's thread; they are on disk when `record` returns."""

    def __init__(
        self,
        ledger: Ledger,
        reserve: Reserve | None = None,
        rescue: Rescue | None = None,
        *,
        on_refusal: Callable[[RunStopped], None] = lambda _: None,
    ) -> None:
        """`on_refusal` is called once, in the event loop's thread, when the disk is full but for the reserve."""
        self._ledger = ledger
        self._on_refusal = on_refusal
        self._reserve = reserve
        self._rescue = Rescue(lambda _: None) if rescue is None else rescue
        self._refused: DiskRefused | None = None  # from then on no attempt is begun
        self._unrecorded: list[_Entry] = []
        self._waiting: list[_Entry] = []
        self._has_entries = asyncio.Event()
        self._closing = False
        self._group = asyncio.TaskGroup()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batchgen-ledger")

    async def __aenter__(self) -> Self:
        self._ledger.set_busy_timeout(0)
        await self._group.__aenter__()
        self._group.create_task(self._keep_writing(), name="ledger")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._has_entries.set()
        # The group gets no error: it would cancel what is still to be written.
        await self._group.__aexit__(None, None, None)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._record_unrecorded)
        self._thread.shutdown()
        self._rescue.report()
        self._ledger.set_busy_timeout(BUSY_TIMEOUT)

    def check_accepts(self) -> None:
        """Raise RunStopped where the disk is full: the reserve is for answers, not for new files."""
        if self._refused is not None:
            raise self._refused

    async def record(self, *events: Event, after_commit: Callable[[], None] | None = None) -> None:
        """Return when the events are on disk; they are applied together or not at all.

        `after_commit` is called after that, in the writer's thread. Both happen also when the caller is cancelled
        while it waits. Raises RunStopped where the disk refuses, and what `after_commit` raises.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(events, after_commit, done))
        self._has_entries.set()
        await done

    async def _keep_writing(self) -> None:
        while True:
            await self._has_entries.wait()
            self._has_entries.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                before = self._refused
                await self._write(batch)
                if self._refused is not None and before is None:
                    self._on_refusal(self._refused)
                for entry in batch:
                    entry.acknowledge()
            if self._closing:
                return

    async def _write(self, batch: Sequence[_Entry]) -> None:
        write = self._record_one_by_one
        if self._refused is None:
            # What fails here fails again below, where each entry gets its own error.
            with suppress(Exception):
                self._ledger.stage(event for entry in batch for event in entry.events)
                write = self._finish
        await asyncio.get_running_loop().run_in_executor(self._thread, write, batch)

    # --- what follows runs in the thread --------------------------------------------------------------------

    def _finish(self, batch: Sequence[_Entry]) -> None:
        try:
            self._ledger.commit()
        except Exception:  # noqa: BLE001 - as above
            self._record_one_by_one(batch)
        else:
            for entry in batch:
                entry.run_after_commit()

    def _record_one_by_one(self, batch: Sequence[_Entry]) -> None:
        """Give each entry its own error: a defect, or a value that no row can hold, fails no other.

        Wait once for a program that locks the file for a moment, as a backup does; do not wait for a full disk.
        """
        self._ledger.set_busy_timeout(0 if self._refused else BUSY_TIMEOUT)
        for entry in batch:
            self._record_entry(entry)
            if isinstance(entry.failure, RunStopped):
                self._ledger.set_busy_timeout(0)
                if must_be_kept(entry.events):
                    self._unrecorded.append(entry)
                    self._rescue.add(entry.events)
        self._ledger.set_busy_timeout(0)

    def _record_entry(self, entry: _Entry) -> None:
        """Record an answer with the space that the reserve frees, where it needs that; begin no attempt with it."""
        begins = any(isinstance(event, Intent) for event in entry.events)
        while not (begins and self._refused):
            try:
                self._ledger.record(entry.events)
            except DiskRefused as error:
                self._refused = entry.failure = error
                if begins or self._reserve is None or not self._reserve.release():
                    return
            except BaseException as error:  # noqa: BLE001 - the waiting task raises it
                entry.failure = error
                return
            else:
                entry.failure = None
                entry.run_after_commit()
                return
        entry.failure = self._refused

    def _record_unrecorded(self) -> None:
        """At the end of the run the disk may have space again, or the file be unlocked."""
        if not self._unrecorded:
            return
        self._ledger.set_busy_timeout(_LAST_BUSY_TIMEOUT)
        try:
            for entry in self._unrecorded:
                self._ledger.record(entry.events)
        except (RunStopped, IllegalTransition):
            return  # the rescue reports all; nothing is adopted twice
        self._rescue.discard()
