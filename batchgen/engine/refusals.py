"""Whose fault it was that a create was refused or lost: the job's, or the account's.

An account whose budget is exceeded, or whose gateway is going down, refuses every job in words that fit one job. Only a
create that is accepted afterwards shows that the account is all right, and that what was refused was refused for its
own sake. Until then the job stays pending, in the ledger too, and the verdict waits here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import AccountStopped, JobRefused, OwnRefusal, PageReceived

if TYPE_CHECKING:
    from batchgen.engine.attempt import Attempt
    from batchgen.errors import BatchgenError, JobError

ALIKE = 5  # jobs that are refused alike, with none accepted between, and the account is stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """An attempt that made nothing, and why."""

    work: Attempt
    error: BatchgenError
    is_own: bool = False  # the verdict, once there is one


class Verdicts:
    """What waits for its verdict at one account."""

    def __init__(self) -> None:
        self._waiting: list[Suspended] = []
        self._decided: list[Suspended] = []
        self._excused: set[str] = set()  # jobs that lost a create in an outage, and whose verdict is still to come
        self._accepts = 0
        self._came: dict[str, int] = {}  # by job: how many were accepted when its answer came, before any question
        self._met_page: set[str] = set()  # jobs that met a page, and the account accepted another one since

    @property
    def wait(self) -> bool:
        """Whether any verdict waits."""
        return bool(self._waiting)

    def is_own(self, work: Attempt, refusal: JobError) -> bool:
        """Whether a refusal is clearly the job's own: then there is nothing to wait for."""
        return isinstance(refusal, OwnRefusal) or (isinstance(refusal, PageReceived) and work.job.id in self._met_page)

    def came(self, work: Attempt) -> None:
        """A create was refused or lost just now; what became of it may take a while to find out."""
        self._came[work.job.id] = self._accepts

    def suspend(self, work: Attempt, error: BatchgenError) -> AccountStopped | None:
        """The verdict waits. The answer is a reason to stop the account, where too many were refused alike."""
        self._waiting.append(Suspended(work=work, error=error))
        since = self._accepts - self._came.pop(work.job.id, self._accepts)
        if isinstance(error, JobRefused) and since > 0:  # creates were accepted while it was asked for
            self._decide(self._waiting[-1:], own=True)
            return None
        if not isinstance(error, JobRefused):
            if work.job.id in self._excused:
                self._excused.remove(work.job.id)
                self._decide(self._waiting[-1:], own=False)
            return None
        alike = {each.work.job.id for each in self._waiting if _kind(each.error) == _kind(error)}
        if len(alike) < ALIKE:
            return None
        return AccountStopped(
            f"{len(alike)} jobs in a row were refused alike and none was accepted, so it may be the account that is"
            f" refused: {str(error).rstrip('.')}. They stay pending. Check the account's key, balance and base_url, or"
            " what those jobs ask for; then run again to go on."
        )

    def accepted(self) -> None:
        """The account accepted a create: what was refused or lost before was so for its own sake."""
        self._accepts += 1
        self._decide(self._waiting, own=True)

    def excuse(self, jobs: set[str]) -> None:
        """There is an outage: what these jobs lost in it, and whatever was lost lately, is the account's fault."""
        self._excused |= jobs
        self._dismiss_lost()

    def _dismiss_lost(self) -> None:
        self._decide([each for each in self._waiting if not isinstance(each.error, JobRefused)], own=False)

    def nothing_else_to_do(self, *, is_account_in_trouble: bool, is_known_to_accept: bool) -> AccountStopped | None:
        """No create will come that could show it, so this is decided as it looks. The answer is a reason to stop.

        `is_known_to_accept`: in this run or an earlier one; where not, a page more likely came from the wrong address.
        """
        pages = [each for each in self._waiting if isinstance(each.error, PageReceived)]
        if pages and not is_known_to_accept:
            return AccountStopped(str(pages[0].error))
        if is_account_in_trouble:
            self._dismiss_lost()
        if not self._decided:
            self._decide(self._waiting, own=True)
        return None

    def take(self) -> list[Suspended]:
        """Those that have their verdict now."""
        taken, self._decided = self._decided, []
        return taken

    def _decide(self, suspended: list[Suspended], *, own: bool) -> None:
        self._decided += [Suspended(work=each.work, error=each.error, is_own=own) for each in suspended]
        self._met_page |= {each.work.job.id for each in suspended if own and isinstance(each.error, PageReceived)}
        decided = set(map(id, suspended))
        self._waiting = [each for each in self._waiting if id(each) not in decided]


def _kind(error: BatchgenError) -> tuple[type[BatchgenError], str]:
    """What refusals have in common that are alike: the kind and the code, never the words."""
    return type(error), str(getattr(error, "code", ""))
