"""Whose fault it was that a create was refused or lost: the job's, or the account's.

An account whose budget is exceeded, or whose gateway is being shut down, refuses every job in words that fit one job.
Only a create that is accepted afterwards shows that the account works, so that the earlier refusals were for the jobs'
own sake. Until then the job stays pending, in the ledger too, and its refusal waits here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchgen.errors import AccountStopped, JobRefused, OwnRefusal, PageReceived

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.engine.attempt import Attempt
    from batchgen.errors import BatchgenError, JobError

MAX_ALIKE = 5  # jobs that are refused alike, with none accepted between, stop the account


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An attempt that made nothing, and why. `is_jobs_fault` counts once it is decided."""

    attempt: Attempt
    error: BatchgenError
    is_jobs_fault: bool = False


class RefusalAttribution:
    """The refusals of one account that are not decided yet."""

    def __init__(self) -> None:
        self._waiting: list[Refusal] = []
        self._decided: list[Refusal] = []
        self._in_outage: set[str] = set()  # jobs that lost a create in an outage, and whose refusal is still to come
        self._accepted = 0
        self._accepted_before: dict[str, int] = {}  # by job: how many were accepted when its answer arrived
        self._met_page: set[str] = set()  # jobs that met a page, and the account accepted another one since

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def is_clearly_jobs_fault(self, attempt: Attempt, error: JobError) -> bool:
        """Whether there is nothing to wait for."""
        met_again = isinstance(error, PageReceived) and attempt.job.id in self._met_page
        return isinstance(error, OwnRefusal) or met_again

    def answered(self, attempt: Attempt) -> None:
        """A create was refused or lost just now; what became of it may take a while to find out."""
        self._accepted_before[attempt.job.id] = self._accepted

    def add(self, attempt: Attempt, error: BatchgenError) -> AccountStopped | None:
        """Wait for a decision. The answer is a reason to stop the account, where too many were refused alike."""
        refusal = Refusal(attempt=attempt, error=error)
        self._waiting.append(refusal)
        is_accepting = self._accepted > self._accepted_before.pop(attempt.job.id, self._accepted)
        if not isinstance(error, JobRefused):
            if attempt.job.id in self._in_outage:
                self._in_outage.remove(attempt.job.id)
                self._decide([refusal], is_jobs_fault=False)
            return None
        if is_accepting:  # creates were accepted while it was being asked for
            self._decide([refusal], is_jobs_fault=True)
            return None
        alike = {each.attempt.job.id for each in self._waiting if _kind(each.error) == _kind(error)}
        if len(alike) < MAX_ALIKE:
            return None
        return AccountStopped(
            f"{len(alike)} jobs in a row got the same refusal and none was accepted, so the account itself may be"
            f" refused: {str(error).rstrip('.')}. The jobs stay pending. Check the account's key, balance and base_url,"
            " or what those jobs ask for; then run again to continue."
        )

    def create_accepted(self) -> None:
        """The account accepted a create: earlier refusals and losses were the jobs' fault."""
        self._accepted += 1
        self._decide(self._waiting, is_jobs_fault=True)

    def blame_outage(self, jobs: set[str]) -> None:
        """What these jobs lose in an outage, and whatever was lost lately, is the account's fault."""
        self._in_outage |= jobs
        self._decide_lost()

    def decide_rest(self, *, is_account_in_trouble: bool, is_known_to_accept: bool) -> AccountStopped | None:
        """Decide by what is known, as no more creates will come. The answer is a reason to stop.

        `is_known_to_accept`: in this run or an earlier one; where not, a page more likely came from the wrong address.
        """
        pages = [each for each in self._waiting if isinstance(each.error, PageReceived)]
        if pages and not is_known_to_accept:
            return AccountStopped(str(pages[0].error))
        if is_account_in_trouble:
            self._decide_lost()
        if not self._decided:
            self._decide(self._waiting, is_jobs_fault=True)
        return None

    def take_decided(self) -> list[Refusal]:
        taken, self._decided = self._decided, []
        return taken

    def take_all(self) -> list[Refusal]:
        """What no account will decide any more, because this one has stopped."""
        taken = [*self._decided, *self._waiting]
        self._decided, self._waiting = [], []
        return taken

    def _decide_lost(self) -> None:
        self._decide([each for each in self._waiting if not isinstance(each.error, JobRefused)], is_jobs_fault=False)

    def _decide(self, refusals: Sequence[Refusal], *, is_jobs_fault: bool) -> None:
        decided = {id(each) for each in refusals}
        self._decided += [replace(each, is_jobs_fault=is_jobs_fault) for each in refusals]
        if is_jobs_fault:
            self._met_page |= {each.attempt.job.id for each in refusals if isinstance(each.error, PageReceived)}
        self._waiting = [each for each in self._waiting if id(each) not in decided]


def _kind(error: BatchgenError) -> tuple[type[BatchgenError], str]:
    """What refusals that are alike have in common: the class and the code, never the words."""
    return type(error), str(getattr(error, "code", ""))
