"""Brings a ledger of an earlier version up to this one's, a step a version, each in one transaction.

For a new version: raise `VERSION` in `store`, change `schema.sql`, add here the SQL that makes the same of the version
before, and keep a file of that version under `tests/cases/ledgers/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

STEPS: Mapping[int, str] = {  # from a version to the next one
    # An attempt of version 1 did not record its key, nor whether it carried its id: where its answer was lost, "not
    # found" proves nothing.
    1: """
        ALTER TABLE attempt ADD COLUMN key_print TEXT NOT NULL DEFAULT '';
        ALTER TABLE attempt ADD COLUMN id_sent INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE attempt ADD COLUMN rehearsal INTEGER NOT NULL DEFAULT 0;
        UPDATE attempt SET rehearsal = 1 WHERE base_url = '';
        ALTER TABLE image ADD COLUMN lost_path TEXT;
        ALTER TABLE image ADD COLUMN lost_sha256 TEXT;
        ALTER TABLE image ADD COLUMN warning TEXT NOT NULL DEFAULT '';
    """,
}


def migrate(db: sqlite3.Connection, to: int, steps: Mapping[int, str] = STEPS) -> None:
    """Go from the file's version to `to`; where a step fails, the file stays as it was before that step.

    Raises sqlite3.Error as SQLite does.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number in range(version, to):
        try:
            db.executescript(f"BEGIN IMMEDIATE; {steps[number]}; PRAGMA user_version = {number + 1}; COMMIT;")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
