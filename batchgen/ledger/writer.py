"""Many jobs' changes in one durable commit, without a timer.

Whatever gathers while the last commit is under way goes into the next one ("natural" group commit): at rest an
acknowledgement is one sync of the disk, under load batches grow by themselves. Events are applied on the event
loop's thread, for the many small statements of a batch would else hand the interpreter back and forth with it; a
thread of its own does what waits for the disk: the commit, and then the moves of files that were waiting for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from batchgen.errors import DiskRefused, RunStopped
from batchgen.ledger.connection import PATIENCE_SECONDS
from batchgen.ledger.events import Intent
from batchgen.ledger.rescue import Rescue, is_worth_it
from batchgen.ledger.transitions import IllegalTransition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from batchgen.ledger.events import Event
    from batchgen.ledger.reserve import Reserve
    from batchgen.ledger.store import Ledger

_LAST_PATIENCE_SECONDS = 5.0
_LARGEST_COMMIT = 100  # entries: to apply them takes some milliseconds, in which nothing else happens


@dataclass(slots=True)
class _Entry:
    events: tuple[Event, ...]
    then: Callable[[], None] | None
    done: asyncio.Future[None]
    failure: BaseException | None = None

    def acknowledge(self) -> None:
        if self.done.done():
            return
        if self.failure is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.failure)

    def follow(self) -> None:
        """It is on disk: do what was waiting for that."""
        if self.then is not None:
            try:
                self.then()
            except BaseException as error:  # noqa: BLE001 - carried over to the waiting task, which raises it
                self.failure = error


class Writer:
    """Takes events from the event loop's thread; what `record` returned from is on disk."""

    def __init__(
        self,
        ledger: Ledger,
        reserve: Reserve | None = None,
        rescue: Rescue | None = None,
        *,
        on_refusal: Callable[[RunStopped], None] = lambda _: None,
    ) -> None:
        """`on_refusal` is told, in the event loop's thread, once the disk takes nothing without the reserve."""
        self._ledger = ledger
        self._on_refusal = on_refusal
        self._reserve = reserve
        self._rescue = Rescue(lambda _: None) if rescue is None else rescue
        self._refused: DiskRefused | None = None  # from then on nothing new is begun
        self._unkept: list[_Entry] = []
        self._waiting: list[_Entry] = []
        self._news = asyncio.Event()
        self._closing = False
        self._group = asyncio.TaskGroup()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batchgen-ledger")

    async def __aenter__(self) -> Self:
        self._ledger.wait_at_most(0)
        await self._group.__aenter__()
        self._group.create_task(self._keep_writing(), name="ledger")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._news.set()
        # The group is told of no error: it would cancel what is still to be written.
        await self._group.__aexit__(None, None, None)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._try_once_more)
        self._thread.shutdown()
        self._rescue.tell()
        self._ledger.wait_at_most(PATIENCE_SECONDS)

    def check_takes(self) -> None:
        """Raise RunStopped where the ledger has refused something: what is free on the disk is for what is in hand."""
        if self._refused is not None:
            raise self._refused

    async def record(self, *events: Event, then: Callable[[], None] | None = None) -> None:
        """Return when the events are on disk; they are applied together or not at all.

        `then` is called after that, in the thread that waits for the disk. Being cancelled while waiting takes
        neither back. Raises RunStopped where the disk refuses, and what `then` raises.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(events, then, done))
        self._news.set()
        await done

    async def _keep_writing(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:_LARGEST_COMMIT], self._waiting[_LARGEST_COMMIT:]
                before = self._refused
                await self._write(batch)
                if self._refused is not None and before is None:
                    self._on_refusal(self._refused)
                for entry in batch:
                    entry.acknowledge()
            if self._closing:
                return

    async def _write(self, batch: Sequence[_Entry]) -> None:
        if self._refused is not None:
            await self._in_thread(partial(self._insist, refusal=self._refused), batch)
            return
        try:
            self._ledger.stage(event for entry in batch for event in entry.events)
        except RunStopped:
            await self._in_thread(self._stage_with_patience, batch)
        except BaseException as error:  # noqa: BLE001 - carried over to the waiting task, which raises it
            if len(batch) == 1:
                batch[0].failure = error
                return
            for entry in batch:  # nobody suffers for another's defect, or for a value that no row can hold
                await self._write([entry])
        else:
            await self._in_thread(self._finish, batch)

    async def _in_thread(self, write: Callable[[Sequence[_Entry]], None], batch: Sequence[_Entry]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, write, batch)

    # --- what follows runs in the thread --------------------------------------------------------------------

    def _finish(self, batch: Sequence[_Entry]) -> None:
        try:
            self._ledger.commit()
        except RunStopped:
            self._stage_with_patience(batch)
        except BaseException as error:  # noqa: BLE001 - as above
            for entry in batch:
                entry.failure = error
        else:
            for entry in batch:
                entry.follow()

    def _stage_with_patience(self, batch: Sequence[_Entry]) -> None:
        """A program that holds the file for a moment, as a backup does, is waited for; a full disk is not."""
        refusal: RunStopped | None = None
        self._ledger.wait_at_most(PATIENCE_SECONDS)
        try:
            self._ledger.record(event for entry in batch for event in entry.events)
        except RunStopped as error:
            refusal = error
            if isinstance(error, DiskRefused):
                self._refused = error
        except BaseException:  # noqa: BLE001, S110 - below it is found out whose it is
            pass
        else:
            for entry in batch:
                entry.follow()
            return
        finally:
            self._ledger.wait_at_most(0)
        self._insist(batch, refusal)

    def _insist(self, batch: Sequence[_Entry], refusal: RunStopped | None) -> None:
        """Keep what is in hand, with what the reserve gives back to the disk; begin nothing new."""
        for entry in batch:
            if refusal is not None and any(isinstance(event, Intent) for event in entry.events):
                entry.failure = refusal
                continue
            self._record_with_reserve(entry)
            if isinstance(entry.failure, RunStopped) and is_worth_it(entry.events):
                self._unkept.append(entry)
                self._rescue.add(entry.events)

    def _record_with_reserve(self, entry: _Entry) -> None:
        while True:
            try:
                self._ledger.record(entry.events)
            except DiskRefused as error:
                if self._reserve is None or not self._reserve.release():
                    entry.failure = error
                    return
            except BaseException as error:  # noqa: BLE001 - as above
                entry.failure = error
                return
            else:
                entry.follow()
                return

    def _try_once_more(self) -> None:
        """At the end of the run the disk may have room again, or the file be free."""
        if not self._unkept:
            return
        self._ledger.wait_at_most(_LAST_PATIENCE_SECONDS)
        try:
            for entry in self._unkept:
                self._ledger.record(entry.events)
        except (RunStopped, IllegalTransition):  # all of it is told; what is in the ledger is not taken in twice
            return
        self._rescue.forget()
