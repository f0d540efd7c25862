"""Callbacks that are lost, repeated, late, in disorder or forged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.sandbox.callbacks import Callbacks
from batchgen.sandbox.faults.table import Act

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.sandbox.tasks import Task

_DELAY = 1000  # milliseconds after the task's end


class FaultyCallbacks(Callbacks):
    """`next_act` gives the fault of the next callback, or None."""

    def __init__(
        self,
        clock: Callable[[], int],
        body_of: Callable[[Task, int], bytes],
        next_act: Callable[[], Act | None],
    ) -> None:
        super().__init__(clock, body_of)
        self._next_act = next_act

    async def send_changes(self, task: Task, moments: list[int]) -> None:
        """Wait for each change, and send its callback as the fault wants it."""
        swapped: list[bytes] = []  # sent after the callback that follows them
        for moment in moments:
            await self.sleep_until(moment)
            act = self._next_act()
            body = self.body_of(task, moment)
            if act is Act.SWAP:
                await self.post(task, *swapped)
                swapped = [body]
                continue
            if act is Act.DELAY:
                self.start(self._send_late(task, body))
            await self.post(task, *self._bodies(act, task, moment, body), *swapped)
            swapped = []
        await self.post(task, *swapped)

    def _bodies(self, act: Act | None, task: Task, moment: int, body: bytes) -> list[bytes]:
        match act:
            case Act.LOSE | Act.DELAY:
                return []
            case Act.REPEAT:
                return [body, body]
            case Act.INVENT:
                return [self.body_of(replace(task, id=f"{task.id}0"), task.ends_at), body]
            case Act.LIE:
                return [self._false_end(task, moment), body]
            case _:
                return [body]

    def _false_end(self, task: Task, moment: int) -> bytes:
        """The task's own end before its time for tasks with an even number; for others the opposite of its end."""
        if moment < task.ends_at and task.number % 2 == 0:
            return self.body_of(task, task.ends_at)
        failure = "" if task.failure else "nothing failed: this callback is forged"
        return self.body_of(replace(task, failure=failure), task.ends_at)

    async def _send_late(self, task: Task, body: bytes) -> None:
        await self.sleep_until(task.ends_at + _DELAY)
        await self.post(task, body)
