"""Tasks that are known to exist: "not found" is believed only when the same query finds one of them.

A gateway whose look-up does not work or lags, or a proxy before it, answers "not found" to everything. So each query
for a lost create is repeated for a *control*: a task that the same account accepted with the same key, whose create
carried our id. The best control still runs, as the lost task would: some gateways find only tasks that have ended.

A list proves nothing where it leaves out a control, gives it another id, or contains a recent task without an external
id. The gateway's clock is known from the tasks whose acceptance we have seen, never from ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from batchgen.providers.base import CLOCK_SKEW_MS, TaskState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batchgen.engine.context import Context
    from batchgen.providers.base import Task

KNOWN = 1000  # tasks of this run that are remembered: two pages of a list
_ENOUGH = 20  # tasks in order show that the list is in this order
REMEMBERED_MS = 24 * 60 * 60 * 1000  # no gateway is known to forget a task sooner (kling.md, Accounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """An accepted task. `accepted_at` is Unix ms by our clock; `since` is by the monotonic clock, in seconds."""

    task_id: str
    external_id: str
    accepted_at: int
    since: float
    model: str = ""

    def is_of(self, model: str) -> bool:
        """Whether a question about tasks of this model has to meet it; empty: of any."""
        return model in {"", self.model}


# (task id, external id, accepted at in Unix ms, model), the latest first; of those up to a time where one is given.
Earlier = Callable[[int | None], Iterable[tuple[str, str, int, str]]]


class Controls:
    """The controls of one account: those of this run, and those of earlier runs in the ledger.

    `delay`: seconds after which queries find a task.
    """

    def __init__(self, context: Context, *, delay: float, earlier: Earlier) -> None:
        self._clock = context.clock
        self._wall = context.wall
        self._delay = delay
        self._earlier = earlier
        self._began, self._began_ms = context.clock(), context.now_ms()
        self._of_this_run: dict[str, Control] = {}  # by task id, in the order of acceptance
        self._of_earlier_runs: list[Control] | None = None
        self._running: dict[str, Control] = {}  # the same of those that have not ended

    def accepted(self, task_id: str, external_id: str, at: int, model: str = "") -> None:
        """Note a task that was accepted now (`at`: Unix ms), or found."""
        known = Control(task_id=task_id, external_id=external_id, accepted_at=at, since=self._clock(), model=model)
        self._of_this_run[task_id] = self._running[task_id] = known
        if len(self._of_this_run) > KNOWN:
            del self._of_this_run[next(iter(self._of_this_run))]

    def ended(self, task_id: str) -> None:
        self._running.pop(task_id, None)

    def is_running(self, control: Control) -> bool:
        """Whether it runs, as far as this run knows."""
        return control.task_id in self._running

    def belongs_to_other(self, task_id: str, external_id: str) -> bool:
        """Whether this run knows the task as that of another create."""
        known = self._of_this_run.get(task_id)
        return known is not None and known.external_id != external_id

    def ever_belonged_to_other(self, task_id: str, external_id: str) -> bool:
        """Whether the task is known as that of another create, of this run or an earlier one."""
        known = (each for each in self._known() if each.task_id == task_id)
        return any(each.external_id != external_id for each in known)

    @property
    def latest_visible(self) -> Control | None:
        """The latest task that queries must find by now; None where there is none."""
        return next(self._visible(), None)

    @property
    def is_clock_steady(self) -> bool:
        """Whether our clock has not been set in this run, as far as the monotonic one shows."""
        passed = 1000 * (self._clock() - self._began)
        return abs(self._wall() * 1000 - self._began_ms - passed) < CLOCK_SKEW_MS / 2

    def for_lookup(self, sent_at: int, model: str = "") -> list[Control]:
        """The tasks that a query must find before its "not found" for a create sent at `sent_at` is believed.

        Without such a task, it is not believed. The one that has run longest, else the latest visible one. For a create
        of long ago one as old, too, for gateways forget tasks.
        """
        running = (each for each in self._running.values() if each.is_of(model))
        return self._with_older(next(running, next(self._visible(model), None)), sent_at, model)

    def for_list(self, sent_at: int, model: str = "") -> list[Control]:
        """The tasks that a list must contain before it proves anything about a create sent at `sent_at`.

        Without such a task, it proves nothing. All that run or were accepted since, for they show what the list leaves
        out; else the latest.
        """
        visible = list(self._visible(model))
        needed = self._with_older(visible[0] if visible else None, sent_at, model)
        known = [each for each in visible if each.accepted_at >= sent_at or each.task_id in self._running]
        return list({each.task_id: each for each in needed + known}.values()) if needed else []

    def list_proof(self, sent_at: int, model: str = "", *, is_bounded: bool = False) -> ListProof:
        """What a list is to show before it proves anything about a create sent at `sent_at`.

        `model`: it shows tasks of this one alone; `is_bounded`: it begins shortly before `sent_at`.
        """
        controls = self.for_list(sent_at, model)
        any_runs = any(map(self.is_running, controls))
        # Between two runs our clock may have been set: what an earlier one accepted tells no time of this one.
        is_of_this_run = sent_at >= self._began_ms
        timed = {each.task_id for each in controls if not is_of_this_run or each.task_id in self._of_this_run}
        now = self._wall() * 1000
        return ListProof(controls, sent_at, now, timed=timed, any_runs=any_runs, is_bounded=is_bounded)

    def _with_older(self, latest: Control | None, sent_at: int, model: str) -> list[Control]:
        if latest is None or sent_at >= self._wall() * 1000 - REMEMBERED_MS:
            return [] if latest is None else [latest]
        older = [each for each in self._read(sent_at) if each.is_of(model)]
        return [latest, older[0]] if older else []

    def is_younger_to_come(self, began: float, model: str = "") -> bool:
        """Whether tasks were accepted after this moment (by the monotonic clock), none of which must be visible yet.

        A list that leaves out the newest tasks leaves out the lost one before it leaves out these.
        """
        younger = [each for each in self._of_this_run.values() if each.since > began and each.is_of(model)]
        return bool(younger) and not any(self._is_visible(each) for each in younger)

    def until_visible(self) -> float | None:
        """Seconds until one more task becomes visible; None where no such task is known."""
        waits = (each.since + self._delay - self._clock() for each in self._of_this_run.values())
        return min((wait for wait in waits if wait > 0), default=None)

    def _visible(self, model: str = "") -> Iterator[Control]:
        """Those that queries must find by now, the latest first."""
        return (each for each in self._known() if each.is_of(model) and self._is_visible(each))

    def _is_visible(self, control: Control) -> bool:
        return self._clock() - control.since >= self._delay

    def _known(self) -> Iterator[Control]:
        yield from reversed(self._of_this_run.values())
        if self._of_earlier_runs is None:
            self._of_earlier_runs = self._read(None)
        yield from self._of_earlier_runs

    def _read(self, before: int | None) -> list[Control]:
        return [
            Control(task_id=task_id, external_id=external_id, accepted_at=at, since=self._began, model=model)
            for task_id, external_id, at, model in self._earlier(before)
        ]


class ListProof:
    """One reading of the list, page by page, for a create sent at `sent_at` (Unix ms by our clock; `now` as well).

    `timed`: task ids of the controls that were accepted by the same clock as `sent_at`; `any_runs`: whether some of the
    controls run, as far as this run knows; `is_bounded`: the list begins at a time by our clock, shortly before then.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        sent_at: int,
        now: float,
        *,
        timed: Collection[str],
        any_runs: bool,
        is_bounded: bool = False,
    ) -> None:
        self._is_clock_known = not is_bounded  # or the gateway's may be so far behind that the list begins too late
        self._unseen = {control.task_id: control for control in controls}
        self._has_controls = bool(controls)
        self._timed = timed
        self._shows_running = not any_runs  # those that have ended meanwhile show nothing of those that run
        self._sent_at = sent_at if sent_at <= now else 0  # the clock was set back since: any task may be the lost one
        self._skew: int | None = None  # ms that the gateway's clock is ahead of ours, at least
        self._times: list[int | None] = []  # when the tasks were created, as they came
        self._alters_ids = False
        self._without_id: list[int | None] = []  # when tasks without an id were created

    @property
    def external_ids(self) -> list[str]:
        """The ids of the controls that were not seen yet."""
        return [control.external_id for control in self._unseen.values()]

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
        self._shows_running |= task.state is TaskState.RUNNING
        self._alters_ids |= task.external_id is not None and task.external_id != control.external_id
        if task.created_ms is not None and task.id in self._timed:  # the smallest excludes least
            skew = task.created_ms - control.accepted_at
            self._is_clock_known |= skew >= -CLOCK_SKEW_MS
            self._skew = skew if self._skew is None else min(self._skew, skew)

    def _may_match(self, created_ms: int | None) -> bool:
        """Whether a task of this time may be the lost one."""
        if created_ms is None or self._skew is None:
            return True
        return created_ms >= self._sent_at + self._skew - CLOCK_SKEW_MS

    @property
    def gap(self) -> str:
        """Why the list proves nothing; empty where it proves that the task does not exist."""
        reasons = (
            (not self._has_controls, "the account has no accepted task yet against which its list could be checked"),
            (bool(self._unseen), "the account's list leaves out a task that is known to exist"),
            (
                not self._shows_running,
                "the tasks that are known to exist have ended meanwhile, and its list may leave out those that run",
            ),
            (not self._is_clock_known, "its list begins at a time, and the account's clock may be far behind ours"),
            (self._alters_ids, "the account's list gives other ids than were sent"),
            (
                any(map(self._may_match, self._without_id)),
                "the account's list has recent tasks without the ids that were sent",
            ),
        )
        return next((why for is_so, why in reasons if is_so), "")
