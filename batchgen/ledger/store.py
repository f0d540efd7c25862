"""`state.sqlite3` for writing: one connection, changed by events alone while a run is going.

The file keeps WAL (on a network file system: a rollback journal) and `synchronous=FULL` while it is written,
so that what is acknowledged survives a power cut, and is folded into a single file at rest; a version, so that
a later batchgen can read an earlier file and an earlier one refuses a later file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from contextlib import contextmanager, suppress
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING

from batchgen.errors import CommandError, RunStopped
from batchgen.jobs import ID_VERSION
from batchgen.ledger.connection import check_no_links, connect, connect_to_nothing, opening
from batchgen.ledger.events import RehearsalDropped
from batchgen.ledger.migrations import migrate
from batchgen.ledger.mounts import shared_kind
from batchgen.ledger.reader import SUMS, LedgerReader
from batchgen.ledger.rehearsals import rehearsed_jobs
from batchgen.ledger.transitions import apply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.events import Event

VERSION = 2
APPLICATION_ID = 0x62677331  # "bgs1", by which `file` and we know the file as ours
FILE_NAME = "state.sqlite3"
_VIEWS_STAMP = "views"  # that index.csv and failures.csv show the latest change; any event removes it
_FOLDER_TIMES = "folders"  # when every file had been looked at; any event removes it
_WANTED_DIGEST = "wanted"
IMAGES_APART = "images_apart"  # whether images/ was on a disk of its own when a run ended
_BATCH = 1000
_WORTH_SHRINKING = 8 * 1024 * 1024  # bytes


class Ledger(LedgerReader):
    """The state file of one output, or a scratch copy of its questions (`preview`).

    Raises CommandError for a file that is not ours or is newer than this batchgen, RunStopped where the
    disk refuses a change.
    """

    _inode = 0  # of the file that is written

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open for writing, and make the file if it is not there. The caller holds the run's lock."""
        with opening(path):
            db = connect(path, "rwc")
            _prepare(db, path)
        ledger = cls(db)
        ledger._inode = path.stat().st_ino
        return ledger

    @staticmethod
    def check_not_lost(path: Path, index: Path) -> None:
        """Raise CommandError where there is an index of images but not the ledger that knows what was paid for."""
        if index.exists() and not (path.exists() and path.stat().st_size):
            raise CommandError(
                f"{index} is here, but the ledger {path} is missing or empty, and it alone knows what was paid for."
                " Put it back; or make it anew from the index, the files and the gateway: `batchgen audit MANIFEST"
                f" --adopt`; or, to pay for everything again, move {index.parent} away or choose another --output."
            )

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Open for questions only, also while a run is writing."""
        with opening(path):
            db = connect(path, "ro")
            _check(db, path, "main")
            _check_is_new(db, path, "main")
        return cls(db)

    @classmethod
    def preview(cls, path: Path | None) -> Ledger:
        """LedgerReader about a list of wanted jobs that is written to no file of the output.

        The list goes into a scratch database that SQLite deletes by itself; `path` is None where there
        is no ledger yet.
        """
        db = connect_to_nothing()
        if path is None:
            db.executescript(_schema())
            return cls(db)
        with opening(path):
            check_no_links(path)
            db.execute("ATTACH ? AS state", (f"{path.absolute().as_uri()}?mode=ro",))
            _check(db, path, "state")
            _check_is_new(db, path, "state")
            (wanted,) = db.execute("SELECT sql FROM state.sqlite_master WHERE name = 'wanted'").fetchone()
            db.execute(wanted)
            db.execute("CREATE TABLE main.meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            db.execute("INSERT INTO main.meta SELECT * FROM state.meta WHERE key = ?", (IMAGES_APART,))
        return cls(db)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close; a reader in the way leaves it as it is."""
        if self._is_in_place():
            with suppress(RunStopped, sqlite3.OperationalError):  # also a question that was left half-way
                self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()

    def _is_in_place(self) -> bool:
        """Whether the file still has its name: SQLite removes the log by name, which may be another ledger's now."""
        (_, _, name), *_ = self.db.execute("PRAGMA database_list")
        with suppress(OSError):
            return self._inode == os.stat(name).st_ino  # noqa: PTH116 - as SQLite names it
        return False

    def shrink(self) -> None:
        """Give room back to the disk that images from inside answers have left; not where it is too full for that.

        Writes all that is left anew, so it is done only where most of a large file is empty.
        """
        sizes = [
            self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "freelist_count", "page_count")
        ]
        page, free, all_of_it = sizes
        if page * free > _WORTH_SHRINKING and 2 * free > all_of_it:
            with suppress(RunStopped):
                self.db.execute("VACUUM")

    # --- changes ------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> None:
        """Apply events in one durable commit: all of them or, when this raises, none."""
        self.stage(events)
        self.commit()

    def wait_at_most(self, seconds: float) -> None:
        """How long a change waits where another program holds the file."""
        self.db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def stage(self, events: Iterable[Event]) -> None:
        """Apply events, for `commit` to make durable: all of them or, when this raises, none."""
        with self._undone_on_error():
            self.db.execute("BEGIN IMMEDIATE")
            for event in events:
                apply(event, self.db)
            self.db.execute("DELETE FROM meta WHERE key IN (?, ?, ?)", (_VIEWS_STAMP, _FOLDER_TIMES, SUMS))

    def commit(self) -> None:
        """Make durable what was staged; when this raises, none of it is. May be called from another thread."""
        with self._undone_on_error():
            self.db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that is undone when its body raises."""
        with self._undone_on_error():
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self.db.in_transaction:
                with suppress(RunStopped):
                    self.db.execute("ROLLBACK")
            raise

    def want(self, jobs: Iterable[Job]) -> None:
        """Replace the list of what the manifest asks for. Equal jobs are wanted once, where they first stand.

        Jobs that are known take over the names that the manifest now gives them. When the files have followed,
        `settled_for` is to be told.
        """
        known = self.db.execute("SELECT 1 FROM job LIMIT 1").fetchone() is not None
        with self.transaction():
            self.db.execute("DELETE FROM main.wanted")
            for batch in _batches(enumerate(jobs)):
                self._insert_wanted(batch)
                if known:
                    self._take_over_names(batch)
            self.db.execute("DELETE FROM main.meta WHERE key IN (?, ?, ?)", (_WANTED_DIGEST, _VIEWS_STAMP, SUMS))

    def preview_want(self, jobs: Iterable[Job]) -> int:
        """`want` into the scratch database of a preview: the ledger's own file is not touched.

        Returns how many jobs there were, equal ones counted each.
        """
        written = 0
        self.db.execute("BEGIN")
        self.db.execute("DELETE FROM main.wanted")
        for batch in _batches(enumerate(jobs)):
            self._insert_wanted(batch)
            written += len(batch)
        self.db.execute("COMMIT")
        return written

    def preview_as_settled(self) -> None:
        """Take the ledger's own list of wanted jobs into the scratch database of a preview."""
        self.db.execute("INSERT INTO main.wanted SELECT * FROM state.wanted")

    def preview_drop_rehearsals(self, base_url: str) -> frozenset[str]:
        """The jobs of which a sandbox painted something, dropped from a preview as a run would drop them.

        Where there are any, the preview gets copies of the tables.
        """
        ids = rehearsed_jobs(self, base_url)
        if ids:
            made = self.db.execute(
                "SELECT sql FROM state.sqlite_master WHERE tbl_name IN ('job', 'attempt', 'image') AND sql IS NOT NULL"
                " ORDER BY type DESC"
            )
            for (sql,) in made.fetchall():
                self.db.execute(sql)
            for table in ("job", "attempt", "image"):
                self.db.execute(f"INSERT INTO main.{table} SELECT * FROM state.{table}")  # noqa: S608 - constants
            self.db.execute("BEGIN")
            for id_ in ids:
                apply(RehearsalDropped(job_id=id_, base_url=base_url), self.db)
            self.db.execute("COMMIT")
        return frozenset(ids)

    def settle_for(self, digest: str) -> None:
        """Note that the list and the files are those of the manifest with this digest."""
        with self.transaction():
            self._set(_WANTED_DIGEST, digest)

    def is_settled_for(self, digest: str) -> bool:
        """Whether the list of wanted jobs, and every file's place, is already that of this manifest."""
        return self.note(_WANTED_DIGEST) == digest

    def touch(self, times: Sequence[tuple[int, str, int, int, int]]) -> None:
        """Record that files with a new time of change hold what they held: (mtime_ns, job id, …)."""
        with self.transaction():
            self.db.executemany(
                "UPDATE image SET mtime_ns = ? WHERE job_id = ? AND attempt = ? AND idx = ? AND marked = ?", times
            )

    def set_note(self, key: str, value: str) -> None:
        """Keep a value of the table `meta`."""
        with self.transaction():
            self._set(key, value)

    def stamp_views(self, stamp: str) -> None:
        """Note what the views looked like when they showed the latest change."""
        with self.transaction():
            self._set(_VIEWS_STAMP, stamp)

    def views_stamp(self) -> str | None:
        """What `stamp_views` noted, or None when something has changed since."""
        return self.note(_VIEWS_STAMP)

    def note_folder_times(self, times: Mapping[str, int]) -> None:
        """Note the times (ns) that the folders had before all their files were looked at and found whole."""
        with self.transaction():
            self._set(_FOLDER_TIMES, json.dumps(times))

    def folder_times(self) -> dict[str, int]:
        """What `note_folder_times` noted; empty when anything was recorded since."""
        return dict(json.loads(self.note(_FOLDER_TIMES) or "{}"))

    def sum_up(self) -> None:
        """Note the sums over all jobs, so that a run with nothing to do need not read a million rows to know it."""
        sums = {"counts": self.counts(), "images_in_index": self.images_in_index()}
        with self.transaction():
            self._set(SUMS, json.dumps(sums))

    def _insert_wanted(self, batch: list[tuple[int, Job]]) -> None:
        self.db.executemany(
            "INSERT OR IGNORE INTO main.wanted (seq, job_id, images) VALUES (?, ?, ?)",
            [(seq, job.id, job.parameters.n) for seq, job in batch],
        )

    def _take_over_names(self, batch: list[tuple[int, Job]]) -> None:
        """Where equal jobs have different names, the first one's count."""
        rows = [(job.to_json(), job.id, seq) for seq, job in batch]
        self.db.executemany(
            "UPDATE job SET request = ?1 WHERE id = ?2 AND request <> ?1"
            " AND EXISTS (SELECT 1 FROM wanted WHERE job_id = ?2 AND seq = ?3)",
            rows,
        )

    def _set(self, key: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO main.meta (key, value) VALUES (?, ?)", (key, value))


def _batches(jobs: Iterable[tuple[int, Job]]) -> Iterator[list[tuple[int, Job]]]:
    stream = iter(jobs)
    while batch := list(islice(stream, _BATCH)):
        yield batch


def _schema() -> str:
    return resources.files("batchgen.ledger").joinpath("schema.sql").read_text(encoding="utf-8")


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        now = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        first = f"INSERT INTO meta (key, value) VALUES ('id_version', '{ID_VERSION}'), ('lineage', '{uuid.uuid4()}');"  # noqa: S608
        db.executescript(f"BEGIN; {_schema()} {now} {first} COMMIT;")
    _check(db, path, "main")
    migrate(db, VERSION)
    db.execute(f"PRAGMA journal_mode = {'DELETE' if shared_kind(path.parent) else 'WAL'}")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 10000")
    db.execute("PRAGMA cache_size = -8192")


def _check(db: sqlite3.Connection, path: Path, schema: str) -> None:
    (application,) = db.execute(f"PRAGMA {schema}.application_id").fetchone()
    (version,) = db.execute(f"PRAGMA {schema}.user_version").fetchone()
    if application != APPLICATION_ID:
        raise CommandError(f"{path} is not a ledger of batchgen. Give another folder with --output.")
    if version > VERSION:
        raise CommandError(
            f"{path} was written by a later batchgen (ledger version {version}, this one reads up to {VERSION})."
            " Update batchgen; nothing was changed."
        )


def _check_is_new(db: sqlite3.Connection, path: Path, schema: str) -> None:
    """Who only reads cannot bring an earlier ledger up to this version."""
    (version,) = db.execute(f"PRAGMA {schema}.user_version").fetchone()
    if version < VERSION:
        raise CommandError(
            f"{path} was written by an earlier batchgen (ledger version {version}, this one has {VERSION})."
            " The next `batchgen run` brings it up to date; nothing was changed."
        )


@contextmanager
def reading(path: Path) -> Iterator[Ledger]:
    """The ledger for questions only, closed afterwards; what is wrong with the file is said as CommandError."""
    with opening(path):
        ledger = Ledger.read(path)
        try:
            yield ledger
        finally:
            ledger.db.close()  # to fold the write-ahead log is the writer's, who may be at work
