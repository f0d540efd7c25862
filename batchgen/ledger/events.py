"""The events of a job, as values: while a run is going, the ledger changes by events alone.

Times are Unix milliseconds; money is in millionths of the account's unit, None where it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchgen.jobs import is_inline
from batchgen.redaction import redact

if TYPE_CHECKING:
    from batchgen.jobs import ImageKey, ImageLink, Job, ReceivedImage, Status


class Outcome(StrEnum):
    """How an attempt ended, as far as its cost is concerned."""

    LIVE = ""  # not ended
    MADE = "made"
    FAILED = "failed"  # the gateway ran it and failed: not charged, by its documentation
    REFUSED = "refused"  # certainly never accepted
    UNKNOWN = "unknown"  # cannot be found out
    LOST = "lost"  # accepted, and later unknown to the gateway


class Rejected(StrEnum):
    """Who wants other images of a job."""

    BY_USER = "user"  # run --remake
    BY_CHECK = "check"  # the manifest's on_reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happens to a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEvent(Event):
    """What happens to an attempt of a job."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Event):
    """An attempt is about to be sent. On disk before the create is sent."""

    job: Job
    attempt: int
    account: str
    base_url: str
    external_id: str
    at: int
    reserved: int | None
    failures: int = 0  # of the job's attempts before this one, those that count against max_attempts
    id_sent: bool = False  # whether the create carries external_id
    key_print: str = ""  # fingerprint of the key
    rehearsal: bool = False  # sent to a sandbox of this process
    replaces: Rejected | None = None  # the job has images already, of which one was rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(AttemptEvent):
    """The gateway accepted the attempt, as it answered or as a later query found: there is a task."""

    task_id: str
    at: int
    found: bool = False  # by a query: the answer to the create was never seen
    rehearsal: bool = False  # by a sandbox
    has_own_id: bool = True  # whether its answers have to name the attempt's external id, where that was sent


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMade(AttemptEvent):
    """The attempt certainly made nothing: the job is pending again. `counts`: whether against max_attempts."""

    outcome: Outcome
    counts: bool
    at: int
    code: str = ""
    message: str = ""
    head: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(AttemptEvent):
    """The task succeeded; `cost` is the charge that the gateway reports, or the price reserved."""

    links: tuple[ImageLink, ...]
    cost: int | None
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relinked(AttemptEvent):
    """A query returned new links for images that are still to be downloaded."""

    links: tuple[ImageLink, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Event):
    """An image is whole in the scratch folder, or a missing one is back in its place. The last one ends the job.

    `path` is relative to the output folder, with `/`.
    """

    key: ImageKey
    path: str
    image: ReceivedImage
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRefused(AttemptEvent):
    """The gateway names an image, and its host does not deliver it. The time of the first such refusal is kept."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(AttemptEvent):
    """The job ended incomplete: failed, rejected, unknown or gone. `outcome` None leaves the attempt's as it is."""

    status: Status
    outcome: Outcome | None
    at: int
    code: str = ""
    message: str = ""
    head: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened(Event):
    """The user retries a job that ended incomplete.

    Images that are gone are first queried once more (`submitted` or `made`), the rest gets another attempt (`pending`).
    """

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(Event):
    """The file of an image is missing or changed. Its path and hash are kept, in case that it returns.

    A job that the manifest asks for is `made` again.
    """

    key: ImageKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocated(Event):
    """An image's file gets another path; the file is in the scratch folder."""

    key: ImageKey
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalDropped(Event):
    """What a sandbox made of a job does not count for the accounts in use, whose addresses are `base_urls`.

    The job is as if no sandbox had made anything of it.
    """

    job_id: str
    base_urls: tuple[str, ...]


MAX_TEXT = 2000  # characters that are kept of a gateway's text, which may be megabytes, in each of a million rows
_TEXTS = ("code", "message", "head")  # the fields with a gateway's text, beside ids and links


def redacted(event: Event) -> Event:
    """The same event without keys in what came from a gateway; an image inside a link stays as it is."""
    # Twice as much as is kept is searched: a key at the cut is still recognised.
    changes: dict[str, Any] = {
        name: redact(text[: 2 * MAX_TEXT]) for name in _TEXTS if (text := getattr(event, name, ""))
    }
    if isinstance(event, Accepted):
        changes["task_id"] = redact.in_address(event.task_id)
    if isinstance(event, Made | Relinked):
        changes["links"] = tuple(map(_link, event.links))
    return replace(event, **changes)


def _link(link: ImageLink) -> ImageLink:
    return replace(link, url=_url(link.url), watermark_url=link.watermark_url and _url(link.watermark_url))


def _url(url: str) -> str:
    return url if is_inline(url) else redact.in_address(url)
