"""Applies each event, as SQL on the ledger's one writing connection."""

from __future__ import annotations

import json
import sqlite3
from functools import singledispatch
from typing import TYPE_CHECKING

from batchgen.errors import Unkeepable
from batchgen.jobs import Status, is_inline
from batchgen.ledger.events import (
    MAX_TEXT,
    Accepted,
    Ended,
    Event,
    Fetched,
    HostRefused,
    Intent,
    Made,
    Missing,
    NotMade,
    Outcome,
    RehearsalDropped,
    Relinked,
    Relocated,
    Reopened,
)

if TYPE_CHECKING:
    from batchgen.jobs import ImageLink


# An attempt at a sandbox that is none of the accounts with these addresses, given as JSON.
REHEARSED = "rehearsal = 1 AND base_url NOT IN (SELECT value FROM json_each(?))"

# Characters that are kept of other values of a gateway.
_MAX_CODE = 200
_MAX_TASK_ID = 1000
_MAX_LINK = 64 * 1024
_MAX_INTEGER = 2**63 - 1
REPLACES = "replaces:"


class IllegalTransition(AssertionError):
    """An event that does not fit the state in the ledger: a defect of batchgen, never of its input."""


@singledispatch
def apply(event: Event, db: sqlite3.Connection) -> None:  # noqa: ARG001 - the signature of all handlers
    """Apply one event; the caller commits.

    Raises IllegalTransition where the event does not fit the state, e.g. a second live attempt.
    """
    raise IllegalTransition(f"no such event: {event!r}")


@apply.register
def _intent(event: Intent, db: sqlite3.Connection) -> None:
    job = event.job
    changed = db.execute(
        "INSERT INTO job (id, status, request, attempt, failures) VALUES (?1, 'intent', ?2, ?3, ?4)"
        " ON CONFLICT (id) DO UPDATE SET status = 'intent', request = excluded.request,"
        " attempt = excluded.attempt, code = '', message = '',"
        " failures = CASE WHEN ?5 THEN excluded.failures ELSE max(failures, excluded.failures) END"
        " WHERE (job.status = 'pending' OR ?5 AND job.status IN ('done', 'made', 'failed'))"
        "  AND excluded.attempt > job.attempt",
        (job.id, job.to_json(), event.attempt, event.failures, int(event.replaces is not None)),
    )
    _exactly_one(changed, event)
    db.execute(
        "INSERT INTO attempt (job_id, number, account, base_url, external_id, intended_at, images, reserved,"
        " id_sent, key_print, rehearsal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            event.attempt,
            event.account,
            event.base_url,
            event.external_id,
            event.at,
            job.parameters.n,
            event.reserved,
            int(event.id_sent),
            event.key_print,
            int(event.rehearsal),
        ),
    )
    if event.replaces:
        key = replaces_key(job.id, event.attempt)
        db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, event.replaces))


@apply.register
def _accepted(event: Accepted, db: sqlite3.Connection) -> None:
    if len(event.task_id) > _MAX_TASK_ID:  # a part of it may be the id of another task
        raise Unkeepable(
            f"The gateway's task id has {len(event.task_id):,} characters; up to {_MAX_TASK_ID:,} are kept."
        )
    _move(db, event, Status.SUBMITTED, "'intent', 'unknown', 'pending'")
    changed = db.execute(  # an unknown attempt may be found later, also when its job has ended
        "UPDATE attempt SET task_id = ?, accepted_at = ?, found = ?, outcome = '', rehearsal = max(rehearsal, ?),"
        " id_sent = min(id_sent, ?) WHERE job_id = ? AND number = ? AND outcome IN ('', 'unknown')",
        (event.task_id, event.at, event.found, event.rehearsal, event.has_own_id, event.job_id, event.attempt),
    )
    _exactly_one(changed, event)


@apply.register
def _not_made(event: NotMade, db: sqlite3.Connection) -> None:
    _move(db, event, Status.PENDING, "'intent', 'submitted', 'made', 'unknown'")
    db.execute(
        "UPDATE job SET failures = failures + ? WHERE id = ?",
        (int(event.counts), event.job_id),
    )
    _close(db, event, event.outcome)


@apply.register
def _made(event: Made, db: sqlite3.Connection) -> None:
    _move(db, event, Status.MADE, "'submitted'")
    db.execute(
        "UPDATE attempt SET outcome = 'made', cost = ?, ended_at = ? WHERE job_id = ? AND number = ?",
        (_cost(event.cost), event.at, event.job_id, event.attempt),
    )
    _link(db, event.job_id, event.attempt, event.links)


@apply.register
def _relinked(event: Relinked, db: sqlite3.Connection) -> None:
    _link(db, event.job_id, event.attempt, event.links)


@apply.register
def _fetched(event: Fetched, db: sqlite3.Connection) -> None:
    image = event.image
    changed = db.execute(
        "UPDATE image SET path = ?1, sha256 = ?2, bytes = ?3, width = ?4, height = ?5, mtime_ns = ?6, warning = ?8,"
        # a lost file that returns was never lost; for other bytes the lost hash is kept
        " fetched_at = CASE WHEN lost_sha256 = ?2 THEN fetched_at ELSE ?7 END,"
        " lost_path = CASE WHEN lost_sha256 = ?2 THEN NULL ELSE lost_path END,"
        " lost_sha256 = CASE WHEN lost_sha256 = ?2 THEN NULL ELSE lost_sha256 END,"
        # an image that came inside an answer is a file now: the ledger drops its copy
        " url = CASE WHEN substr(url, 1, 5) = 'data:' THEN 'data:,' ELSE url END"
        " WHERE job_id = ?9 AND attempt = ?10 AND idx = ?11 AND marked = ?12",
        (
            event.path,
            image.sha256,
            image.bytes,
            image.width,
            image.height,
            image.mtime_ns,
            event.at,
            image.warning,
            *event.key,
        ),
    )
    _exactly_one(changed, event)
    _complete(db, event)


def _complete(db: sqlite3.Connection, event: Fetched) -> None:
    """The last image ends the job; with fewer images than were asked for it is `partial`."""
    key = (event.key.job_id, event.key.attempt)
    missing, delivered = db.execute(
        "SELECT sum(sha256 IS NULL), sum(marked = 0) FROM image WHERE job_id = ? AND attempt = ?", key
    ).fetchone()
    if missing:
        return
    (asked,) = db.execute("SELECT images FROM attempt WHERE job_id = ? AND number = ?", key).fetchone()
    status, message = Status.DONE, ""
    if delivered < asked:
        status, message = Status.PARTIAL, f"The gateway delivered {delivered} of {asked} images."
    db.execute(
        "UPDATE job SET status = ?, message = ?, code = '' WHERE id = ? AND attempt = ?"
        " AND status IN ('made', 'gone', 'partial')",
        (status, message, *key),
    )
    db.execute("DELETE FROM meta WHERE key = ?", (refusal_key(*key),))


@apply.register
def _host_refused(event: HostRefused, db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)",
        (refusal_key(event.job_id, event.attempt), str(event.at)),
    )


def refusal_key(job_id: str, attempt: int) -> str:
    """The key of `meta` for the time (Unix ms) since which a host refuses an attempt's images."""
    return f"refused:{job_id}-{attempt}"


def replaces_key(job_id: str, attempt: int | str) -> str:
    """The key of `meta` for an attempt that was asked for in place of rejected images: its price is no second one."""
    return f"{REPLACES}{job_id}-{attempt}"


@apply.register
def _ended(event: Ended, db: sqlite3.Connection) -> None:
    _move(db, event, event.status, "'pending', 'intent', 'submitted', 'made', 'unknown'")
    counts = int(event.status in {Status.FAILED, Status.REJECTED})
    db.execute(
        "UPDATE job SET code = ?, message = ?, failures = failures + ? WHERE id = ?",
        (_text(event.code, _MAX_CODE), _text(event.message), counts, event.job_id),
    )
    if event.outcome is not None:
        _close(db, event, event.outcome)
        return
    key = (event.job_id, event.attempt)
    if db.execute("SELECT 1 FROM attempt WHERE job_id = ? AND number = ? AND outcome = ''", key).fetchone():
        raise IllegalTransition(f"the job ends, its attempt does not: {event!r}")


@apply.register
def _reopened(event: Reopened, db: sqlite3.Connection) -> None:
    changed = db.execute(
        "UPDATE job SET failures = 0, code = '', message = '', status = CASE WHEN status <> 'gone' THEN 'pending'"
        "  WHEN EXISTS (SELECT 1 FROM image WHERE job_id = job.id AND attempt = job.attempt) THEN 'made'"
        "  ELSE 'submitted' END"
        " WHERE id = ? AND status IN ('failed', 'rejected', 'gone', 'partial', 'unknown')",
        (event.job_id,),
    )
    _exactly_one(changed, event)


@apply.register
def _missing(event: Missing, db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE image SET lost_path = coalesce(path, lost_path), lost_sha256 = coalesce(lost_sha256, sha256),"
        " path = NULL, sha256 = NULL WHERE job_id = ? AND attempt = ? AND idx = ? AND marked = ?",
        event.key,
    )
    db.execute(
        "UPDATE job SET status = 'made' WHERE id = ? AND attempt = ? AND status IN ('done', 'partial', 'made')"
        " AND id IN (SELECT job_id FROM wanted)",
        event.key[:2],
    )


@apply.register
def _relocated(event: Relocated, db: sqlite3.Connection) -> None:
    changed = db.execute(
        "UPDATE image SET path = ? WHERE job_id = ? AND attempt = ? AND idx = ? AND marked = ?",
        (event.path, *event.key),
    )
    _exactly_one(changed, event)


@apply.register
def _rehearsal_dropped(event: RehearsalDropped, db: sqlite3.Connection) -> None:
    """Remove the attempts of sandboxes; the state of the job is then that of its last real attempt, if any."""
    rehearsed = REHEARSED.replace("?", "?2")
    key = (event.job_id, json.dumps(event.base_urls))
    db.execute(
        "DELETE FROM image WHERE job_id = ?1"  # noqa: S608 - a constant
        f" AND attempt IN (SELECT number FROM attempt WHERE job_id = ?1 AND {rehearsed})",
        key,
    )
    db.execute(f"DELETE FROM attempt WHERE job_id = ?1 AND {rehearsed}", key)  # noqa: S608 - a constant
    db.execute(
        "UPDATE job SET failures = 0, code = '', message = '', attempt = sent.number, status = CASE sent.outcome"
        "  WHEN '' THEN CASE WHEN sent.task_id IS NULL THEN 'intent' ELSE 'submitted' END"
        "  WHEN 'made' THEN 'made' WHEN 'lost' THEN 'gone' WHEN 'unknown' THEN 'unknown' ELSE 'pending' END"
        " FROM (SELECT number, outcome, task_id FROM attempt WHERE job_id = ?1 ORDER BY number DESC LIMIT 1) AS sent"
        " WHERE id = ?1",
        (event.job_id,),
    )
    first = replaces_key(event.job_id, "")
    db.execute("DELETE FROM meta WHERE key >= ? AND key < ?", (first, f"{first}:"))
    db.execute(
        "DELETE FROM job WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM attempt WHERE job_id = ?1)", (event.job_id,)
    )


def _move(db: sqlite3.Connection, event: Accepted | NotMade | Made | Ended, to: Status, states: str) -> None:
    changed = db.execute(
        f"UPDATE job SET status = ? WHERE id = ? AND attempt = ? AND status IN ({states})",  # noqa: S608 - constants
        (to, event.job_id, event.attempt),
    )
    _exactly_one(changed, event)


def _close(db: sqlite3.Connection, event: NotMade | Ended, outcome: Outcome) -> None:
    """End the attempt. One that was charged stays paid: it can be lost, never failed or refused."""
    if outcome is Outcome.LIVE:
        raise IllegalTransition(f"an attempt cannot end as live: {event!r}")
    changed = db.execute(
        "UPDATE attempt SET outcome = ?1, code = ?2, message = ?3, head = ?4, ended_at = ?5"
        " WHERE job_id = ?6 AND number = ?7 AND (cost IS NULL OR ?1 NOT IN ('failed', 'refused'))",
        (
            outcome,
            _text(event.code, _MAX_CODE),
            _text(event.message),
            _text(event.head),
            event.at,
            event.job_id,
            event.attempt,
        ),
    )
    _exactly_one(changed, event)


def _link(db: sqlite3.Connection, job_id: str, attempt: int, links: tuple[ImageLink, ...]) -> None:
    rows = [(job_id, attempt, link.index, 0, _url(link.url)) for link in links]
    rows += [(job_id, attempt, link.index, 1, _url(link.watermark_url)) for link in links if link.watermark_url]
    db.executemany(
        "INSERT INTO image (job_id, attempt, idx, marked, url) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET url = excluded.url",
        rows,
    )


def _exactly_one(cursor: sqlite3.Cursor, event: Event) -> None:
    if cursor.rowcount != 1:
        raise IllegalTransition(f"does not fit the state in the ledger: {event!r}")


def _text(text: str, most: int = MAX_TEXT) -> str:
    """A gateway's text as it is kept: cut, and with `?` for half a character."""
    return text[:most].encode("utf-8", "replace").decode()


def _url(url: str) -> str:
    """A link as it is kept; one that is too long for any host is left out, and the task is queried for it again."""
    return url if is_inline(url) or len(url) <= _MAX_LINK else ""


def _cost(cost: int | None) -> int | None:
    """A charge as it is kept; an impossible one counts as unknown, and the reserved price is used."""
    return cost if cost is not None and abs(cost) <= _MAX_INTEGER else None
