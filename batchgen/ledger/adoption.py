"""Events that add to the ledger what it does not know: an image of the index, a task of the gateway.

Whatever state the ledger has the job in, the events of this module fit it; where none would, there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.jobs import ImageLink, Status, external_id
from batchgen.ledger.events import Accepted, Fetched, Intent, Made, Relinked, Reopened

if TYPE_CHECKING:
    from batchgen.jobs import ImageFile, Job
    from batchgen.ledger.events import Event
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import OpenAttempt

_REOPENED = frozenset({Status.FAILED, Status.REJECTED, Status.UNKNOWN})
_WITH_LINKS = frozenset({Status.MADE, Status.DONE, Status.PARTIAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """An image's file, and when it was downloaded (Unix ms)."""

    image: ImageFile
    mtime_ns: int
    fetched_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Images of one job that the ledger does not know. Times in Unix ms, cost in millionths."""

    job: Job
    attempt: int
    account: str
    base_url: str
    task_id: str
    submitted_at: int
    finished_at: int
    cost: int | None
    indexes: tuple[int, ...]  # of all images
    files: tuple[FoundFile, ...]  # those that are here and whole


def events_of_attempt(ledger: LedgerReader, job: Job, accepted: Accepted, account: str, base_url: str) -> list[Event]:
    """The events of an attempt that the ledger never began; the job is pending or ended without images."""
    latest = ledger.latest_attempt(job.id)
    number = accepted.attempt if latest is None else max(accepted.attempt, latest.attempt + 1)
    intent = Intent(
        job=job,
        attempt=number,
        account=account,
        base_url=base_url,
        external_id=external_id(job.id, number),
        at=accepted.at,
        reserved=None,
    )
    reopened = [Reopened(job_id=job.id)] if latest is not None and latest.status in _REOPENED else []
    return [
        *reopened,
        intent,
        Accepted(job_id=job.id, attempt=number, task_id=accepted.task_id, at=accepted.at, found=accepted.found),
    ]


def events_of_delivery(ledger: LedgerReader, delivery: Delivery) -> list[Event]:
    """The events after which the ledger has the job's images; none where it has another task of the job."""
    job = delivery.job
    latest = ledger.latest_attempt(job.id)
    if latest is not None and latest.status not in {Status.PENDING, Status.FAILED, Status.REJECTED}:
        is_later = latest.status is Status.UNKNOWN and delivery.attempt > latest.attempt
        if not is_later:
            return _events_of_latest(ledger, delivery, latest)
    begun = events_of_attempt(ledger, job, _accepted(delivery, delivery.attempt), delivery.account, delivery.base_url)
    number = next(event.attempt for event in begun if isinstance(event, Intent))
    return [*begun, _made(delivery, number), *_fetched(delivery, number)]


def _events_of_latest(ledger: LedgerReader, delivery: Delivery, latest: OpenAttempt) -> list[Event]:
    number = latest.attempt
    if latest.task_id is not None and latest.task_id != delivery.task_id:
        return []
    if latest.status in {Status.INTENT, Status.UNKNOWN}:
        return [_accepted(delivery, number), _made(delivery, number), *_fetched(delivery, number)]
    if latest.status is Status.SUBMITTED:
        return [_made(delivery, number), *_fetched(delivery, number)]
    if latest.status not in _WITH_LINKS:
        return []
    known = {index for _, index in ledger.known_images([delivery.job.id])}
    links = tuple(ImageLink(index=index, url="") for index in delivery.indexes if index not in known)
    fetched = [event for event in _fetched(delivery, number) if event.image.index not in known]
    return [Relinked(job_id=delivery.job.id, attempt=number, links=links), *fetched] if links else []


def _accepted(delivery: Delivery, number: int) -> Accepted:
    return Accepted(
        job_id=delivery.job.id, attempt=number, task_id=delivery.task_id, at=delivery.submitted_at, found=True
    )


def _made(delivery: Delivery, number: int) -> Made:
    """Without links: an image that is not here is looked up by its task."""
    links = tuple(ImageLink(index=index, url="") for index in delivery.indexes)
    return Made(job_id=delivery.job.id, attempt=number, links=links, cost=delivery.cost, at=delivery.finished_at)


def _fetched(delivery: Delivery, number: int) -> list[Fetched]:
    return [
        Fetched(
            job_id=delivery.job.id,
            attempt=number,
            image=file.image,
            watermarked=False,
            mtime_ns=file.mtime_ns,
            at=file.fetched_at,
        )
        for file in delivery.files
    ]
