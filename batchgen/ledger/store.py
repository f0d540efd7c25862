"""`state.sqlite3` for writing: one connection, changed by events alone while a run is going.

While it is written, the file keeps WAL (on a network file system: a rollback journal) and `synchronous=FULL`, so that
what is acknowledged survives a power cut. At rest it is a single file.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from batchgen.errors import CommandError, RunStopped
from batchgen.ledger import versions
from batchgen.ledger.connection import closed_on_error, connect, connect_to_scratch, opening
from batchgen.ledger.events import RehearsalDropped
from batchgen.ledger.reader import TOTALS, LedgerReader
from batchgen.ledger.transitions import REPLACES, apply
from batchgen.storage.tree import check_own_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.events import Event
    from batchgen.shards import Shard

FILE_NAME = "state.sqlite3"
MERGED_NAME = "merged.sqlite3"  # of a folder that is no output: `batchgen merge` wrote it

# Keys of the table `meta`. Any event removes the first two, and `TOTALS`.
VIEWS_STAMP = (
    "views"  # what index.csv and failures.csv looked like when they showed the latest change; a mark empties it
)
FOLDER_TIMES = "folders"  # the times of the image folders when each file was last checked
IMAGES_APART = "images_apart"  # whether images/ was on a disk of its own when a run ended
WANTED_DIGEST = "wanted"  # the digest of the manifest that the wanted jobs and the places of the files are of
SHARD = "shard"  # K/N, where the output has only the jobs of a shard; see `sharding`

T = TypeVar("T")
_BATCH = 1000  # jobs or events
_WORTH_VACUUM = 8 * 1024 * 1024  # bytes


class Ledger(LedgerReader):
    """The state file of one output, or a scratch database that previews a change of it (`preview`).

    Raises CommandError for a file that is not ours or is newer than this batchgen, RunStopped where the
    disk refuses a change.
    """

    _inode = 0  # of the file that is written; 0: none is

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open for writing, and make the file if it is not there. The caller holds the run's lock."""
        with opening(path), closed_on_error(connect(path, "rwc")) as db:
            versions.prepare(db, path)
        ledger = cls(db)
        ledger._inode = path.stat().st_ino
        return ledger

    @staticmethod
    def check_not_lost(path: Path, index: Path, shard: Shard | None = None) -> None:
        """Raise CommandError where there is an index of images, but no ledger."""
        if index.exists() and not (path.exists() and path.stat().st_size):
            audit = f"batchgen audit MANIFEST --adopt{'' if shard is None else f' --shard {shard}'}"
            raise CommandError(
                f"{index} exists, but the ledger {path} is missing or empty, and only the ledger records what was paid"
                f" for. Put it back; or rebuild it from the index, the files and the gateway: `{audit}`; or, to pay for"
                f" everything again, move {index.parent} away or choose another --output."
            )

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Open for reading only, also while a run is writing."""
        with opening(path), closed_on_error(connect(path, "ro")) as db:
            versions.check(db, path)
        return cls(db)

    @classmethod
    def preview(cls, path: Path | None) -> Ledger:
        """Open for reading, with a list of wanted jobs that is written to no file of the output.

        The list goes into a scratch database that SQLite deletes by itself; `path` is None where there is no ledger.
        """
        db = connect_to_scratch()
        if path is None:
            db.executescript(versions.schema())
            return cls(db)
        with opening(path), closed_on_error(db):
            check_own_names(path.parent)
            db.execute("ATTACH ? AS state", (f"{path.absolute().as_uri()}?mode=ro",))
            versions.check(db, path, database="state")
            (wanted,) = db.execute("SELECT sql FROM state.sqlite_master WHERE name = 'wanted'").fetchone()
            db.execute(wanted)
            db.execute("CREATE TABLE main.meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            kept = "INSERT INTO main.meta SELECT * FROM state.meta WHERE key = ? OR key LIKE ?"
            db.execute(kept, (IMAGES_APART, f"{REPLACES}%"))
        return cls(db)

    def close(self) -> None:
        """Close, and fold the log into the file where it was written; a reader in the way leaves it as it is."""
        (_, _, name), *_ = self.db.execute("PRAGMA database_list")
        with suppress(OSError, RunStopped, sqlite3.OperationalError):  # also an unfinished query
            # SQLite removes the log by name, which may be another ledger's now.
            if self._inode == os.stat(name).st_ino:  # noqa: PTH116 - as SQLite names it
                self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()

    def vacuum(self) -> None:
        """Give disk space back that images from inside answers have left; does nothing where the disk is too full.

        It writes the file anew, so it is done only where more than half of a large file is empty.
        """
        names = ("page_size", "freelist_count", "page_count")
        page, free, pages = (self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        if page * free > _WORTH_VACUUM and 2 * free > pages:
            with suppress(RunStopped):
                self.db.execute("VACUUM")

    # --- changes ------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> None:
        """Apply events in one durable commit: all of them or, when this raises, none."""
        self.stage(events)
        self.commit()

    def record_all(self, events: Iterable[Event]) -> None:
        """Apply events in commits of a thousand; when this raises, the commits before are durable."""
        for batch in _batches(events):
            self.record(batch)

    def set_busy_timeout(self, seconds: float) -> None:
        """Set how long a change waits where another program locks the file."""
        self.db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def stage(self, events: Iterable[Event]) -> None:
        """Apply events, for `commit` to make durable: all of them or, when this raises, none."""
        with self._rollback_on_error():
            self.db.execute("BEGIN IMMEDIATE")
            for event in events:
                apply(event, self.db)
            self.db.execute("DELETE FROM meta WHERE key IN (?, ?, ?)", (VIEWS_STAMP, FOLDER_TIMES, TOTALS))

    def commit(self) -> None:
        """Make durable what was staged; when this raises, none of it is. May be called from another thread."""
        with self._rollback_on_error():
            self.db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that is rolled back when its body raises. That of a preview locks no file."""
        with self._rollback_on_error():
            self.db.execute("BEGIN IMMEDIATE" if self._inode else "BEGIN")
            yield
            self.db.execute("COMMIT")

    @contextmanager
    def _rollback_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self.db.in_transaction:
                with suppress(RunStopped):
                    self.db.execute("ROLLBACK")
            raise

    def set_wanted_jobs(self, jobs: Iterable[Job], shard: Shard | None = None) -> int:
        """Replace the list of what the manifest asks for; returns how many jobs there were, equal ones counted each.

        Equal jobs are listed once, at their first position; those of another shard are not listed. Known jobs get the
        names that the manifest now gives them, but not in a preview. Once the files are renamed too, the caller calls
        `mark_reconciled`.
        """
        renames = self._inode and self.db.execute("SELECT 1 FROM job LIMIT 1").fetchone()
        written = 0
        with self.transaction():
            self.db.execute("DELETE FROM main.wanted")
            for batch in _batches(enumerate(jobs)):
                self.db.executemany(
                    "INSERT OR IGNORE INTO main.wanted (seq, job_id, images) VALUES (?, ?, ?)",
                    [(seq, job.id, job.parameters.n) for seq, job in batch if shard is None or shard.has(job.id)],
                )
                if renames:
                    self._rename_jobs(batch)
                written += len(batch)
            self.db.execute("DELETE FROM main.meta WHERE key IN (?, ?, ?)", (WANTED_DIGEST, VIEWS_STAMP, TOTALS))
        return written

    def mark_reconciled(self, digest: str) -> None:
        """Record that the list and the files are those of the manifest with this digest."""
        self.set_meta(WANTED_DIGEST, digest)

    def is_reconciled(self, digest: str) -> bool:
        """Whether the list of wanted jobs, and every file's place, is already that of this manifest."""
        return self.meta(WANTED_DIGEST) == digest

    def set_mtimes(self, times: Sequence[tuple[int, str, int, int, int]]) -> None:
        """Record new times of files whose content is unchanged: (mtime_ns, *image key)."""
        with self.transaction():
            self.db.executemany(
                "UPDATE image SET mtime_ns = ? WHERE job_id = ? AND attempt = ? AND idx = ? AND marked = ?", times
            )

    def set_meta(self, key: str, value: str) -> None:
        """Keep a value of the table `meta`."""
        with self.transaction():
            self.db.execute("INSERT OR REPLACE INTO main.meta (key, value) VALUES (?, ?)", (key, value))

    def swap_meta(self, key: str, before: str, after: str) -> bool:
        """Change a value of the table `meta`; False where it is no longer what it was."""
        with self.transaction():
            changed = self.db.execute(
                "UPDATE main.meta SET value = ? WHERE key = ? AND value = ?", (after, key, before)
            )
        return changed.rowcount == 1

    def cache_totals(self) -> None:
        """Keep the totals over all jobs: to count a million of them takes a run with nothing to do 10 s."""
        self.set_meta(TOTALS, json.dumps({"counts": self.counts(), "images_in_index": self.images_in_index()}))

    # --- previews -----------------------------------------------------------------------------------------

    def preview_current_jobs(self) -> None:
        """Copy the ledger's own list of wanted jobs into the scratch database."""
        self.db.execute("INSERT INTO main.wanted SELECT * FROM state.wanted")

    def preview_drop_rehearsals(self, base_urls: Sequence[str]) -> frozenset[str]:
        """Drop the jobs that a sandbox made, in the scratch database, as a run would; returns their ids.

        Where there are any, the scratch database gets copies of the tables.
        """
        ids = self.rehearsed_jobs(base_urls)
        if ids:
            tables = self.db.execute(
                "SELECT sql FROM state.sqlite_master WHERE tbl_name IN ('job', 'attempt', 'image') AND sql IS NOT NULL"
                " ORDER BY type DESC"
            )
            for (sql,) in tables.fetchall():
                self.db.execute(sql)
            for table in ("job", "attempt", "image"):
                self.db.execute(f"INSERT INTO main.{table} SELECT * FROM state.{table}")  # noqa: S608 - constants
            with self.transaction():
                for id_ in ids:
                    apply(RehearsalDropped(job_id=id_, base_urls=tuple(base_urls)), self.db)
        return frozenset(ids)

    def _rename_jobs(self, batch: list[tuple[int, Job]]) -> None:
        """Where equal jobs have different names, the first one's count."""
        rows = [(job.to_json(), job.id, seq) for seq, job in batch]
        self.db.executemany(
            "UPDATE job SET request = ?1 WHERE id = ?2 AND request <> ?1"
            " AND EXISTS (SELECT 1 FROM wanted WHERE job_id = ?2 AND seq = ?3)",
            rows,
        )


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    stream = iter(items)
    while batch := list(islice(stream, _BATCH)):
        yield batch


def check_not_merged(root: Path) -> None:
    """Raise CommandError for a folder that `batchgen merge` wrote: it is no output."""
    if (root / MERGED_NAME).exists():
        raise CommandError(
            f"{root} was put together by `batchgen merge`: it can be exported, shown and reported on, and nothing is"
            " made, checked or marked in it. Name one of the outputs that it was made of with --output."
        )


def path_in(root: Path, purpose: str, *, merged: bool = False) -> Path:
    """The ledger of an output. Raises CommandError where there is none; `purpose` is a verb, such as `verify`.

    `merged`: or the one that `batchgen merge` wrote.
    """
    if merged and (root / MERGED_NAME).exists():
        return root / MERGED_NAME
    check_not_merged(root)
    if not (path := root / FILE_NAME).exists():
        raise CommandError(
            f"There is no output in {root} to {purpose}. First use `batchgen run` with the same options."
        )
    return path


@contextmanager
def reading(path: Path) -> Iterator[Ledger]:
    """The ledger for reading only, closed afterwards. Raises CommandError where the file is no ledger."""
    with opening(path), closing(Ledger.read(path)) as ledger:
        yield ledger
