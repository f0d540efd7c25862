"""What can be asked of the ledger. Every answer is a value; no caller sees SQL."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchgen.jobs import Job, Status
from batchgen.ledger.image_queries import DELIVERING, ImageQuestions
from batchgen.ledger.payments import unpriced_attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SUMS = "sums"  # what `Ledger.sum_up` noted; any event removes it


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """How a wanted job stands; `status` is pending where the ledger has never heard of it."""

    seq: int
    job_id: str
    status: Status
    attempt: int
    failures: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """A job that was begun and has not ended: what the next run takes up."""

    job: Job
    status: Status
    attempt: int
    failures: int
    account: str
    base_url: str  # where it was sent
    external_id: str
    task_id: str | None
    intended_at: int  # Unix ms
    accepted_at: int | None  # Unix ms
    wanted: bool  # whether the manifest still asks for it
    id_sent: bool  # whether its create carried external_id
    key_print: str  # fingerprint of the key that it was sent with; empty where that is not known
    reserved: int | None  # the price when it was sent, in millionths; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """What a row of index.csv is made of. Times in Unix ms, cost of the whole task in millionths."""

    job: Job
    index: int
    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    account: str
    task_id: str
    attempts: int
    submitted_at: int | None
    finished_at: int | None
    cost: int | None
    delivered: int
    warning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """What a row of failures.csv is made of."""

    job: Job
    status: Status
    code: str
    message: str
    attempts: int
    task_id: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was paid or may have to be paid so far: charges, else reservations, of attempts not known unpaid."""

    images: int
    cost: int  # millionths
    unpriced: int  # tasks without a known price


class LedgerReader(ImageQuestions):
    """LedgerReader on one connection to the ledger."""

    def note(self, key: str) -> str | None:
        """A value of the table `meta`."""
        row = self.db.execute("SELECT value FROM main.meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def sums(self) -> dict[str, Any]:
        """Sums over all jobs, as they were at the end of a run; empty when anything has changed since."""
        return dict(json.loads(self.note(SUMS) or "{}"))

    def counts(self) -> dict[Status, int]:
        """How many wanted jobs stand how."""
        if sums := self.sums():
            return {Status(status): number for status, number in sums["counts"].items()}
        rows = self.db.execute(
            "SELECT coalesce(job.status, 'pending') AS standing, count(*) FROM wanted"
            " LEFT JOIN job ON job.id = wanted.job_id GROUP BY standing"
        )
        return {Status(status): number for status, number in rows}

    def page(self, start: int, stop: int) -> list[JobState]:
        """How the wanted jobs at positions start <= seq < stop stand; repetitions of a job have no row."""
        rows = self.db.execute(
            "SELECT seq, job_id, coalesce(status, 'pending'), coalesce(attempt, 0), coalesce(failures, 0),"
            " coalesce(code, ''), coalesce(message, '')"
            " FROM wanted LEFT JOIN job ON job.id = wanted.job_id WHERE seq >= ? AND seq < ? ORDER BY seq",
            (start, stop),
        )
        return [
            JobState(
                seq=seq,
                job_id=job_id,
                status=Status(status),
                attempt=attempt,
                failures=failures,
                code=code,
                message=message,
            )
            for seq, job_id, status, attempt, failures, code, message in rows
        ]

    def anything_to_do(self) -> bool:
        """Whether any wanted job is still to be begun or any begun one is still to be finished."""
        live = self.db.execute("SELECT 1 FROM job WHERE status IN ('intent', 'submitted', 'made') LIMIT 1").fetchone()
        if live or self.sums():
            return live is not None or Status.PENDING in self.counts()
        pending = self.db.execute(
            "SELECT 1 FROM wanted LEFT JOIN job ON job.id = wanted.job_id"
            " WHERE job.id IS NULL OR job.status = 'pending' LIMIT 1"
        )
        return pending.fetchone() is not None

    def open_attempts(self) -> list[OpenAttempt]:
        """Every job that was begun and has not ended, wanted or not: it is or may be paid for."""
        return self._attempts("WHERE job.status IN ('intent', 'submitted', 'made') ORDER BY intended_at, job.id")

    def attempt_of(self, job_id: str) -> OpenAttempt:
        """The latest attempt of a job, however it ended."""
        return self._attempts("WHERE job.id = ?", (job_id,))[0]

    def attempt_state(self, job_id: str, number: int) -> tuple[Status, str, str | None] | None:
        """The job's status, the attempt's outcome and its task, where that is the job's latest attempt; else None."""
        latest = "SELECT status, outcome, task_id FROM attempt JOIN job ON job.id = job_id AND job.attempt = number"
        row = self.db.execute(f"{latest} WHERE job_id = ? AND number = ?", (job_id, number)).fetchone()
        return None if row is None else (Status(row[0]), row[1], row[2])

    def _attempts(self, where: str, values: tuple[object, ...] = ()) -> list[OpenAttempt]:
        rows = self.db.execute(
            "SELECT job.id, request, job.status, failures, number, account, base_url, external_id, task_id,"
            " intended_at, accepted_at, key_print, reserved, id_sent, wanted.job_id IS NOT NULL FROM job"
            " JOIN attempt ON attempt.job_id = job.id AND attempt.number = job.attempt"
            f" LEFT JOIN wanted ON wanted.job_id = job.id {where}",
            values,
        )
        sent_as = ("attempt", "account", "base_url", "external_id", "task_id", "intended_at", "accepted_at")
        names = (*sent_as, "key_print", "reserved")
        return [
            OpenAttempt(
                job=Job.from_json(job_id, request),
                status=Status(status),
                failures=failures,
                wanted=bool(wanted),
                id_sent=bool(id_sent),
                **dict(zip(names, sent, strict=True)),
            )
            for job_id, request, status, failures, *sent, id_sent, wanted in rows
        ]

    def accepted_tasks(
        self, account: str, base_url: str, key_print: str, before: int | None, most: int
    ) -> list[tuple[str, str, int]]:
        """The latest tasks that an account accepted under a key and that carried our id, up to so many.

        `before`: only those accepted at this time (Unix ms) or earlier. As (task id, external id, accepted at).
        """
        return self.db.execute(
            "SELECT task_id, external_id, accepted_at FROM attempt WHERE account = ? AND base_url = ? AND key_print = ?"
            " AND id_sent AND task_id IS NOT NULL AND accepted_at <= coalesce(?, accepted_at)"
            " ORDER BY accepted_at DESC LIMIT ?",
            (account, base_url, key_print, before, most),
        ).fetchall()

    def has_accepted(self, account: str, base_url: str) -> bool:
        """Whether this account, at this address, has ever accepted a create of this output."""
        row = self.db.execute(
            "SELECT 1 FROM attempt WHERE account = ? AND base_url = ? AND accepted_at IS NOT NULL LIMIT 1",
            (account, base_url),
        ).fetchone()
        return row is not None

    def incomplete(self, statuses: frozenset[Status]) -> list[str]:
        """Ids of wanted jobs that ended in one of these ways, in manifest order."""
        if self.sums() and statuses.isdisjoint(self.counts()):
            return []
        marks = ",".join("?" * len(statuses))
        rows = self.db.execute(
            f"SELECT id FROM wanted JOIN job ON job.id = wanted.job_id WHERE status IN ({marks}) ORDER BY seq",
            sorted(statuses),
        )
        return [row[0] for row in rows]

    def index_rows(self) -> Iterator[IndexRow]:
        """The rows of index.csv, in manifest order."""
        rows = self.db.execute(
            "SELECT job.id, request, idx, path, sha256, bytes, width, height, account,"
            " coalesce(task_id, ''), job.failures, accepted_at, fetched_at, cost,"
            " (SELECT count(*) FROM image AS all_of WHERE all_of.job_id = job.id"
            "  AND all_of.attempt = image.attempt AND marked = 0), warning"
            " FROM wanted JOIN job ON job.id = wanted.job_id JOIN image ON image.job_id = job.id"
            " JOIN attempt ON attempt.job_id = job.id AND attempt.number = image.attempt"
            f" WHERE sha256 IS NOT NULL AND image.marked = 0 AND image.attempt = {DELIVERING} ORDER BY seq, idx"
        )
        for row in rows:
            (job_id, request, index, path, sha256, size, width, height, account, *rest) = row
            task_id, failures, submitted_at, finished_at, cost, delivered, warning = rest
            yield IndexRow(
                job=Job.from_json(job_id, request),
                index=index,
                path=path,
                sha256=sha256,
                bytes=size,
                width=width,
                height=height,
                account=account,
                task_id=task_id,
                attempts=failures + 1,
                submitted_at=submitted_at,
                finished_at=finished_at,
                cost=cost,
                delivered=delivered,
                warning=warning,
            )

    def failure_rows(self) -> Iterator[FailureRow]:
        """The rows of failures.csv, in manifest order."""
        rows = self.db.execute(
            "SELECT job.id, request, job.status, job.code, job.message, job.failures,"
            " coalesce(task_id, ''), account FROM wanted JOIN job ON job.id = wanted.job_id"
            " JOIN attempt ON attempt.job_id = job.id AND attempt.number = job.attempt"
            " WHERE job.status IN ('failed', 'rejected', 'unknown', 'gone', 'partial') ORDER BY seq"
        )
        for job_id, request, status, code, message, failures, task_id, account in rows:
            yield FailureRow(
                job=Job.from_json(job_id, request),
                status=Status(status),
                code=code,
                message=message,
                # What failed is counted; an attempt that is unknown, gone or partial comes on top.
                attempts=failures + (status not in {Status.FAILED, Status.REJECTED}),
                task_id=task_id,
                account=account,
            )

    def spent(self, price: Callable[[str, Job], int | None] = lambda _account, _job: None) -> Spent:
        """What this output has cost, with what is in flight or unknown counted at the price when it was sent.

        `price` gives today's price (millionths) of a job at an account, for attempts whose price was not known then.
        """
        images, cost, unpriced = self.db.execute(
            "SELECT coalesce(sum(images), 0), coalesce(sum(coalesce(cost, reserved)), 0),"
            " coalesce(sum(coalesce(cost, reserved) IS NULL), 0)"
            " FROM attempt WHERE outcome IN ('', 'made', 'unknown', 'lost')"
        ).fetchone()
        for account, job in unpriced_attempts(self.db) if unpriced else ():
            today = price(account, job)
            cost, unpriced = cost + (today or 0), unpriced - (today is not None)
        return Spent(images=images, cost=cost, unpriced=unpriced)

    def usual_seconds(self) -> float | None:
        """The mean time from acceptance to the end of the latest tasks that were made, or None before any was."""
        (mean,) = self.db.execute(
            "SELECT avg(ended_at - accepted_at) / 1000.0 FROM (SELECT ended_at, accepted_at FROM attempt"
            " WHERE outcome = 'made' AND accepted_at IS NOT NULL LIMIT 1000)"
        ).fetchone()
        return None if mean is None else float(mean)

    def images_in_index(self) -> int:
        """How many rows index.csv has."""
        if sums := self.sums():
            return int(sums["images_in_index"])
        (number,) = self.db.execute(
            "SELECT count(*) FROM image JOIN wanted ON wanted.job_id = image.job_id"
            f" WHERE sha256 IS NOT NULL AND marked = 0 AND attempt = {DELIVERING}"
        ).fetchone()
        return int(number)

    def images_missing(self, *, begun_only: bool = False) -> tuple[int, int]:
        """Jobs that may still bring images, and how many: those begun, and wanted ones that are pending."""
        jobs, images = self.db.execute(
            "SELECT count(*), coalesce(sum(wanted.images), 0) FROM wanted LEFT JOIN job ON job.id = wanted.job_id"
            " WHERE coalesce(job.status, 'pending') IN (?, 'intent', 'submitted', 'made')",
            ("intent" if begun_only else "pending",),
        ).fetchone()
        return int(jobs), int(images)

    def known_prompts(self) -> Iterator[str]:
        """The prompt of every job that was ever begun."""
        for (prompt,) in self.db.execute("SELECT json_extract(request, '$.prompt') FROM job"):
            yield prompt

    def dropped_jobs(self, most: int) -> Iterator[Job]:
        """Jobs that were begun and are no longer asked for, up to so many."""
        rows = self.db.execute(
            "SELECT id, request FROM job WHERE NOT EXISTS (SELECT 1 FROM wanted WHERE job_id = id) LIMIT ?", (most,)
        )
        for job_id, request in rows:
            yield Job.from_json(job_id, request)
