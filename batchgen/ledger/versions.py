"""The versions of `state.sqlite3`: makes a new file, brings an earlier one up to date, refuses a later one.

For a new version: raise `VERSION`, change `schema.sql`, add to `STEPS` the SQL that makes the same of the version
before, and keep a file of that version under `tests/cases/ledgers/`.
"""

from __future__ import annotations

import uuid
from importlib import resources
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.jobs import ID_VERSION
from batchgen.ledger.mounts import shared_kind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

VERSION = 3
APPLICATION_ID = 0x62677331  # "bgs1", by which `file` and batchgen recognise a ledger

STEPS: Mapping[int, str] = {  # from a version to the next one
    # An attempt of version 1 recorded neither its key nor whether it carried its id: where its answer was lost, "not
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
    2: """
        CREATE TABLE mark (
            sha256 TEXT NOT NULL,
            reviewer TEXT NOT NULL,
            verdict TEXT NOT NULL,
            note TEXT NOT NULL DEFAULT '',
            scores TEXT NOT NULL DEFAULT '{}',
            at INTEGER NOT NULL,
            PRIMARY KEY (sha256, reviewer)
        ) WITHOUT ROWID;
    """,
}


def schema() -> str:
    """The SQL of all tables of this version."""
    return resources.files("batchgen.ledger").joinpath("schema.sql").read_text(encoding="utf-8")


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file, or migrate an earlier one, and set up the connection for writing."""
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        now = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        first = f"INSERT INTO meta (key, value) VALUES ('id_version', '{ID_VERSION}'), ('lineage', '{uuid.uuid4()}');"  # noqa: S608
        db.executescript(f"BEGIN; {schema()} {now} {first} COMMIT;")
    check(db, path, oldest=1)
    migrate(db, VERSION)
    db.execute(f"PRAGMA journal_mode = {'DELETE' if shared_kind(path.parent) else 'WAL'}")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 10000")
    db.execute("PRAGMA cache_size = -8192")


def check(db: sqlite3.Connection, path: Path, *, database: str = "main", oldest: int = VERSION) -> None:
    """Raise CommandError for a file that is no ledger, or of a version before `oldest` or after this one's."""
    (application,) = db.execute(f"PRAGMA {database}.application_id").fetchone()
    (version,) = db.execute(f"PRAGMA {database}.user_version").fetchone()
    if application != APPLICATION_ID:
        raise CommandError(f"{path} is not a ledger of batchgen. Choose another folder with --output.")
    if version > VERSION:
        raise CommandError(
            f"{path} was written by a later batchgen (ledger version {version}, this one reads up to {VERSION})."
            " Update batchgen; nothing was changed."
        )
    if version < oldest:  # a reader cannot migrate the file
        raise CommandError(
            f"{path} was written by an earlier batchgen (ledger version {version}, this one has {VERSION})."
            " The next `batchgen run` brings it up to date; nothing was changed."
        )


def migrate(db: sqlite3.Connection, to: int, steps: Mapping[int, str] = STEPS) -> None:
    """Go from the file's version to `to`, one transaction a step; a step that fails leaves the file as it was.

    Raises sqlite3.Error as SQLite does.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number in range(version, to):
        with db:  # which rolls back what was not committed
            db.executescript(f"BEGIN IMMEDIATE; {steps[number]}; PRAGMA user_version = {number + 1}; COMMIT;")
