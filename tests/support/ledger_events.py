"""Events of a ledger as the engine records them, with the least that a test has to say."""

from __future__ import annotations

from batchgen.jobs import ImageKey, ImageLink, ReceivedImage, Status, external_id
from batchgen.ledger.events import Accepted, Ended, Fetched, Intent, Made, NotMade

PRICE, CHARGE = 2_000_000, 1_500_000  # the gateway charges less than its list says
SHORT = [Status.FAILED, Status.REJECTED, Status.UNKNOWN, Status.GONE]


def intent(of, number):
    return Intent(
        job=of,
        attempt=number,
        account="kapon",
        base_url="http://127.0.0.1",
        external_id=external_id(of.id, number),
        at=1,
        reserved=PRICE * of.parameters.n,
    )


def accepted(job_id, number):
    return Accepted(job_id=job_id, attempt=number, task_id=f"task-{job_id}-{number}", at=2)


def not_made(job_id, number, outcome):
    return NotMade(job_id=job_id, attempt=number, outcome=outcome, counts=True, at=3)


def ended(job_id, number, status, outcome):
    return Ended(job_id=job_id, attempt=number, status=status, outcome=outcome, at=3)


def made(job_id, number, n):
    links = tuple(ImageLink(index=index, url="http://127.0.0.1/image") for index in range(n))
    return Made(job_id=job_id, attempt=number, links=links, cost=CHARGE * n, at=3)


def fetched(job_id, number, index):
    path = f"images/{job_id}-{number}-{index}.png"
    return Fetched(key=ImageKey(job_id, number, index, 0), path=path, image=received("0" * 64), at=4)


def received(sha256):
    return ReceivedImage(sha256=sha256, bytes=9, width=3, height=3, ext=".png", mtime_ns=7, warning="")
