"""Whether an account's list, as far as it was read, proves that a task is not in it: arithmetic, without queries.

It proves nothing where it leaves out a task that is known to exist, gives it another id, or contains a recent task
without an external id. The gateway's clock is known from the tasks whose acceptance we have seen, never from ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from batchgen.providers.base import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.engine.controls import Control
    from batchgen.providers.base import Task

_ENOUGH = 20  # tasks in order show that the list is in this order


class ListProof:
    """One reading of the list, page by page, for a create sent at `sent_at` (Unix ms by our clock)."""

    def __init__(self, controls: Sequence[Control], sent_at: int) -> None:
        self._unseen = {control.task_id: control for control in controls}
        self._has_controls = bool(controls)
        self._sent_at = sent_at
        self._skew: int | None = None  # ms that the gateway's clock is ahead of ours
        self._times: list[int | None] = []  # when the tasks were created, as they came
        self._alters_ids = False
        self._without_id: list[int | None] = []  # when tasks without an id were created

    def is_complete_with(self, tasks: Sequence[Task]) -> bool:
        """Note one more page; whether the pages after it can prove nothing more."""
        for task in tasks:
            self._note(task)
        times = [task.created_ms for task in tasks]
        self._times += times
        return not tasks or (not self._unseen and not any(map(self._may_match, times)) and self._is_newest_first)

    @property
    def _is_newest_first(self) -> bool:
        known = [time for time in self._times if time is not None]
        in_order = len(known) == len(self._times) >= _ENOUGH and known[0] > known[-1]
        return in_order and all(a >= b for a, b in pairwise(known))

    def _note(self, task: Task) -> None:
        control = self._unseen.pop(task.id, None)
        if task.external_id is None:
            self._without_id.append(task.created_ms)
        if control is None:
            return
        self._alters_ids |= task.external_id is not None and task.external_id != control.external_id
        if task.created_ms is not None:
            self._skew = task.created_ms - control.accepted_at

    def _may_match(self, created_ms: int | None) -> bool:
        """Whether a task of this time may be the lost one."""
        if created_ms is None or self._skew is None:
            return True
        return created_ms >= self._sent_at + self._skew - CLOCK_SKEW_MS

    @property
    def gap(self) -> str:
        """Why the list proves nothing; empty where it proves that the task does not exist."""
        if not self._has_controls:
            return "the account has no accepted task yet against which its list could be checked"
        if self._unseen:
            return "the account's list leaves out a task that is known to exist"
        if self._alters_ids:
            return "the account's list gives other ids than were sent"
        if any(map(self._may_match, self._without_id)):
            return "the account's list has recent tasks without the ids that were sent"
        return ""
