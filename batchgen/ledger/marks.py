"""Writes marks of images: in a short transaction on a connection of its own, so that a run may be going meanwhile.

A run's own writer waits for it where they meet, and no event depends on a mark. All that a mark changes for a run is
that the index no longer shows everything.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING

from batchgen.ledger import versions
from batchgen.ledger.connection import closed_on_error, connect, opening
from batchgen.ledger.store import VIEWS_STAMP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchgen.ledger.records import NewMark

MAX_NOTE = 10_000  # characters
_PUT = (
    "INSERT INTO mark (sha256, reviewer, verdict, note, scores, at)"
    " VALUES (?1, ?2, coalesce(?3, ''), coalesce(?4, ''), ?5, ?6) ON CONFLICT DO UPDATE SET"
    " verdict = coalesce(?3, verdict), note = coalesce(?4, note), scores = ?5, at = ?6"
    " WHERE verdict <> coalesce(?3, verdict) OR note <> coalesce(?4, note) OR scores <> ?5"
)
# Of two versions of a check, the one that looked last counts.
_SUPERSEDE = "DELETE FROM mark WHERE sha256 = ?1 AND reviewer <> ?2 AND substr(reviewer, 1, length(?3)) = ?3"
_EMPTY = "DELETE FROM mark WHERE sha256 = ? AND reviewer = '' AND verdict = '' AND note = ''"


def write_marks(path: Path, marks: Iterable[NewMark]) -> int:
    """Write marks into the ledger at `path`, all or none; returns how many changed. Durable when it returns.

    Raises CommandError where the file is no ledger of this version, RunStopped where it is locked for long or the disk
    refuses.
    """
    with opening(path), closed_on_error(connect(path, "rw")) as db:
        versions.check(db, path)
    with closing(db):
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # that is for the run, or for the next one
        rows = list(_rows(marks))
        db.execute("BEGIN IMMEDIATE")  # what raises below closes the connection, which rolls back
        before = db.total_changes
        db.executemany(_PUT, rows)
        changed = db.total_changes - before
        checks = [row for row in rows if row[1]]
        db.executemany(_SUPERSEDE, [(*row[:2], f"{str(row[1]).partition('@')[0]}@") for row in checks])
        db.executemany(_EMPTY, [row[:1] for row in rows])
        if changed:
            db.execute("UPDATE meta SET value = '' WHERE key = ?", (VIEWS_STAMP,))
        db.execute("COMMIT")
        return changed


def _rows(marks: Iterable[NewMark]) -> Iterator[tuple[object, ...]]:
    now = int(time.time() * 1000)
    for mark in marks:
        scores = json.dumps(dict(mark.scores), sort_keys=True)
        yield (mark.sha256, mark.reviewer, mark.mark, None if mark.note is None else _note(mark.note), scores, now)


def _note(text: str) -> str:
    """A note as it is kept: cut, without NUL, and with `?` for half a character."""
    return text[:MAX_NOTE].replace("\0", "").encode("utf-8", "replace").decode()
