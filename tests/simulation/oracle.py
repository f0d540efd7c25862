"""Knows the truth, which is the gateways', and compares it with what batchgen did, keeps and says."""

from __future__ import annotations

import csv
import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.app.audit import audit
from batchgen.app.plan import plan
from batchgen.errors import AccountStopped, BatchgenError, ExitCode, ReasonCode
from batchgen.matrix.expand import expand
from tests.simulation.gateway import RISKY
from tests.simulation.liar import QUERY_FAULTS
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.app.run_result import RunResult
    from batchgen.manifest.model import Manifest
    from batchgen.sandbox.tasks import Task
    from tests.simulation.gateway import Gateway
    from tests.simulation.life import Life

_UNPAID, _IN_DOUBT = {"refused", "failed"}, {"unknown", "lost"}
_REASONS = {0: {ReasonCode.COMPLETE}, 1: {ReasonCode.INCOMPLETE}}
_ALIKE = 5  # refusals after which it is the account's fault, besides those that are in flight


class Attempt(NamedTuple):
    job: str
    number: int
    outcome: str
    account: str


class Books(NamedTuple):
    """One output's ledger, as plain data."""

    attempts: dict[str, Attempt]  # by external id
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
                {row[0]: Attempt(*row[1:]) for row in attempts},
                {row[0]: row[1:] for row in jobs},
                [row[0] for row in wanted],
            )

    @property
    def gone_unwanted(self) -> set[str]:
        """Jobs whose images did not come, and that the user no longer asks for: nobody asks again."""
        return {job for job, (status, _) in self.jobs.items() if status == "gone"} - {*self.wanted}


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


def job_of(attempt: str) -> str:
    """The job of an external id."""
    return attempt[3:].rpartition("-")[0]


def hashes(*folders: Path) -> set[str]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Oracle:
    """The rules, and what the user has done that excuses something."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.may_resend = False  # the user asks now for what may be paid again
        self.may_remake: set[str] = set()  # jobs that the user wants made anew now
        self.copies = 0  # ledgers besides the first: each asks for what it does not know
        self.deleted: set[str] = set()  # hashes of files that the user deleted or damaged
        self.has_one_price = True
        self._settled: set[str] = set()  # attempts in doubt that were given up where the user had asked for it
        self._doubted: set[str] = (
            set()
        )  # attempts that a ledger has called in doubt, which a restored one has forgotten
        self._remade: set[str] = set()  # jobs that the user has ever wanted made anew
        self._most_failures = self._retries = 0
        self._has_adopted = self._is_adopting = False
        self._books: dict[Path, Books] = {}

    def begin_run(self, root: Path, options: Any, settings: Any) -> None:
        """A run is about to begin: what the user asks for, and what there is."""
        book = self._before = Books.read(root)
        self._is_adopting = False
        self.may_resend = bool(options.get("retry_unknown")) or settings.get("on_unknown") == "resend"
        is_retry = bool(options.get("retry_failed"))
        ended = {job for job, (status, _) in book.jobs.items() if status in {"failed", "gone", "partial"}}
        self.may_remake = ended if is_retry else set()
        self._remade |= self.may_remake
        self._retries += is_retry
        self._most_failures = max(self._most_failures, settings["max_attempts"])
        self._had_accepted = {each.account for each in book.attempts.values() if each.outcome in {"made", "failed"}}
        self._refuses = self._reason_to_refuse(root, options)
        self._on_disk = self._unknown_on_disk(root, book)

    def begin_adoption(self) -> None:
        """What is found at the gateway takes the place of what is in doubt."""
        self._has_adopted = self._is_adopting = True

    def note_deleted(self, body: bytes) -> None:
        self.deleted.add(hashlib.sha256(body).hexdigest())

    def _reason_to_refuse(self, root: Path, options: Any) -> str:
        """Why a run must send nothing, if so."""
        state = root / "state.sqlite3"
        if not state.exists() or not state.stat().st_size:
            return ""
        with closing(sqlite3.connect(state)) as db:
            known = set(db.execute("SELECT job_id, idx FROM image WHERE marked = 0"))
            in_place = "SELECT count(*) FROM image WHERE sha256 IS NOT NULL AND path LIKE 'images/%'"
            (number,) = db.execute(in_place).fetchone()
        if self.copies and any((row["job_id"], int(row["image_index"])) not in known for row in _rows(root)):
            return "the index has images that the ledger does not know"
        here = [path for top in ("images", ".scratch") for path in (root / top).glob("[!.]*")] if number > 1 else [root]
        if not here and not options.get("refetch") and not self._life.rehearsed:
            return "all images are gone, as if a drive were not mounted"
        return ""

    def _unknown_on_disk(self, root: Path, book: Books) -> set[str]:
        """Jobs that an old ledger does not know to be paid, and whose images are at their names."""
        edits = {step.given.get("what") for step in self._life.story.steps}
        if not self.copies or not book.wanted or edits & {"rename", "other path", "reverse prompts", "remove prompt"}:
            return set()
        here = hashes(root / "images")
        unknown = (each for each in self._billed() if each[2] not in book.attempts)
        jobs = {job_of(attempt) for gateway, task, attempt in unknown if gateway.pictures(task) & here}
        # Bound: where the old ledger has a task running, a later attempt that only the other copy knows is made again.
        return {job for job in jobs if book.jobs.get(job, ("",))[0] not in {"submitted", "made"}}

    # --- at every moment ----------------------------------------------------------------------------------

    def check_money(self) -> None:
        """What is billed is what was asked for, plus what the user was told to be in doubt and asked for again."""
        self._books = {root: Books.read(root) for root in self._life.outputs}
        paid: dict[str, list[tuple[int, set[str]]]] = {}  # by job: the paid attempts, and what the ledgers call them
        for gateway, task, attempt in self._billed():
            known = [book.attempts[attempt] for book in self._books.values() if attempt in book.attempts]
            outcomes = {each.outcome for each in known if each.account == gateway.name}
            # Bound: an old ledger, or a copy, does not know what else the attempt's id stands for.
            is_known_unpaid = outcomes and not outcomes - _UNPAID and not self.copies
            demand(not is_known_unpaid, f"{attempt} is recorded as {sorted(outcomes)}, and {task.id} is billed")
            number = int(attempt.rpartition("-")[2])
            told = {"unknown"} if self.copies and attempt in self._doubted else set()
            paid.setdefault(job_of(attempt), []).append((number, told | {each.outcome for each in known}))
        for job, attempts in paid.items():
            *earlier, _ = sorted(attempts, key=lambda each: each[0])
            certain = [number for number, outcomes in earlier if not outcomes & _IN_DOUBT]
            numbers = {number for number, _ in attempts}
            is_once = len(certain) <= self.copies + (job in self._remade) and (
                len(numbers) == len(attempts) or self.copies
            )
            demand(is_once, f"the job {job} is paid {len(attempts)} times: {attempts}")
        for book in self._books.values():
            self._doubted.update(key for key, each in book.attempts.items() if each.outcome in _IN_DOUBT)
            self._check_doubt(book)
            if not (self.copies or self._has_adopted):
                self._check_attempts(book, {job: len(attempts) for job, attempts in paid.items()})

    def _check_doubt(self, book: Books) -> None:
        """What is in doubt is given up only where the user asks for it now."""
        for external_id, (job, number, outcome, _) in book.attempts.items():
            status, latest = book.jobs.get(job, ("", number))
            is_given_up = latest > number or status == "pending"
            if is_given_up and outcome in _IN_DOUBT and external_id not in self._settled:
                may = self._is_adopting or (self.may_resend if outcome == "unknown" else job in self.may_remake)
                demand(may, f"{external_id} is {outcome}, and was given up unasked")
                self._settled.add(external_id)
            demand(outcome or latest == number, f"{external_id} is live, and a later attempt exists")

    def _check_attempts(self, book: Books, paid: dict[str, int]) -> None:
        """What is recorded as made was made; what policy refused is not tried again; and not too often what failed."""
        most = self._most_failures * (1 + self._retries)
        made = Counter(each.job for each in book.attempts.values() if each.outcome == "made")
        failed = Counter(each.job for each in book.attempts.values() if each.outcome == "failed")
        for job, number in made.items():
            demand(
                number <= paid.get(job, 0), f"{number} attempts of {job} are made, and {paid.get(job, 0)} are billed"
            )
        for job, number in failed.items():
            demand(number <= most, f"{number} attempts of {job} have failed, of {most}")
        for gateway in self._life.gateways.values():
            for task in gateway.tasks:
                known = book.attempts.get(gateway.attempts.get(task.id, ""))
                if task.failure == RISKY and known and known[2:] == ("failed", gateway.name):
                    latest = book.jobs.get(known.job, ("", known.number))[1]
                    demand(latest == known.number, f"{known.job} is tried again, though policy has refused it")

    def _billed(self) -> list[tuple[Gateway, Task, str]]:
        gateways = self._life.gateways.values()
        return [(gateway, task, gateway.attempts[task.id]) for gateway in gateways for task in gateway.billed()]

    def images_billed(self) -> int:
        return sum(task.request.n for _, task, _ in self._billed())

    # --- after a run --------------------------------------------------------------------------------------

    def check_refusal(self, result: RunResult | BatchgenError | None) -> None:
        """A run that has to refuse did so, unless it was killed, and nothing was sent."""
        sent = {job_of(send.attempt) for send in self._life.network.sends}
        is_refused = not sent and isinstance(result, BatchgenError | None)
        demand(not self._refuses or is_refused, f"the run went on, though {self._refuses}")
        again = sorted(self._on_disk & sent)
        demand(not again, f"sent again, though their images are there: {again}")

    def check_budget(self, manifest: Manifest, billed_before: int, max_cost: float | None) -> None:
        """One output never asks for more than its budget, nor one run for more than it may."""
        billed, price = self.images_billed(), manifest.account.prices.of_image("default", "1k")
        most = manifest.budget.max_images
        if manifest.budget.max_cost is not None and self.has_one_price:
            most = int(manifest.budget.max_cost / price)
        demand(most is None or billed <= max(most, billed_before), f"{billed} images are billed, of {most} allowed")
        paid = {attempt for _, _, attempt in self._billed()}
        new = sum({send.attempt: send.units for send in self._life.network.sends if send.attempt in paid}.values())
        # Bound: whether a create was sent twice, or long ago, only the gateway's clock tells.
        is_unclear = any(gateway.skew and "repeated" in gateway.rates for gateway in self._life.gateways.values())
        is_within = max_cost is None or is_unclear or new * float(price) <= max_cost + 1e-9
        demand(is_within, f"{new} images are billed in a run of {max_cost}")

    def pictures(self) -> dict[str, str]:
        """The hash of each picture that the gateways made, and its job."""
        return {
            picture: job_of(attempt) for gateway, task, attempt in self._billed() for picture in gateway.pictures(task)
        }

    def check_output(self, root: Path, *, painted: bool) -> dict[str, set[str]]:
        """Index, files and ledger agree, and each picture is that of its job. The hashes of each job are returned."""
        jobs = self.pictures()
        found: dict[str, set[str]] = {}
        for row in _rows(root):
            path, name = root / row["file_name"], row["file_name"]
            demand(path.is_file(), f"the index names {name}, which is not there")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            demand(digest == row["sha256"], f"{name} is not what the index says")
            is_own = painted or jobs.get(digest) == row["job_id"] or digest in self.deleted  # and put back by the user
            is_own = is_own or (self.copies and self._has_adopted and self._life.rehearsed)  # by its name alone
            demand(is_own, f"{name} is the picture of {jobs.get(digest)}")
            found.setdefault(row["job_id"], set()).add(digest)
        book = self._book(root)
        done = {job for job in book.wanted if book.jobs.get(job, ("", 0))[0] == "done"}
        demand(done <= found.keys(), f"done by the ledger, and not in the index: {sorted(done - found.keys())}")
        return found

    def _book(self, root: Path) -> Books:
        """As it was when the money was last checked; a rehearsal's own output is read now."""
        return self._books.get(root) or Books.read(root)

    def check_result(
        self, root: Path, manifest: Manifest, result: RunResult, messages: list[str], options: Any
    ) -> None:
        """What a run returns is true."""
        book, network = self._book(root), self._life.network
        found = self.check_output(root, painted=manifest.account.is_local_sandbox)
        wanted = {job.id: job for job in expand(manifest)}
        status = {job: book.jobs.get(job, ("pending", 0))[0] for job in {*wanted, *book.jobs}}
        counts = Counter(status[job] for job in wanted)
        said = Counter({each.value: number for each, number in result.jobs.items()})
        sent = {send.attempt for send in network.sends}
        begun = {
            job for job in map(job_of, sent) if self._before.jobs.get(job, ("pending",))[0] in {"pending", "failed"}
        }
        missing = [job.id for job in wanted.values() if len(found.get(job.id, ())) != job.parameters.n]
        is_whole = result.exit_code or (missing and (options.get("only") or options.get("limit") is not None))
        demand(set(book.wanted) == wanted.keys(), "the ledger does not list what the manifest asks for")
        demand(result.images == sum(map(len, found.values())), f"{result.images} images, but {found}")
        demand(options.get("only") or said == counts, f"said {said}, kept {counts}")
        is_all = not (options.get("only") or options.get("limit") is not None or result.unfinished)
        demand(result.exit_code > 1 or not is_all or not said["pending"], f"it ended by itself, and left {said}")
        demand(result.started == len(sent), f"{result.started} started, {len(sent)} sent")
        demand(not missing or is_whole, f"exit 0, and not there: {missing}")
        demand(len(begun) <= (options.get("limit") or 10**6), f"{len(begun)} jobs begun: {options}")
        demand(result.reason_code in _REASONS.get(result.exit_code, {result.reason_code}), f"{result.as_data()}")
        demand((result.error is None) == (result.exit_code in _REASONS), f"{result.as_data()}")
        alike = {job_of(attempt) for name, attempt in network.met if name == "refused by the account"}
        failed = [job for job in alike if status.get(job) == "failed"]
        demand(len(failed) < _ALIKE + manifest.account.concurrency, f"failed by the same words: {failed}")
        if not self._has_adopted:
            told = any("links late" in gateway.rates for gateway in self._life.gateways.values())
            partial = [job for job in status if status[job] == "partial"]
            demand(told or not partial, f"nobody has said that these have fewer images: {partial}")
            self._check_gone(book)
        if isinstance(result.error, AccountStopped):
            self._check_account_stopped(manifest, str(result.error))
        self.check_secrets(root, messages)

    def _check_gone(self, book: Books) -> None:
        """What is made is gone only after an hour without its task, or a day without its image."""
        world = self._life.world
        for gateway, task, attempt in self._billed():
            known = book.attempts.get(attempt)
            is_gone = known and known.account == gateway.name and book.jobs.get(known.job, ("",))[0] == "gone"
            if not is_gone or gateway.has_images_inside or self.copies or "clock set" in world.faults:
                continue
            may_forget = gateway.is_per_key or "query forgets" in gateway.rates
            age = world.true - gateway.due(task) + task.duration / 1000
            demand(age > (3500 if may_forget else 86_000), f"{attempt} is gone {age:.0f} s after it was accepted")

    def _check_account_stopped(self, manifest: Manifest, why: str) -> None:
        """A page that answers one prompt does not stop an account that has accepted something."""
        life = self._life
        others = {name for name, _ in life.network.met} - {"refused as page", "too fast", "too many", "not sent"}
        gateways = life.gateways.values()
        is_troubled = any(gateway.windows or gateway.rates.keys() & QUERY_FAULTS.keys() for gateway in gateways)
        jobs = {job_of(attempt) for _, attempt in life.network.met}
        is_page = 0 < len(jobs) < _ALIKE and not (others or is_troubled)
        demand(not (is_page and manifest.account.name in self._had_accepted), f"stopped: {why}")

    def check_secrets(self, root: Path, messages: list[str]) -> None:
        """No key in any file or message."""
        texts = [path.read_bytes() for path in root.glob("*") if path.is_file() and path.name != ".lock"]
        texts += [message.encode() for message in messages]
        written = [key for key in self._life.network.keys if any(key.encode() in text for text in texts)]
        demand(not written, f"keys were written: {written}")

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
        if not (self.copies or self._remade) and not any(each.outcome in _IN_DOUBT for each in book.attempts.values()):
            demand(report.twice == 0, f"audit says: {report.sentence}")
            is_fine = result.exit_code != ExitCode.OK or report.is_consistent or book.gone_unwanted
            demand(is_fine, f"exit 0, and audit is not content: {report.sentence}")

    def _is_excused(self, job: str, status: str) -> bool:
        """Whether the job had the trouble that its status speaks of."""
        life = self._life
        failed = {
            job_of(gateway.attempts.get(task.id, ""))
            for gateway in life.gateways.values()
            for task in gateway.tasks
            if task.failure
        }
        match status:
            case "failed" | "rejected":
                return job in failed | set(map(job_of, life.may_fail))
            case "unknown":
                return job in map(job_of, life.troubled)
            case "partial" if self._has_adopted and (self.copies or life.rehearsed):  # files taken by their names alone
                return True
            case "gone" | "partial":  # it came inside an answer, and the user has deleted it
                here = self._here()
                paid = [each for each in self._billed() if job_of(each[2]) == job and each[0].answers_with_images]
                return any((gateway.pictures(task) - here) & self.deleted for gateway, task, _ in paid)
        return False

    def _here(self) -> set[str]:
        return hashes(*(root / top for root in self._life.outputs for top in ("images", "retired")))

    def check_nothing_lost(self) -> None:
        """Every picture that was paid for is in an output, or the user was told that it is in doubt."""
        have = self._here() | self.deleted
        for gateway, task, attempt in self._billed():
            known = [book.attempts[attempt] for book in self._books.values() if attempt in book.attempts]
            outcomes = {each.outcome for each in known if each.account == gateway.name}
            is_partial = any(book.jobs.get(job_of(attempt), ("",))[0] == "partial" for book in self._books.values())
            is_forgotten = self.copies and (is_partial or not outcomes - _UNPAID)  # by the ledger of yesterday
            is_told = outcomes & _IN_DOUBT or attempt in self._settled
            is_told = is_told or any(job_of(attempt) in book.gone_unwanted for book in self._books.values())
            is_there = gateway.pictures(task) <= have or is_told or is_forgotten
            demand(is_there, f"{attempt} is paid for as {task.id}, and not there: {outcomes}")


def _rows(root: Path) -> list[dict[str, str]]:
    index = root / "index.csv"
    return list(csv.DictReader(index.open(encoding="utf-8", newline=""))) if index.exists() else []
