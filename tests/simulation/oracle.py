"""Knows the truth, which is the gateways', and compares it with what batchgen did, keeps and says."""

from __future__ import annotations

import csv
import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchgen.app.audit import audit
from batchgen.app.plan import plan
from batchgen.errors import BatchgenError, ExitCode, ReasonCode
from batchgen.matrix.expand import expand
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.app.run_result import RunResult
    from batchgen.manifest.model import Manifest
    from batchgen.sandbox.tasks import Task
    from tests.simulation.gateway import Gateway
    from tests.simulation.life import Life

_UNPAID = {"refused", "failed"}
_IN_DOUBT = {"unknown", "lost"}
_REASONS = {0: {ReasonCode.COMPLETE}, 1: {ReasonCode.INCOMPLETE}}


@dataclass(slots=True)
class Books:
    """One output's ledger, as plain data."""

    attempts: dict[str, tuple[str, int, str, str]]  # by external id: job, number, outcome, account
    jobs: dict[str, tuple[str, int]]  # by id: status and latest attempt
    wanted: list[str]

    @classmethod
    def read(cls, root: Path) -> Books:
        """Empty where there is no ledger."""
        path = root / "state.sqlite3"
        if not path.exists() or not path.stat().st_size:
            return cls({}, {}, [])
        with closing(sqlite3.connect(path)) as db:
            attempts = db.execute(
                "SELECT external_id, job_id, number, outcome, account FROM attempt WHERE rehearsal = 0"
            )
            jobs = db.execute("SELECT id, status, attempt FROM job")
            wanted = db.execute("SELECT job_id FROM wanted ORDER BY seq")
            return cls(
                {row[0]: tuple(row[1:]) for row in attempts},
                {row[0]: tuple(row[1:]) for row in jobs},
                [row[0] for row in wanted],
            )


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


class Oracle:
    """The rules, and what the user has done that excuses something. docs/simulation.md says how to add one."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.may_resend = False  # the user has asked for what may be paid again
        self.may_remake = False
        self.copies = 0  # ledgers besides the first: each asks for what it does not know
        self.has_one_price = True
        self._books: dict[Path, Books] = {}
        self.deleted: set[str] = set()  # hashes of files that the user deleted or damaged

    def note_deleted(self, body: bytes) -> None:
        self.deleted.add(hashlib.sha256(body).hexdigest())

    # --- at every moment ----------------------------------------------------------------------------------

    def check_money(self) -> None:
        """What is billed is what was asked for, plus what the user was told to be in doubt and asked for again."""
        self._books = {root: Books.read(root) for root in self._life.outputs}
        books = list(self._books.values())
        for gateway, task, attempt in self._billed():
            known = {book.attempts[attempt] for book in books if attempt in book.attempts}
            outcomes = {outcome for _, _, outcome, account in known if account == gateway.name}
            demand(
                not outcomes or outcomes - _UNPAID,
                f"{attempt} is recorded as {sorted(outcomes)}, and {task.id} is billed",
            )
        by_job: dict[str, list[tuple[int, str]]] = {}
        for _, _, attempt in self._billed():
            job, number = attempt.removeprefix("bg-").rsplit("-", 1)
            by_job.setdefault(job, []).append((int(number), attempt))
        for job, paid in by_job.items():
            outcomes = {
                attempt: {book.attempts[attempt][2] for book in books if attempt in book.attempts}
                for _, attempt in paid
            }
            certain = [attempt for _, attempt in sorted(paid)[:-1] if not outcomes[attempt] & _IN_DOUBT]
            demand(len(certain) <= self.copies, f"the job {job} is paid {len(paid)} times: {outcomes}")
        for book in books:
            self._check_doubt(book)

    def _check_doubt(self, book: Books) -> None:
        """What is in doubt is sent again only where the user has asked for it."""
        latest = Counter[str]()
        for job, number, _, _ in book.attempts.values():
            latest[job] = max(latest[job], number)
        for attempt, (job, number, outcome, _) in book.attempts.items():
            if latest[job] > number:
                demand(outcome != "unknown" or self.may_resend, f"{attempt} is unknown, and was sent again unasked")
                demand(outcome != "lost" or self.may_remake, f"{attempt} is lost, and was made again unasked")
                demand(outcome, f"{attempt} is live, and a later attempt exists")

    def _billed(self) -> list[tuple[Gateway, Task, str]]:
        return [
            (gateway, task, gateway.attempts[task.id])
            for gateway in self._life.gateways.values()
            for task in gateway.billed()
        ]

    def _book(self, root: Path) -> Books:
        """As it was when the money was last checked; a rehearsal's own output is read now."""
        return self._books.get(root) or Books.read(root)

    # --- after a run that ended by itself -----------------------------------------------------------------

    def check_budget(self, manifest: Manifest, billed_before: int, max_cost: float | None) -> None:
        """One output never asks for more than its budget, nor one run for more than it may."""
        billed = self.images_billed()
        most = manifest.budget.max_images
        demand(most is None or billed <= max(most, billed_before), f"{billed} images are billed, of {most} allowed")
        price = manifest.account.prices.of_image("default", "1k")
        if manifest.budget.max_cost is not None and self.has_one_price:
            most = int(manifest.budget.max_cost / price)
            demand(billed <= max(most, billed_before), f"{billed} images are billed, of {most} that the money allows")
        if max_cost is not None:
            new = sum(units for _, _, attempt, units in self._life.network.sends if attempt in self._paid_attempts())
            demand(new * float(price) <= max_cost + 1e-9, f"{new} images are billed in a run of {max_cost}")

    def _paid_attempts(self) -> set[str]:
        return {attempt for _, _, attempt in self._billed()}

    def images_billed(self) -> int:
        return sum(task.request.n for _, task, _ in self._billed())

    def check_output(self, root: Path, *, painted: bool) -> dict[str, set[str]]:
        """Index, files and ledger agree, and each picture is that of its job. The hashes of each job are returned."""
        index = root / "index.csv"
        rows = list(csv.DictReader(index.open(encoding="utf-8", newline=""))) if index.exists() else []
        known: dict[str, str] = {}
        for gateway, task, attempt in self._billed():
            for picture in gateway.pictures(task):
                known[picture] = attempt
        found: dict[str, set[str]] = {}
        for row in rows:
            path = root / row["file_name"]
            demand(path.is_file(), f"the index names {row['file_name']}, which is not there")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            demand(digest == row["sha256"], f"{row['file_name']} is not what the index says")
            attempt = known.get(digest)
            is_own = attempt is not None and attempt[3:].rpartition("-")[0] == row["job_id"]
            demand(is_own or painted or self._life.rehearsed, f"{row['file_name']} is the picture of {attempt}")
            found.setdefault(row["job_id"], set()).add(digest)
        book = self._book(root)
        done = {job for job in book.wanted if book.jobs.get(job, ("", 0))[0] == "done"}
        demand(done <= found.keys(), f"done by the ledger, and not in the index: {sorted(done - found.keys())}")
        return found

    def check_result(
        self, root: Path, manifest: Manifest, result: RunResult, messages: list[str], options: Any
    ) -> None:
        """What a run returns is true."""
        book = self._book(root)
        found = self.check_output(root, painted=manifest.account.is_local_sandbox)
        wanted = {job.id: job for job in expand(manifest)}
        demand(set(book.wanted) == wanted.keys(), "the ledger does not list what the manifest asks for")
        demand(result.images == sum(map(len, found.values())), f"{result.images} images, but {found}")
        counts = Counter(book.jobs.get(job, ("pending", 0))[0] for job in wanted)
        if not options.get("only"):
            said = {status.value: number for status, number in result.jobs.items() if number}
            demand(said == dict(counts), f"said {said}, kept {dict(counts)}")
        sent = {attempt for _, _, attempt, _ in self._life.network.sends}
        demand(result.started == len(sent), f"{result.started} started, {len(sent)} sent")
        is_whole = not options.get("only") and options.get("limit") is None
        if result.exit_code == ExitCode.OK and is_whole:
            missing = [job.id for job in wanted.values() if len(found.get(job.id, ())) != job.parameters.n]
            demand(not missing, f"exit 0, and not there: {missing}")
        demand(result.reason_code in _REASONS.get(result.exit_code, {result.reason_code}), f"{result.as_data()}")
        demand((result.error is None) == (result.exit_code in _REASONS), f"{result.as_data()}")
        self.check_secrets(root, messages)

    def check_secrets(self, root: Path, messages: list[str]) -> None:
        """No key in any file or message."""
        texts = [path.read_bytes() for path in root.glob("*") if path.is_file() and path.name != ".lock"]
        texts += [message.encode() for message in messages]
        for key in self._life.network.keys:
            demand(not any(key.encode() in text for text in texts), f"the key {key} was written")

    # --- in the end ---------------------------------------------------------------------------------------

    def check_end(self, root: Path, manifest: Manifest, result: RunResult | BatchgenError) -> None:
        """After the faults have stopped: everything is there, or what is not is said, and for a reason."""
        demand(not isinstance(result, BatchgenError), f"the last plain run ends with: {result}")
        book = self._book(root)
        for job in expand(manifest):
            status = book.jobs.get(job.id, ("pending", 0))[0]
            demand(status == "done" or self._is_excused(job.id, status), f"{job.id} is {status} in the end")
        left = plan(manifest, output=root)
        demand(not left.anything_to_do, f"after the last run, plan finds {left.make.jobs} to make")
        report = audit(manifest, root, offline=True)
        in_doubt = any(outcome in _IN_DOUBT for _, _, outcome, _ in book.attempts.values())
        demand(report.twice == 0 or in_doubt or self.copies, f"audit says: {report.sentence}")
        if result.exit_code == ExitCode.OK and not (in_doubt or self.copies):
            demand(report.is_consistent, f"exit 0, and audit is not content: {report.sentence}")

    def _is_excused(self, job: str, status: str) -> bool:
        """Whether the job had the trouble that its status speaks of."""
        life = self._life
        troubled = {attempt[3:].rpartition("-")[0] for attempt in life.troubled}
        match status:
            case "failed":
                return job in troubled or any(
                    attempt[3:].rpartition("-")[0] == job and task.failure
                    for gateway in life.gateways.values()
                    for task in gateway.tasks
                    if (attempt := gateway.attempts.get(task.id, ""))
                )
            case "rejected":
                return self._is_excused(job, "failed")
            case "unknown":
                return job in troubled
            case "gone" | "partial":
                return any(gateway.answers_with_images for gateway in life.gateways.values()) and bool(self.deleted)
        return False

    def check_nothing_lost(self) -> None:
        """Every picture that was paid for is in an output, or the user was told that it is in doubt."""
        have: set[str] = set()
        for root in self._life.outputs:
            for top in ("images", "retired"):
                have |= {
                    hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / top).rglob("*") if path.is_file()
                }
        books = [Books.read(root) for root in self._life.outputs]
        for gateway, task, attempt in self._billed():
            missing = gateway.pictures(task) - have - self.deleted
            outcomes = {book.attempts[attempt][2] for book in books if attempt in book.attempts}
            demand(
                not missing or outcomes & _IN_DOUBT, f"{attempt} is paid for as {task.id}, and not there: {outcomes}"
            )
