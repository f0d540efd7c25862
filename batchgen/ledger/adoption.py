"""Events that add to the ledger what it does not know: an image of the index, a task of the gateway.

Whatever state the ledger has the job in, the events of this module fit it; where none would, there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchgen.jobs import ImageLink, Status, external_id
from batchgen.ledger.events import Accepted, Intent, Made, NotMade, Outcome, Relinked, Reopened

if TYPE_CHECKING:
    from batchgen.jobs import Job
    from batchgen.ledger.events import Event, Fetched
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import OpenAttempt

_NO_IMAGES = frozenset({Status.PENDING, Status.FAILED, Status.REJECTED})
_REOPENED = frozenset({Status.FAILED, Status.REJECTED, Status.UNKNOWN})
_WITH_LINKS = frozenset({Status.MADE, Status.DONE, Status.PARTIAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Images of one job that the ledger does not know. Times in Unix ms, cost in millionths."""

    job: Job
    account: str
    base_url: str
    submitted_at: int
    finished_at: int
    attempt: int = 1
    task_id: str = ""
    cost: int | None = None
    indexes: tuple[int, ...]  # of all images
    files: tuple[Fetched, ...]  # those that are here and whole


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
    return [*reopened, intent, replace(accepted, attempt=number)]


def events_of_delivery(ledger: LedgerReader, delivery: Delivery) -> list[Event]:
    """The events after which the ledger has the job's images; none where it has another task of the job.

    The links are empty: an image that is not here is looked up by its task.
    """
    job_id, number = delivery.job.id, delivery.attempt
    accepted = Accepted(
        job_id=job_id,
        attempt=number,
        task_id=delivery.task_id,
        at=delivery.submitted_at,
        found=True,
        rehearsal=not delivery.base_url,  # a sandbox in the process painted them
        has_own_id=False,  # an old ledger counts its attempts otherwise
    )
    latest = ledger.latest_attempt(job_id)
    is_later = latest is not None and latest.status is Status.UNKNOWN and number > latest.attempt
    links = tuple(ImageLink(index=index, url="") for index in delivery.indexes)
    events: list[Event] = []
    gives_up = latest is not None and latest.status is Status.SUBMITTED and _is_of_later_task(delivery, latest)
    if latest is None or latest.status in _NO_IMAGES or is_later or gives_up:
        events = events_of_attempt(ledger, delivery.job, accepted, delivery.account, delivery.base_url)
        number = number if latest is None else max(number, latest.attempt + 1)
        if latest is not None and gives_up:  # a later attempt is made only where the one before made nothing
            given_up = NotMade(
                job_id=job_id,
                attempt=latest.attempt,
                outcome=Outcome.LOST,
                at=delivery.submitted_at,
                message=f"The index has images of a later task of the job: {delivery.task_id}.",
                counts=False,
            )
            events = [given_up, *events]
    elif latest.task_id not in {None, delivery.task_id} or latest.status is Status.GONE:
        return []
    elif latest.status in _WITH_LINKS:
        known = {index for _, index in ledger.known_images([job_id])}
        links = tuple(link for link in links if link.index not in known)
        fetched = [event for event in _fetched(delivery, latest.attempt) if event.key.image_index not in known]
        return [Relinked(job_id=job_id, attempt=latest.attempt, links=links), *fetched] if links else []
    else:
        number = latest.attempt
        events = [replace(accepted, attempt=number)] if latest.status is not Status.SUBMITTED else []
    made = Made(job_id=job_id, attempt=number, links=links, cost=delivery.cost, at=delivery.finished_at)
    return [*events, made, *_fetched(delivery, number)]


def _is_of_later_task(delivery: Delivery, latest: OpenAttempt) -> bool:
    """Whether another task brought it, by the time: an index counts failures, so that its numbers do not say."""
    is_other = delivery.task_id not in {"", latest.task_id}
    return is_other and delivery.submitted_at > (latest.accepted_at or latest.intended_at)


def _fetched(delivery: Delivery, number: int) -> list[Fetched]:
    return [replace(file, key=file.key._replace(attempt=number)) for file in delivery.files]
