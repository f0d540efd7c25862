"""`merged.sqlite3`: what several ledgers know of their images and costs, in one file from which nothing can be run.

It has the tables of a ledger, so that what reads an output reads it too. Links, keys' fingerprints and answers are left
out: money is answered for by the ledgers alone, which are opened for reading only.
"""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.jobs import Status
from batchgen.ledger import versions
from batchgen.ledger.connection import connect, opening
from batchgen.ledger.store import FILE_NAME, MERGED_NAME, SHARD, VIEWS_STAMP, WANTED_DIGEST, path_in, reading
from batchgen.shards import Shard
from batchgen.storage.tree import check_own_names

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_COPIED = {
    "job": "id, status, request, attempt, failures, code, message",
    "attempt": "job_id, number, account, base_url, external_id, intended_at, accepted_at, ended_at, task_id, found,"
    " images, reserved, cost, outcome, code, message, '', '', id_sent, rehearsal",
    # the name of the output is put between the top folder and the rest of a path
    "image": "job_id, attempt, idx, marked, '', substr(path, 1, instr(path, '/')) || :name ||"
    " substr(path, instr(path, '/')), sha256, bytes, width, height, mtime_ns, fetched_at, NULL, NULL, warning",
    "wanted": "seq + :after, job_id, images",
    "mark": "*",
}
# Of two outputs that have the same picture, what was said last counts.
_LATER = (
    " WHERE TRUE ON CONFLICT (sha256, reviewer) DO UPDATE SET verdict = excluded.verdict, note = excluded.note,"
    " scores = excluded.scores, at = excluded.at WHERE excluded.at > mark.at"
)
_IN_BOTH = (
    "SELECT id FROM (SELECT id FROM of_output.job UNION SELECT job_id FROM of_output.wanted)"
    " WHERE id IN (SELECT id FROM main.job UNION SELECT job_id FROM main.wanted) ORDER BY id LIMIT 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An output that is merged."""

    root: Path
    lineage: str
    shard: Shard | None
    digest: str  # of the manifest as the output last had it, without the shard
    unfinished: int  # jobs that are to be made or have not ended
    escapes_formulas: bool

    @classmethod
    def read(cls, root: Path) -> Source:
        """What an output's ledger says of itself. Raises CommandError where the folder is no output."""
        with reading(path_in(root, "merge")) as ledger:
            kept = ledger.meta(SHARD)
            counts = ledger.counts()
            live = (Status.PENDING, Status.INTENT, Status.SUBMITTED, Status.MADE)
            return cls(
                root=root,
                lineage=ledger.meta("lineage") or "",
                shard=Shard.parse(kept) if kept else None,
                digest=(ledger.meta(WANTED_DIGEST) or "").partition(" ")[0],
                unfinished=sum(counts.get(status, 0) for status in live),
                escapes_formulas=(ledger.meta(VIEWS_STAMP) or "").endswith("guarded"),
            )


def write_merged(folder: Path, sources: Sequence[tuple[str, Source]], *, in_order: bool) -> None:
    """Write the ledger of these outputs, each with its name in paths, beside and then into its place.

    `in_order`: positions of jobs are those of one manifest; otherwise one output comes after the other. Raises
    CommandError where two outputs have the same job.
    """
    beside = folder / f".{MERGED_NAME}.new"
    try:
        for name in (beside.name, f"{beside.name}-journal"):
            (folder / name).unlink(missing_ok=True)
        with opening(beside), closing(connect(beside, "rwc")) as db:
            _prepare(db, sources)
            after = 0
            for number, (name, source) in enumerate(sources):
                _add(db, name, source, after, [each for _, each in sources[:number]])
                if not in_order:
                    (after,) = db.execute("SELECT coalesce(max(seq) + 1, 0) FROM wanted").fetchone()
        beside.replace(folder / MERGED_NAME)
    finally:
        beside.unlink(missing_ok=True)


def _prepare(db: sqlite3.Connection, sources: Iterable[tuple[str, Source]]) -> None:
    lineages = " ".join(source.lineage for _, source in sources)
    outputs = [
        {
            "name": name,
            "output": str(source.root.resolve()),
            "shard": str(source.shard or ""),
            "lineage": source.lineage,
        }
        for name, source in sources
    ]
    db.executescript(
        f"BEGIN; {versions.schema()} PRAGMA application_id = {versions.APPLICATION_ID};"
        f" PRAGMA user_version = {versions.VERSION}; COMMIT;"
    )
    db.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?)",
        [("lineage", str(uuid.uuid5(uuid.NAMESPACE_OID, lineages))), ("outputs", json.dumps(outputs))],
    )


def _add(db: sqlite3.Connection, name: str, source: Source, after: int, earlier: Iterable[Source]) -> None:
    check_own_names(source.root)
    path = source.root / FILE_NAME
    db.execute("ATTACH ? AS of_output", (f"{path.absolute().as_uri()}?mode=ro",))
    db.execute("BEGIN")  # one state of the ledger, also during a run
    twice = db.execute(_IN_BOTH).fetchone()
    if twice is not None:
        others = ", ".join(str(each.root) for each in earlier)
        raise CommandError(
            f"The job {twice[0]} is in {source.root} and in {others}: its images would be there twice. Outputs are"
            " merged that have no job in common, such as the shards of a manifest. Nothing was written."
        )
    for table, columns in _COPIED.items():
        copy = f"INSERT INTO main.{table} SELECT {columns} FROM of_output.{table}"  # noqa: S608 - constants
        db.execute(copy + (_LATER if table == "mark" else ""), {"name": name, "after": after})
    db.execute("COMMIT")
    db.execute("DETACH of_output")
