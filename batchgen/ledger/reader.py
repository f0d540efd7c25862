"""Queries of the ledger about jobs, attempts and costs. Every answer is a value; no caller sees SQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchgen.jobs import Job, Status, attempt_named
from batchgen.ledger.events import Outcome, Rejected
from batchgen.ledger.image_reader import DELIVERING, ImageReader
from batchgen.ledger.records import (
    FailureRow,
    IndexRow,
    JobState,
    OpenAttempt,
    Payment,
    Spent,
    UncheckedImage,
    read_rows,
)
from batchgen.ledger.transitions import CALLED, REHEARSED, REPLACES, called_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Of the checks' verdicts, the last in the alphabet is the strongest: '' < keep < reject.
_CHECKS = "FROM mark WHERE mark.sha256 = image.sha256 AND reviewer <> ''"
_MARK = f"coalesce(nullif(person.verdict, ''), (SELECT max(verdict) {_CHECKS}), '')"
_NOTE = (
    "CASE WHEN person.verdict <> '' OR person.note <> '' THEN person.note ELSE"
    f" coalesce((SELECT group_concat(note, '; ') {_CHECKS} AND note <> ''), '') END"
)
_SCORES = f"(SELECT json_group_object(reviewer, json(scores)) {_CHECKS} AND scores <> '{{}}')"

TOTALS = "sums"  # what `Ledger.cache_totals` wrote; any event removes it


class LedgerReader(ImageReader):
    """Queries on one connection to the ledger."""

    def cached_totals(self) -> dict[str, Any]:
        """Totals over all jobs, as they were at the end of a run; empty when anything has changed since."""
        return dict(json.loads(self.meta(TOTALS) or "{}"))

    def counts(self) -> dict[Status, int]:
        """How many wanted jobs there are of each status."""
        if totals := self.cached_totals():
            return {Status(status): number for status, number in totals["counts"].items()}
        rows = self.db.execute(
            "SELECT coalesce(job.status, 'pending') AS state, count(*) FROM wanted"
            " LEFT JOIN job ON job.id = wanted.job_id GROUP BY state"
        )
        return {Status(status): number for status, number in rows}

    def page(self, start: int, stop: int) -> list[JobState]:
        """The states of the wanted jobs at positions start <= seq < stop; repetitions of a job have no row."""
        rows = self.db.execute(
            "SELECT seq, job_id, coalesce(status, 'pending'), coalesce(attempt, 0), coalesce(failures, 0),"
            " coalesce(code, ''), coalesce(message, '')"
            " FROM wanted LEFT JOIN job ON job.id = wanted.job_id WHERE seq >= ? AND seq < ? ORDER BY seq",
            (start, stop),
        )
        return list(read_rows(JobState, rows))

    def anything_to_do(self) -> bool:
        """Whether any wanted job is still to be begun or any begun one is still to be finished."""
        if self._value("SELECT 1 FROM job WHERE status IN ('intent', 'submitted', 'made') LIMIT 1"):
            return True
        if self.cached_totals():
            return Status.PENDING in self.counts()
        pending = "SELECT 1 FROM wanted LEFT JOIN job ON job.id = wanted.job_id WHERE coalesce(status, 'pending')"
        return self._value(f"{pending} = 'pending' LIMIT 1") is not None

    def has_jobs(self) -> bool:
        """Whether any job was ever begun."""
        return self._value("SELECT 1 FROM job LIMIT 1") is not None

    def open_attempts(self) -> list[OpenAttempt]:
        """Every job that was begun and has not ended, wanted or not: it is or may be paid for."""
        return self._attempts("WHERE job.status IN ('intent', 'submitted', 'made') ORDER BY intended_at, job.id")

    def latest_attempt(self, job_id: str) -> OpenAttempt | None:
        """The latest attempt of a job, however it ended; None where the job was never begun."""
        return next(iter(self._attempts("WHERE job.id = ?", (job_id,))), None)

    def attempt_of(self, job_id: str) -> OpenAttempt:
        """The latest attempt of a job that was begun, however it ended."""
        return self._attempts("WHERE job.id = ?", (job_id,))[0]

    def _attempts(self, where: str, values: tuple[object, ...] = (), number: int | None = None) -> list[OpenAttempt]:
        latest = "job.attempt" if number is None else str(int(number))
        rows = self.db.execute(
            "SELECT job.id, request, job.status, number, failures, account, base_url, external_id, task_id,"
            " intended_at, accepted_at, wanted.job_id IS NOT NULL, id_sent, key_print, reserved, outcome FROM job"
            f" JOIN attempt ON attempt.job_id = job.id AND attempt.number = {latest}"
            f" LEFT JOIN wanted ON wanted.job_id = job.id {where}",
            values,
        )
        return list(read_rows(OpenAttempt, rows))

    def accepted_tasks(
        self, account: str, base_url: str, key_print: str, before: int | None, most: int
    ) -> list[tuple[str, str, int, str]]:
        """The latest tasks that an account accepted under a key and that carried our id, up to so many.

        `before`: only those accepted at this time (Unix ms) or earlier. As (task id, external id, accepted at, model).
        """
        rows = self.db.execute(
            "SELECT task_id, external_id, accepted_at, job.id, request FROM attempt JOIN job ON job.id = job_id"
            " WHERE account = ? AND base_url = ? AND key_print = ?"
            " AND id_sent AND task_id IS NOT NULL AND accepted_at <= coalesce(?, accepted_at)"
            " ORDER BY accepted_at DESC LIMIT ?",
            (account, base_url, key_print, before, most),
        )
        return [(*row[:3], Job.from_json(row[3], row[4]).parameters.model) for row in rows]

    def has_accepted(self, account: str, base_url: str) -> bool:
        """Whether this account, at this address, has ever accepted a create of this output."""
        accepted = "SELECT 1 FROM attempt WHERE account = ? AND base_url = ? AND accepted_at IS NOT NULL LIMIT 1"
        return self._value(accepted, (account, base_url)) is not None

    def called_tasks(self, job_id: str, attempt: int) -> list[str]:
        """The tasks that callbacks have named for an attempt that has none, the latest last."""
        return list(json.loads(self.meta(called_key(job_id, attempt)) or "[]"))

    def called_at(self, job_id: str) -> str | None:
        """The account at which callbacks have named a task for a job's latest attempt, which was given up; or None."""
        latest = self.latest_attempt(job_id)
        is_open = latest is not None and latest.outcome in {Outcome.UNKNOWN, Outcome.REFUSED}
        return latest.account if latest and is_open and self.called_tasks(job_id, latest.attempt) else None

    def accounts_of_unknown(self) -> list[str]:
        """The accounts that may have taken a create of which nobody knows what became of it."""
        unknown = "SELECT DISTINCT account FROM attempt WHERE outcome = ? ORDER BY account"
        return [name for (name,) in self.db.execute(unknown, (Outcome.UNKNOWN,))]

    def called_attempts(self) -> list[tuple[str, list[str]]]:
        """Each attempt without a task for which callbacks have named some: its external id, and the tasks."""
        rows = self.db.execute("SELECT key, value FROM meta WHERE key >= ? AND key < ?", (CALLED, f"{CALLED}~"))
        return [(f"bg-{key.removeprefix(CALLED)}", json.loads(value)) for key, value in rows]

    def is_of_other(self, task_id: str, base_url: str, job_id: str, attempt: int) -> bool:
        """Whether another attempt has this task of the gateway at `base_url`, or a callback names it for one."""
        has_it = (
            "SELECT EXISTS (SELECT 1 FROM attempt WHERE task_id = ? AND base_url = ? AND (job_id, number) <> (?, ?))"
        )
        if self._value(has_it, (task_id, base_url, job_id, attempt)):
            return True
        names = [name for name, tasks in self.called_attempts() if task_id in tasks]
        sent = [self.sent_attempt(*of) for of in map(attempt_named, names) if of not in {None, (job_id, attempt)}]
        return any(each is not None and each.base_url == base_url for each in sent)

    def sent_attempt(self, job_id: str, attempt: int) -> OpenAttempt | None:
        """One attempt, whether or not it is the latest of its job; None where it was never begun."""
        found = self._attempts("WHERE job.id = ?", (job_id,), number=attempt)
        return found[0] if found else None

    def incomplete(self, statuses: frozenset[Status]) -> list[str]:
        """Ids of wanted jobs that ended in one of these ways, in manifest order."""
        if self.cached_totals() and statuses.isdisjoint(self.counts()):
            return []
        marks = ",".join("?" * len(statuses))
        rows = self.db.execute(
            f"SELECT id FROM wanted JOIN job ON job.id = wanted.job_id WHERE status IN ({marks}) ORDER BY seq",
            sorted(statuses),
        )
        return [row[0] for row in rows]

    def rejected_jobs(self, by_checks: Sequence[str] = ()) -> dict[str, tuple[Status, int]]:
        """Wanted jobs whose images were all delivered and of which some are rejected, and how many are.

        A rejected image counts also where its file was deleted since. Of a job whose next attempt has begun, none does.
        `by_checks`: only images that these reviewers reject, and of which no person has said anything.
        """
        by = "TRUE"
        if by_checks:
            names = ",".join("?" * len(by_checks))
            by = "coalesce(person.verdict, '') = '' AND EXISTS"
            by += f" (SELECT 1 {_CHECKS} AND verdict = 'reject' AND reviewer IN ({names}))"
        rows = self.db.execute(
            "WITH known AS (SELECT job_id, attempt, coalesce(sha256, lost_sha256) AS sha256 FROM image"
            " WHERE marked = 0)"
            " SELECT job.id, job.status, count(*) FROM wanted JOIN job ON job.id = wanted.job_id"
            " JOIN known AS image ON image.job_id = job.id"
            " LEFT JOIN mark AS person ON person.sha256 = image.sha256 AND person.reviewer = ''"
            f" WHERE {_MARK} = 'reject' AND {by} AND image.attempt ="
            " (SELECT max(attempt) FROM known AS latest WHERE latest.job_id = job.id AND latest.sha256 NOT NULL)"
            " AND (job.status IN ('done', 'partial', 'failed') OR job.status = 'made'"
            "  AND image.attempt = job.attempt"
            "  AND NOT EXISTS (SELECT 1 FROM known AS other WHERE other.job_id = job.id AND other.attempt = job.attempt"
            "   AND other.sha256 IS NULL)) GROUP BY job.id ORDER BY seq",
            tuple(by_checks),
        )
        return {id_: (Status(status), number) for id_, status, number in rows}

    def replaced_by_checks(self) -> tuple[dict[str, int], int]:
        """How often a check had images of each job replaced, and how many images were asked for then."""
        rows = self.db.execute(
            "SELECT job_id, count(*), sum(images) FROM attempt JOIN meta ON key = ? || job_id || '-' || number"
            " WHERE value = ? GROUP BY job_id",
            (REPLACES, Rejected.BY_CHECK),
        ).fetchall()
        return {id_: times for id_, times, _ in rows}, sum(images for _, _, images in rows)

    def share_rejected(self, reviewer: str) -> tuple[int, float]:
        """How many images a check has judged, and the share of them that it rejected."""
        judged, share = self.db.execute(
            "SELECT count(*), coalesce(avg(verdict = 'reject'), 0) FROM mark WHERE reviewer = ?", (reviewer,)
        ).fetchone()
        return int(judged), float(share)

    def index_rows(self) -> Iterator[IndexRow]:
        """The rows of index.csv, in manifest order."""
        rows = self.db.execute(
            "SELECT job.id, request, idx, path, image.sha256, bytes, width, height, account,"
            " coalesce(task_id, ''), job.failures + 1, accepted_at, fetched_at, cost,"
            " (SELECT count(*) FROM image AS all_of WHERE all_of.job_id = job.id"
            "  AND all_of.attempt = image.attempt AND marked = 0), warning,"
            f" {_MARK}, {_NOTE}, {_SCORES}"
            " FROM wanted JOIN job ON job.id = wanted.job_id JOIN image ON image.job_id = job.id"
            " JOIN attempt ON attempt.job_id = job.id AND attempt.number = image.attempt"
            " LEFT JOIN mark AS person ON person.sha256 = image.sha256 AND person.reviewer = ''"
            f" WHERE image.sha256 IS NOT NULL AND image.marked = 0 AND image.attempt = {DELIVERING} ORDER BY seq, idx"
        )
        return read_rows(IndexRow, rows)

    def unchecked_images(self, reviewer: str, after: tuple[int, int], most: int) -> list[UncheckedImage]:
        """Images of the index without a verdict of this check, in manifest order, after a position (seq, index)."""
        rows = self.db.execute(
            "SELECT job.id, request, seq, idx, path, image.sha256"
            " FROM wanted JOIN job ON job.id = wanted.job_id JOIN image ON image.job_id = job.id"
            f" WHERE image.sha256 IS NOT NULL AND marked = 0 AND image.attempt = {DELIVERING} AND seq >= ?"
            " AND (seq, idx) > (?, ?) AND NOT EXISTS"
            " (SELECT 1 FROM mark WHERE mark.sha256 = image.sha256 AND reviewer = ?) ORDER BY seq, idx LIMIT ?",
            (after[0], *after, reviewer, most),
        )
        return list(read_rows(UncheckedImage, rows))

    def failure_rows(self) -> Iterator[FailureRow]:
        """The rows of failures.csv, in manifest order."""
        rows = self.db.execute(
            "SELECT job.id, request, job.status, job.code, job.message,"
            # a failure is counted; an attempt that is unknown, gone or partial is one more
            " job.failures + (job.status NOT IN ('failed', 'rejected')), coalesce(task_id, ''), account"
            " FROM wanted JOIN job ON job.id = wanted.job_id"
            " JOIN attempt ON attempt.job_id = job.id AND attempt.number = job.attempt"
            " WHERE job.status IN ('failed', 'rejected', 'unknown', 'gone', 'partial') ORDER BY seq"
        )
        return read_rows(FailureRow, rows)

    def label_names(self) -> list[str]:
        """The labels of the wanted jobs that were begun, in alphabetical order."""
        rows = self.db.execute(
            "SELECT DISTINCT label.key FROM wanted JOIN job ON job.id = wanted.job_id,"
            " json_each(request, '$.labels') AS label"
        )
        return sorted(name for (name,) in rows)

    def parameter_names(self) -> list[str]:
        """The parameters beyond batchgen's own of the wanted jobs that were begun, in alphabetical order."""
        rows = self.db.execute(
            "SELECT DISTINCT given.key FROM wanted JOIN job ON job.id = wanted.job_id,"
            " json_each(request, '$.parameters.further') AS given"
        )
        return sorted(name for (name,) in rows)

    def has_marks(self) -> bool:
        """Whether anything was decided or written about an image."""
        return self._value("SELECT 1 FROM mark WHERE verdict <> '' OR note <> '' LIMIT 1") is not None

    def score_names(self) -> list[str]:
        """The scores of the checks, such as `blank.contrast`, in alphabetical order."""
        rows = self.db.execute(
            "SELECT DISTINCT reviewer, score.key FROM mark, json_each(scores) AS score WHERE reviewer <> ''"
        )
        return sorted({f"{check.partition('@')[0]}.{name}" for check, name in rows})

    def payments(self) -> Iterator[Payment]:
        """Every attempt of every job, wanted or not, in the order of sending."""
        rows = self.db.execute(
            "SELECT attempt.job_id, number, account, external_id, coalesce(task_id, ''), outcome, found, images,"
            " (SELECT count(*) FROM image WHERE image.job_id = attempt.job_id AND image.attempt = number"
            "  AND marked = 0 AND (sha256 IS NOT NULL OR lost_sha256 IS NOT NULL AND NOT ("
            # an image that was retired and then deleted was delivered all the same
            "   number = job.attempt AND attempt.job_id IN (SELECT job_id FROM wanted)))),"
            " cost, intended_at, job.status,"
            f" EXISTS (SELECT 1 FROM meta WHERE key = '{REPLACES}' || attempt.job_id || '-' || number)"
            " FROM attempt JOIN job ON job.id = attempt.job_id ORDER BY intended_at, attempt.job_id, number"
        )
        return read_rows(Payment, rows)

    def spent(
        self, price: Callable[[str, Job], int | None] = lambda _account, _job: None, account: str | None = None
    ) -> Spent:
        """What this output has cost, or of it one account; what is in flight or unknown counts at the price when sent.

        `price` gives today's price (millionths) of a job at an account, for attempts whose price was not known then.
        """
        images, cost, unpriced, reserved = self.db.execute(
            "SELECT coalesce(sum(images), 0), coalesce(sum(coalesce(cost, reserved)), 0),"
            " coalesce(sum(coalesce(cost, reserved) IS NULL), 0),"
            " coalesce(sum(CASE WHEN cost IS NULL THEN reserved END), 0)"
            " FROM attempt WHERE outcome IN ('', 'made', 'unknown', 'lost') AND account = coalesce(?, account)",
            (account,),
        ).fetchone()
        rows = "SELECT account, job.id, request FROM attempt JOIN job ON job.id = job_id WHERE"
        is_unpriced = "outcome IN ('', 'made', 'unknown', 'lost') AND coalesce(cost, reserved) IS NULL"
        is_unpriced += " AND account = coalesce(?, account)"
        for name, job_id, request in self.db.execute(f"{rows} {is_unpriced}", (account,)) if unpriced else ():
            today = price(name, Job.from_json(job_id, request))
            cost, unpriced = cost + (today or 0), unpriced - (today is not None)
        return Spent(images=images, cost=cost, unpriced=unpriced, reserved=reserved)

    def spent_by_account(self) -> list[tuple[str, int, int]]:
        """By account: its name, the images that it made, and what it cost or may cost, in millionths of its unit."""
        rows = self.db.execute(
            "SELECT account, coalesce(sum(CASE WHEN outcome = 'made' THEN images END), 0),"
            " coalesce(sum(coalesce(cost, reserved)), 0)"
            " FROM attempt WHERE outcome NOT IN ('refused', 'failed') GROUP BY account ORDER BY account"
        )
        return [(name, images, cost) for name, images, cost in rows]

    def mean_task_seconds(self) -> float | None:
        """The mean time from acceptance to the end of a task, of up to 1,000 that were made; None before any was.

        The first ones by job id, which is a hash: a sample of all. The latest ones would need a sort of all rows.
        """
        mean: float | None = self._value(
            "SELECT avg(ended_at - accepted_at) / 1000.0 FROM (SELECT ended_at, accepted_at FROM attempt"
            " WHERE outcome = 'made' AND accepted_at IS NOT NULL LIMIT 1000)"
        )
        return mean

    def mean_image_bytes(self) -> dict[str, float]:
        """The mean size of the images that are there, by resolution; a sample, as in `mean_task_seconds`."""
        rows = self.db.execute(
            "SELECT json_extract(request, '$.parameters.resolution'), avg(bytes) FROM (SELECT job_id, bytes FROM image"
            " WHERE sha256 IS NOT NULL AND marked = 0 LIMIT 1000) JOIN job ON job.id = job_id GROUP BY 1"
        )
        return {str(resolution): mean for resolution, mean in rows}

    def images_in_index(self) -> int:
        """How many rows index.csv has."""
        if totals := self.cached_totals():
            return int(totals["images_in_index"])
        stored = "image JOIN wanted ON wanted.job_id = image.job_id WHERE sha256 IS NOT NULL AND marked = 0"
        return int(self._value(f"SELECT count(*) FROM {stored} AND attempt = {DELIVERING}"))

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

    def unwanted_jobs(self, most: int) -> Iterator[Job]:
        """Jobs that were begun and are no longer asked for, up to so many."""
        rows = self.db.execute(
            "SELECT id, request FROM job WHERE NOT EXISTS (SELECT 1 FROM wanted WHERE job_id = id) LIMIT ?", (most,)
        )
        for job_id, request in rows:
            yield Job.from_json(job_id, request)

    def rehearsed_jobs(self, base_urls: Sequence[str]) -> list[str]:
        """Jobs that another sandbox than the accounts at these addresses made."""
        rows = self.db.execute(
            f"SELECT DISTINCT job_id FROM attempt WHERE {REHEARSED} ORDER BY job_id",
            (json.dumps(base_urls),),
        )
        return [job_id for (job_id,) in rows]

    def count_real_jobs(self) -> int:
        """How many wanted jobs are done by a real account."""
        number = self._value(
            "SELECT count(*) FROM wanted JOIN job ON job.id = wanted.job_id AND status = 'done'"
            " JOIN attempt ON attempt.job_id = job.id AND number = job.attempt AND rehearsal = 0"
        )
        return int(number)
