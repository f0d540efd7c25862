"""The ledger's writing thread: many jobs' changes in one durable commit, without a timer.

Whatever gathers while the last commit runs goes into the next one ("natural" group commit): at rest an
acknowledgement is one sync of the disk, under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Self

from batchgen.ledger.transitions import IllegalTransition

if TYPE_CHECKING:
    from types import TracebackType

    from batchgen.ledger.events import Event
    from batchgen.ledger.store import Ledger

_LARGEST_COMMIT = 2000

_Entry = tuple[tuple["Event", ...], "asyncio.Future[None]"]


class Writer:
    """Takes events from the event loop's thread; what `record` returned from is on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="batchgen-ledger", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entries.put(None)
        await asyncio.to_thread(self._thread.join)

    async def record(self, *events: Event) -> None:
        """Return when the events are on disk; they are applied together or not at all.

        Being cancelled while waiting does not take them back. Raises RunStopped where the disk refuses.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._entries.put((events, done))
        await done

    def _write(self) -> None:
        while (first := self._entries.get()) is not None:
            batch = [first]
            ending = False
            while len(batch) < _LARGEST_COMMIT:
                try:
                    entry = self._entries.get_nowait()
                except queue.Empty:
                    break
                if entry is None:
                    ending = True
                    break
                batch.append(entry)
            self._commit(batch)
            if ending:
                return

    def _commit(self, batch: list[_Entry]) -> None:
        failure: BaseException | None = None
        try:
            self._ledger.record(event for events, _ in batch for event in events)
        except IllegalTransition as error:
            failure = error
            if len(batch) > 1:  # nobody suffers for another's defect
                for entry in batch:
                    self._commit([entry])
                return
        except BaseException as error:  # noqa: BLE001 - carried over to the waiting tasks, which raise it
            failure = error
        waiting = [done for _, done in batch]
        waiting[0].get_loop().call_soon_threadsafe(_acknowledge, waiting, failure)


def _acknowledge(waiting: list[asyncio.Future[None]], failure: BaseException | None) -> None:
    for done in waiting:
        if done.done():
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)
