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
from typing import TYPE_CHECKING, Self

from batchgen.errors import RunStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from batchgen.ledger.events import Event
    from batchgen.ledger.store import Ledger

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


class Writer:
    """Takes events from the event loop's thread; what `record` returned from is on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[_Entry] = []
        self._news = asyncio.Event()
        self._closing = False
        self._group = asyncio.TaskGroup()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batchgen-ledger")

    async def __aenter__(self) -> Self:
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
        self._thread.shutdown()

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
                await self._write(batch)
                for entry in batch:
                    entry.acknowledge()
            if self._closing:
                return

    async def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            self._ledger.stage(event for entry in batch for event in entry.events)
        except RunStopped as error:
            for entry in batch:
                entry.failure = error
        except BaseException as error:  # noqa: BLE001 - carried over to the waiting task, which raises it
            if len(batch) == 1:
                batch[0].failure = error
                return
            for entry in batch:  # nobody suffers for another's defect, or for a value that no row can hold
                await self._write([entry])
        else:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._finish, batch)

    def _finish(self, batch: Sequence[_Entry]) -> None:
        """Runs in the thread."""
        try:
            self._ledger.commit()
        except BaseException as error:  # noqa: BLE001 - as above
            for entry in batch:
                entry.failure = error
            return
        for entry in batch:
            if entry.then is not None:
                try:
                    entry.then()
                except BaseException as error:  # noqa: BLE001 - as above
                    entry.failure = error
