"""What can happen to a job, as values: the only way in which the ledger changes while a run is going.

Times are Unix milliseconds; money is in millionths of the account's unit, None where it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchgen.jobs import is_inline
from batchgen.redaction import redact

if TYPE_CHECKING:
    from batchgen.jobs import ImageFile, ImageLink, Job, Status


class Outcome(StrEnum):
    """How an attempt ended, as far as the money goes."""

    LIVE = ""
    MADE = "made"
    FAILED = "failed"  # the gateway ran it and failed: said not to be charged
    REFUSED = "refused"  # never accepted, for certain
    UNKNOWN = "unknown"  # nobody can say
    LOST = "lost"  # accepted, and later unknown to the gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An attempt is about to be sent. On disk before the create leaves."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The gateway took the attempt, or an attempt was found to have been taken: there is a task."""

    job_id: str
    attempt: int
    task_id: str
    at: int
    found: bool = False  # by asking, for the create's own answer was never seen
    rehearsal: bool = False  # it was a sandbox that took it


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMade:
    """The attempt certainly made nothing: the job is pending again. `counts` against max_attempts or not."""

    job_id: str
    attempt: int
    outcome: Outcome
    counts: bool
    at: int
    code: str = ""
    message: str = ""
    head: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The task succeeded; `cost` is what the gateway says it charged, or the price reserved."""

    job_id: str
    attempt: int
    links: tuple[ImageLink, ...]
    cost: int | None
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relinked:
    """A new query gave new links for images that are still to be fetched."""

    job_id: str
    attempt: int
    links: tuple[ImageLink, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An image is whole in the scratch folder, or a missing one is back in its place. The last one ends the job.

    `warning` says what could not be checked of it; empty where everything could.
    """

    job_id: str
    attempt: int
    image: ImageFile
    marked: bool
    mtime_ns: int
    at: int
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRefused:
    """The gateway names an image and its host does not hand it out. The time of the first such refusal is kept."""

    job_id: str
    attempt: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The job ended short: failed, rejected, unknown or gone. `outcome` None leaves the attempt's as it is."""

    job_id: str
    attempt: int
    status: Status
    outcome: Outcome | None
    at: int
    code: str = ""
    message: str = ""
    head: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """The user wants a job that ended short to go on.

    What is gone is asked for once more first (`submitted` or `made`), the rest gets another attempt (`pending`).
    """

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The file of an image is not there, or not what was fetched. Its path and hash are kept, should it return.

    A job that the manifest asks for is `made` again.
    """

    job_id: str
    attempt: int
    index: int
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocated:
    """An image's file belongs elsewhere from now on; it stands in the scratch folder."""

    job_id: str
    attempt: int
    index: int
    marked: bool
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalDropped:
    """What a sandbox painted of a job counts for nothing at the account in force, whose address is `base_url`.

    The job stands as if no sandbox had ever been asked.
    """

    job_id: str
    base_url: str


Event = (
    Intent
    | Accepted
    | NotMade
    | Made
    | Relinked
    | Fetched
    | HostRefused
    | Ended
    | Reopened
    | Missing
    | Relocated
    | RehearsalDropped
)

_LONGEST = 4000  # characters of them: whatever a gateway says, no more is looked through or kept
_WORDS = ("code", "message", "head")  # what an event has of somebody else's words, beside ids and links


def redacted(event: Event) -> Event:
    """The same event without our keys in what came from elsewhere; an image that a link itself holds stays."""
    said = {name: redact(words[:_LONGEST]) for name in _WORDS if (words := getattr(event, name, ""))}
    if isinstance(event, Accepted):
        said["task_id"] = redact.in_address(event.task_id)
    changed: dict[str, Any] = {name: words for name, words in said.items() if words != getattr(event, name)}
    if isinstance(event, Made | Relinked):
        links = tuple(_link(link) for link in event.links)
        changed |= {} if links == event.links else {"links": links}
    return replace(event, **changed) if changed else event


def _link(link: ImageLink) -> ImageLink:
    marked = link.watermark_url
    if marked is not None and not is_inline(marked):
        marked = redact.in_address(marked)
    return replace(link, url=link.url if is_inline(link.url) else redact.in_address(link.url), watermark_url=marked)
