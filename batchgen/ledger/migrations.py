"""Brings a ledger of an earlier version up to this one's, a step a version, each in one transaction.

For a new version: raise `VERSION` in `store`, change `schema.sql`, add here the SQL that makes the same of the version
before, and keep a file of that version under `tests/ledgers/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

STEPS: Mapping[int, str] = {}  # from a version to the next one


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
