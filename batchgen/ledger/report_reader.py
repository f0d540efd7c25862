"""Figures over all attempts of an output, for `batchgen report`. Every answer is a value; no caller sees SQL.

SQLite adds up and sorts, on the disk where there is much: a million attempts need no more memory than a thousand.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

# One row an attempt, made once: each table of the report reads it again.
_ATTEMPTS = (
    "CREATE TEMP TABLE reported AS SELECT job_id, number, account, intended_at, accepted_at, ended_at,"
    " json_extract(request, '$.parameters.model') AS model, attempt.images AS units, reserved, cost, outcome,"
    " attempt.code AS code, attempt.message AS message, (SELECT count(*) FROM image WHERE image.job_id = attempt.job_id"
    " AND image.attempt = number AND marked = 0 AND sha256 IS NOT NULL) AS delivered"
    " FROM attempt JOIN job ON job.id = job_id WHERE intended_at >= {since:d}"
)
_SUMS = (
    "account, count(*), coalesce(sum(delivered), 0), coalesce(sum(cost), 0),"
    " sum(outcome = 'made' AND cost IS NULL),"
    " coalesce(sum(CASE WHEN cost IS NULL AND outcome IN ('', 'unknown', 'lost') THEN reserved END), 0)"
)
_ENDED_SHORT = "('failed', 'rejected', 'unknown', 'gone', 'partial')"
_MADE_NOTHING = "('refused', 'failed', 'unknown', 'lost')"


class Total(NamedTuple):
    """What attempts of one kind at one account made and cost, in millionths of the account's unit."""

    key: str
    account: str
    attempts: int
    images: int  # downloaded
    cost: int
    unpriced: int  # attempts that were made for a price that is not known
    reserved: int  # of attempts whose charge is not known yet


class Cause(NamedTuple):
    """Why jobs or attempts ended without images: how many, and an example."""

    kind: str  # a job's status, or an attempt's outcome
    code: str
    message: str
    jobs: int
    job_id: str
    prompt: str


class Causes(NamedTuple):
    """The most frequent causes, and how many different ones there are."""

    listed: list[Cause]
    kinds: int


class Verdicts(NamedTuple):
    """How often a reviewer gave a verdict; the note is of checks only."""

    reviewer: str  # '' for people
    verdict: str
    note: str
    images: int


class ReportReader:
    """Aggregates of one ledger, of attempts that were begun at `since` (Unix ms) or later."""

    def __init__(self, db: sqlite3.Connection, since: int = 0) -> None:
        self._db = db
        self._since = since
        db.execute(_ATTEMPTS.format(since=since))

    def by_model(self) -> list[Total]:
        """Totals by model and account."""
        return self._totals("model")

    def by_day(self, days: int) -> list[Total]:
        """Totals by day (UTC) and account; by month where there are more than so many days."""
        day = "date(intended_at / 1000, 'unixepoch')"
        (found,) = self._db.execute(f"SELECT count(DISTINCT {day}) FROM reported").fetchone()
        return self._totals(day if found <= days else f"substr({day}, 1, 7)")

    def _totals(self, key: str) -> list[Total]:
        query = f"SELECT {key} AS key, {_SUMS} FROM reported GROUP BY 1, account ORDER BY 1, account"
        return [Total(*row) for row in self._db.execute(query)]

    def by_label(self, most: int) -> Iterator[tuple[str, list[Total], int]]:
        """For each label its values with the most images, up to so many, and how many values it has."""
        rows = self._db.execute(
            f"SELECT label.key, label.value, sum(sum(delivered)) OVER (PARTITION BY label.key, label.value) AS images,"
            f" {_SUMS} FROM reported JOIN job ON job.id = job_id, json_each(request, '$.labels') AS label"
            " GROUP BY label.key, label.value, account ORDER BY label.key, images DESC, label.value, account"
        )
        for name, of_label in groupby(rows, key=lambda row: str(row[0])):
            totals, values = [], 0
            for value, of_value in groupby(of_label, key=lambda row: str(row[1])):
                values += 1
                each = [Total(value, *row[3:]) for row in of_value]
                totals += each if values <= most else []
            yield name, totals, values

    def span(self) -> tuple[int, int]:
        """When the first attempt began and the last one began or ended, in Unix ms; zeros where there was none."""
        query = "SELECT min(intended_at), max(max(intended_at, coalesce(ended_at, 0))) FROM reported"
        first, last = self._db.execute(query).fetchone()
        return first or 0, last or 0

    def slots(self, first: int, width: int) -> list[float]:
        """The mean number of images in flight in each interval of `width` ms from `first` on.

        The sum of the time that attempts have held slots until a moment follows from how many began and ended before
        it, and when: the difference of two moments is what was held between them.
        """
        _, last = self.span()
        moments = [
            self._db.execute(
                f"SELECT (at - ?1) / ?2, sum(units), sum(units * (at - ?1)) FROM (SELECT units, {at} AS at"
                " FROM reported) GROUP BY 1 ORDER BY 1",
                (first, width, last),
            ).fetchall()
            for at in ("coalesce(intended_at, ?3)", "coalesce(ended_at, ?3)")
        ]
        count = (last - first) // width + 1
        begun, ended = (_held_until(found, count, width) for found in moments)
        held = [a - b for a, b in zip(begun, ended, strict=True)]
        return [max(0.0, (after - before) / width) for before, after in pairwise(held)]

    def latencies(self) -> list[tuple[float, int]]:
        """Seconds from acceptance to the end of a task that was made, in tenths, and how many took that long."""
        rows = self._db.execute(
            "SELECT max(0, ended_at - accepted_at) / 100, count(*) FROM reported"
            " WHERE outcome = 'made' AND accepted_at IS NOT NULL AND ended_at IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        return [(tenths / 10, count) for tenths, count in rows]

    def failures(self, most: int) -> Causes:
        """Why wanted jobs ended without all their images: the most frequent causes, up to so many."""
        return self._causes(
            "job.status, job.code, job.message",
            "JOIN wanted ON wanted.job_id = reported.job_id"
            f" WHERE reported.number = job.attempt AND job.status IN {_ENDED_SHORT}",
            most,
        )

    def refusals(self, most: int) -> Causes:
        """Why attempts made nothing, also those whose job was made by a later one."""
        what = "reported.outcome, reported.code, reported.message"
        return self._causes(what, f"WHERE reported.outcome IN {_MADE_NOTHING}", most)

    def _causes(self, what: str, where: str, most: int) -> Causes:
        rows = self._db.execute(
            "SELECT found.*, substr(json_extract(request, '$.prompt'), 1, 300), count(*) OVER () FROM"
            f" (SELECT {what}, count(*) AS number, min(reported.job_id) AS example FROM reported"
            f" JOIN job ON job.id = reported.job_id {where} GROUP BY 1, 2, 3) AS found"
            " JOIN job ON job.id = example ORDER BY number DESC, 1, 2, 3 LIMIT ?",
            (most,),
        ).fetchall()
        return Causes([Cause(*row[:-1]) for row in rows], rows[0][-1] if rows else 0)

    def verdicts(self, most: int) -> list[Verdicts]:
        """How often people and checks gave each verdict, and checks for which reason: the most frequent ones."""
        rows = self._db.execute(
            "SELECT reviewer, verdict, CASE WHEN reviewer = '' THEN '' ELSE note END, count(*) FROM mark WHERE at >= ?"
            " GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC, 2, 3 LIMIT ?",
            (self._since, most),
        )
        return [Verdicts(*row) for row in rows]


def _held_until(moments: Iterable[tuple[int, int, int]], count: int, width: int) -> list[int]:
    """For each end of an interval: the sum, over what happened before it, of the units times the time since (ms)."""
    by_interval = {interval: (units, times) for interval, units, times in moments}
    units = times = 0
    sums = [0]
    for interval in range(count):
        more_units, more_times = by_interval.get(interval, (0, 0))
        units, times = units + more_units, times + more_times
        sums.append(units * (interval + 1) * width - times)
    return sums
