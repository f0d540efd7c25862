"""One attempt at a job, as the engine carries it from its create to its images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchgen.jobs import Status, external_id

if TYPE_CHECKING:
    from batchgen.jobs import Job
    from batchgen.ledger.events import Rejected
    from batchgen.ledger.records import OpenAttempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one job, to be sent or in flight. `sent_at` is Unix ms, 0 before it is sent."""

    job: Job
    number: int  # of the attempt at this job, from 1
    failures: int = 0
    external_id: str = ""
    task_id: str = ""
    sent_at: int = 0
    wanted: bool = True  # whether the manifest asks for it
    base_url_changed: bool = False  # sent to another address than the account has now: "not found" proves nothing there
    id_sent: bool = False  # whether the create carried its external id, so that it can be asked for by it
    key_print: str = ""  # of the key that it was sent with; empty where that is not known
    accepted_at: int = 0  # Unix ms, 0 before it is accepted
    made: bool = False  # whether its links are in the ledger
    earlier: bool = False  # sent by an earlier run, or another output's: its cost is not this run's
    called: bool = False  # it was marked unknown, and a callback names its task
    reserved: int | None = None  # the price when it was sent, in millionths; None: today's is taken
    replaces: Rejected | None = None  # its job has images, of which one was rejected: they stay until it has delivered
    remake: bool = False  # the user wants it made anew, and paid again, where the gateway does not have it

    @property
    def id_to_echo(self) -> str:
        """What an answer's external id has to end with; empty where none was sent, for then it is the gateway's own."""
        return self.external_id if self.id_sent else ""

    @property
    def units(self) -> int:
        """How much of the account's concurrency it holds."""
        return self.job.parameters.n

    @classmethod
    def of(cls, job: Job, attempt: int, failures: int, *, replaces: Rejected | None = None) -> Attempt:
        """The attempt that follows `attempt` attempts so far."""
        number = attempt + 1
        return cls(
            job=job, number=number, failures=failures, replaces=replaces, external_id=external_id(job.id, number)
        )

    @classmethod
    def resumed(cls, begun: OpenAttempt, base_url: str, *, remake: bool = False) -> Attempt:
        """An attempt that an earlier run began, at the account whose address is now `base_url`."""
        return cls(
            job=begun.job,
            number=begun.attempt,
            failures=begun.failures,
            external_id=begun.external_id,
            task_id=begun.task_id or "",
            sent_at=begun.intended_at,
            wanted=begun.wanted,
            base_url_changed=begun.base_url != base_url,
            accepted_at=begun.accepted_at or begun.intended_at,
            made=begun.status is Status.MADE,
            id_sent=begun.id_sent,
            key_print=begun.key_print,
            earlier=True,
            reserved=begun.reserved,
            remake=remake,
        )

    def next(self, *, counts: bool) -> Attempt:
        """The next attempt at the same job, with an id of its own. `counts`: this one failed."""
        return Attempt.of(self.job, self.number, self.failures + int(counts))

    def sent(self, at: int, *, id_sent: bool, key_print: str) -> Attempt:
        """The same attempt, sent at this time (Unix ms), with or without its id, with the key of this fingerprint."""
        return replace(self, sent_at=at, id_sent=id_sent, key_print=key_print)

    def accepted(self, task_id: str, at: int, *, made: bool = False) -> Attempt:
        return replace(self, task_id=task_id, accepted_at=at, made=made)
