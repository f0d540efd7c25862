"""Which jobs of a manifest a run is about: those to start, those that earlier runs started, those to make again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.catalog.accounts import Capability
from batchgen.engine.attempt import Attempt
from batchgen.engine.runner import RECHECKED
from batchgen.jobs import Status
from batchgen.ledger.events import Rejected, Reopened
from batchgen.planning.survey import job_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import OpenAttempt
    from batchgen.ledger.store import Ledger
    from batchgen.manifest.model import Manifest, OnReject
    from batchgen.planning.selection import Selection

_PAUSE_EVERY = 1000  # jobs that are looked at without letting others act
_RETRIED = frozenset({Status.FAILED, Status.GONE, Status.PARTIAL})


class Workload:
    """The jobs of a manifest that `selection` leaves, and at most `limit` new ones of them."""

    def __init__(self, manifest: Manifest, selection: Selection, limit: int | None) -> None:
        self._manifest = manifest
        self._selection = selection
        self._limit = limit
        self._replaced: dict[str, Rejected] = {}  # jobs of which other images are wanted
        self._replaces_alone = False  # nothing else is to be started

    def pending(self, ledger: LedgerReader) -> Iterator[Attempt | None]:
        """What is to be started; None now and then where nothing is, so that others can act."""
        started = 0
        for looked_at, (job, state) in enumerate(job_states(self._manifest, ledger), 1):
            if self._limit is not None and started >= self._limit:
                return
            replaces = self._replaced.get(job.id)
            is_due = replaces or (state.status is Status.PENDING and not self._replaces_alone)
            if is_due and self._selection.takes(job):
                started += 1
                yield Attempt.of(job, state.attempt, 0 if replaces else state.failures, replaces=replaces)
            elif looked_at % _PAUSE_EVERY == 0:
                yield None

    def to_come(self, ledger: LedgerReader) -> tuple[int, int]:
        """Jobs and images that this run is to bring: those that were started, and those to be started."""
        if not self._selection.wanted and self._limit is None and not self._replaced:
            return ledger.images_missing()
        jobs, images = ledger.images_missing(begun_only=True)
        for work in filter(None, self.pending(ledger)):
            jobs, images = jobs + 1, images + work.units
        return jobs, images

    def counts(self, ledger: LedgerReader) -> dict[Status, int]:
        """The selected jobs by status; the exit code is about these."""
        if not self._selection.wanted:
            return ledger.counts()
        counts: dict[Status, int] = {}
        for job, state in job_states(self._manifest, ledger):
            if self._selection.takes(job):
                counts[state.status] = counts.get(state.status, 0) + 1
        return counts

    def reopen(self, ledger: Ledger) -> frozenset[str]:
        """Give another attempt to jobs that ended without all their images; returns their ids.

        Gone and partial images are queried first, because images that come late are paid for already.
        """
        attempts = self._selected(ledger, _RETRIED)
        events = [Reopened(job_id=attempt.job.id) for attempt in attempts if attempt.status is not Status.PARTIAL]
        if events:
            ledger.record(events)
        return frozenset(attempt.job.id for attempt in attempts)

    def replace_rejected(self, ledger: LedgerReader) -> frozenset[str]:
        """Let `pending` give the next attempt of jobs with a rejected image too; returns those to be queried first.

        A job changes with the intent of that attempt alone: what is not begun for want of budget or time stays as it
        is. Of a partial one, images may have come late, which are paid for already.
        """
        rejected = ledger.rejected_jobs()
        partial = {id_ for id_, (status, _) in rejected.items() if status is Status.PARTIAL}
        self._replaced = dict.fromkeys(rejected.keys() - partial, Rejected.BY_USER)
        return frozenset(id_ for id_ in partial if self._selection.takes(ledger.attempt_of(id_).job))

    def replace_checked(self, ledger: LedgerReader, checks: Sequence[str], bounds: OnReject) -> bool:
        """Let `pending` give the next attempt of what these checks reject, and nothing else; whether there is any."""
        times, spent = ledger.replaced_by_checks()
        self._replaced, self._replaces_alone = {}, True
        for id_, (status, _) in ledger.rejected_jobs(checks).items() if checks else ():
            job = ledger.attempt_of(id_).job
            fits = times.get(id_, 0) < bounds.attempts and spent + job.parameters.n <= bounds.max_images
            if status is Status.DONE and fits and self._selection.takes(job):
                spent += job.parameters.n
                self._replaced[id_] = Rejected.BY_CHECK
        return self.replaces_any

    @property
    def replaces_any(self) -> bool:
        """Whether there is a job of which other images are wanted."""
        return bool(self._replaced)

    def started_before(self, ledger: LedgerReader, *, resend_unknown: bool) -> list[OpenAttempt]:
        """Attempts of earlier runs: live ones, and those that ended without what the gateway may have.

        Unknown ones can be queried, or may be sent again; gone and partial ones may have come late.
        """
        ended = self._selected(ledger, RECHECKED | {Status.UNKNOWN})
        return [attempt for attempt in ledger.open_attempts() if attempt.job.id not in self._replaced] + [
            attempt
            for attempt in ended
            if attempt.status in RECHECKED
            or resend_unknown
            or self.can_find_lost_creates(attempt.account)
            or ledger.called_tasks(attempt.job.id, attempt.attempt)
        ]

    def can_find_lost_creates(self, name: str) -> bool:
        """Whether an account can say what became of a create whose answer was lost."""
        account = self._manifest.accounts.get(name)
        return account is not None and {account.lookup_by_external_id, account.lists_tasks} != {Capability.NO}

    def _selected(self, ledger: LedgerReader, statuses: frozenset[Status]) -> list[OpenAttempt]:
        attempts = map(ledger.attempt_of, ledger.incomplete(statuses))
        return [attempt for attempt in attempts if self._selection.takes(attempt.job)]
