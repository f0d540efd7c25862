"""Compares what was paid for with what is there: the ledger, the files, and the gateway where it can be queried.

A task that no ledger knows, of a job that the manifest asks for, can be adopted instead of being paid for again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchgen.app.gateway import open_gateway
from batchgen.app.gateway_query import GatewayQuery, GatewayReport, OrphanTask
from batchgen.app.ledger_totals import LedgerTotals, ledger_totals
from batchgen.errors import BatchgenError, CommandError
from batchgen.jobs import Status
from batchgen.ledger import lock
from batchgen.ledger.adoption import events_of_attempt, events_of_delivery
from batchgen.ledger.events import Accepted, Outcome, Reopened, redacted
from batchgen.ledger.rescue import adopt_rescued
from batchgen.ledger.sharding import check_shard, keep_shard
from batchgen.ledger.store import FILE_NAME, Ledger, check_not_merged
from batchgen.matrix.expand import expand
from batchgen.reconcile import reconcile, unrecorded
from batchgen.reports.index import INDEX
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.events import Event
    from batchgen.ledger.reader import LedgerReader
    from batchgen.manifest.model import Manifest
    from batchgen.shards import Shard


_SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Adopted:
    """How much was adopted from the output itself; `left` names rows of the index that could not be."""

    rescued: int = 0
    rows: int = 0  # images of index.csv
    files: int = 0  # images with the names of jobs to be made
    left: list[str] = field(default_factory=list)

    def as_lines(self) -> list[str]:
        lines = []
        if self.rescued:
            lines.append(f"  {self.rescued} rescued answers were adopted")
        if self.rows:
            lines.append(f"  {self.rows} images of {INDEX} were adopted")
        if self.files:
            lines.append(f"  {self.files} files were adopted by their names alone: look at them")
        if self.left:
            lines.append(
                f"  {len(self.left)} rows of {INDEX} belong to no job that the ledger or the manifest knows, such as"
                f" {', '.join(self.left[:_SHOWN])}. To go on without them, move {INDEX} away; the files stay."
            )
        return lines


@dataclass(slots=True, kw_only=True)
class AuditReport:
    root: Path
    totals: LedgerTotals
    gateways: list[GatewayReport]
    orphans: list[OrphanTask]  # tasks of this manifest's or this ledger's jobs that the ledger does not count as paid
    paid_besides: tuple[int, int]  # images of these: paid for, and how many of those are duplicates
    of_other_outputs: int  # tasks of jobs that neither knows, such as those of other shards
    shard: Shard | None = None
    adoptable: list[OrphanTask]
    adopted: bool = False
    from_output: Adopted
    painted: int  # jobs of which a sandbox painted something, which counts for nothing

    @property
    def is_consistent(self) -> bool:
        """Whether all that was paid for is here, once, and nothing is in doubt."""
        totals = self.totals
        left = len(self.orphans) - (len(self.adoptable) if self.adopted else 0)
        return not (totals.unknown or totals.undelivered or totals.twice or left or self.from_output.left)

    @property
    def paid(self) -> int:
        """Images, by the ledger and by what the gateway has besides."""
        return self.totals.paid + self.paid_besides[0]

    @property
    def twice(self) -> int:
        """Images beyond those that their jobs ask for."""
        return self.totals.twice + self.paid_besides[1]

    @property
    def sentence(self) -> str:
        return f"{self.paid} images paid for, {self.totals.delivered} delivered, {self.twice} twice."


def audit(
    manifest: Manifest, root: Path, *, offline: bool = False, adopt: bool = False, rescue: Path | None = None
) -> AuditReport:
    """Compare both sides; with `adopt`, take into the ledger what it does not know. Otherwise nothing is written.

    `offline`: query no gateway. `rescue`: with `adopt`, the file into which a run wrote what a full disk refused.
    """
    state = root / FILE_NAME
    if rescue is not None and not adopt:
        raise CommandError("--rescue names what --adopt is to take in: give both.")
    check_not_merged(root)
    check_shard(state, manifest.shard)
    if not state.exists() and not (root / INDEX).exists():
        raise CommandError(f"There is no output in {root} to audit. Make it with: batchgen run {manifest.path}")
    with ExitStack() as stack:
        base_urls = manifest.pool.base_urls
        is_real = not manifest.account.is_local_sandbox
        painted = 0  # counts for nothing where the account in force is a real one
        from_output = Adopted()
        if adopt:
            stack.enter_context(lock.held(root))
            ledger = Ledger.open(state)
            stack.callback(ledger.close)
            keep_shard(ledger, state, manifest.shard)
            from_output = _adopt_rows(ledger, manifest, root, rescue)
            if is_real and not from_output.left:  # else the next run drops them, once the index is in order
                tree = Tree(root)
                painted, _ = reconcile.drop_rehearsals(ledger, tree, base_urls)
                tree.remove_scratch_if_empty()
        else:
            Ledger.check_not_lost(state, root / INDEX, manifest.shard)
            ledger = Ledger.preview(state)
            stack.callback(ledger.close)
            ledger.preview_current_jobs()
            if is_real:
                painted = len(ledger.preview_drop_rehearsals(base_urls))
        totals = ledger_totals(ledger, root)
        names = sorted({*(account.name for account in manifest.pool.accounts), *totals.oldest})
        gateways = [] if offline else [asyncio.run(_query(manifest, root, totals, name)) for name in names]
        orphans = [orphan for gateway in gateways for orphan in gateway.orphans]
        ids = {orphan.job_id for orphan in orphans}
        jobs = {job.id: job for job in expand(manifest) if job.id in ids} if ids else {}
        here = [orphan for orphan in orphans if orphan.job_id in jobs or orphan.job_id in totals.latest]
        images = totals.images | {job.id: job.parameters.n for job in jobs.values()}
        report = AuditReport(
            root=root,
            totals=totals,
            gateways=gateways,
            orphans=here,
            paid_besides=paid_besides(here, images, totals),
            of_other_outputs=len(orphans) - len(here),
            shard=manifest.shard,
            adoptable=adoptable(orphans, jobs, totals),
            from_output=from_output,
            painted=painted,
        )
        if adopt:
            now = int(time.time() * 1000)
            for orphan in report.adoptable:
                ledger.record(map(redacted, adoption(orphan, jobs[orphan.job_id], ledger, now)))
            from_output.files = _adopt_files(ledger, manifest, root, now)
            report.totals, report.adopted = ledger_totals(ledger, root), True
        return report


async def _query(manifest: Manifest, root: Path, totals: LedgerTotals, name: str) -> GatewayReport:
    from batchgen.http.client import HttpClient  # noqa: PLC0415 - `offline` needs no network
    from batchgen.providers.registry import provider_for  # noqa: PLC0415

    own = {account.name: account for account in manifest.pool.accounts}
    account = own.get(name) or manifest.accounts.get(name)
    if account is None:
        return GatewayReport(account=name, base_url="", error="the manifest no longer names it in `providers`")
    try:
        async with open_gateway(account, root) as reached, HttpClient(8) as client:
            return await GatewayQuery(provider_for(reached, client), totals).ask()
    except BatchgenError as error:
        return GatewayReport(account=name, base_url=account.base_url, error=str(error))


def adoptable(orphans: Iterable[OrphanTask], wanted: Mapping[str, Job], totals: LedgerTotals) -> list[OrphanTask]:
    """Tasks whose job is asked for and has nothing else that is or may be paid for; one for each job.

    The task of an attempt whose status is unknown belongs to it; any other has to be later than the job's latest.
    """
    chosen: dict[str, OrphanTask] = {}
    for orphan in sorted(orphans, key=lambda orphan: orphan.attempt):
        sent = totals.sent.get(orphan.external_id)
        is_unknown = sent is not None and sent.outcome is Outcome.UNKNOWN
        latest = totals.latest.get(orphan.job_id, 0)
        fits = orphan.attempt == latest if is_unknown else orphan.attempt > latest
        if fits and orphan.job_id in wanted and orphan.job_id not in totals.live:
            chosen.setdefault(orphan.job_id, orphan)
    return list(chosen.values())


def adoption(orphan: OrphanTask, job: Job, ledger: LedgerReader, at: int) -> list[Event]:
    """The events that take a task into the ledger, so that the next run fetches it. `at` is Unix ms.

    The job may be pending, or have ended without images; an unknown attempt keeps its number.
    """
    task = orphan.task
    accepted = Accepted(
        job_id=job.id, attempt=orphan.attempt, task_id=task.id, at=at, found=True, rehearsal=task.rehearsal
    )
    latest = ledger.latest_attempt(job.id)
    if latest is not None and latest.external_id == orphan.external_id:
        given_up = latest.status in {Status.FAILED, Status.REJECTED}  # the last attempt that run.max_attempts allowed
        return [Reopened(job_id=job.id), accepted] if given_up else [accepted]
    sent = task.created_ms
    earlier = accepted if sent is None or not 0 < sent < at else replace(accepted, at=sent)
    return events_of_attempt(ledger, job, earlier, orphan.account, orphan.base_url)


def paid_besides(orphans: Iterable[OrphanTask], images: Mapping[str, int], totals: LedgerTotals) -> tuple[int, int]:
    """Images that the gateway made, or is making, and the ledger does not count; and how many of them are duplicates.

    `images` are those that each job asks for: not every list says what a task has made.
    """
    paid = twice = 0
    counted = set(totals.live)
    for orphan in orphans:
        number = max(len(orphan.task.links), images.get(orphan.job_id, 1))
        paid += number
        twice += number if orphan.job_id in counted else 0
        counted.add(orphan.job_id)
    return paid, twice


def _adopt_rows(ledger: Ledger, manifest: Manifest, root: Path, rescue: Path | None) -> Adopted:
    """Adopt the rescued answers and the rows of index.csv; a file counts where its hash is that of its row."""
    adopted = Adopted()
    account = manifest.account
    if rescue is not None:
        adopted.rescued = adopt_rescued(ledger, rescue)
    found = unrecorded.deliveries_of_index(
        ledger, root, lambda name: manifest.accounts.get(name, account).base_url, lambda: expand(manifest)
    )
    for each in found:
        if isinstance(each, dict):
            adopted.left.append(each["file_name"])
            continue
        if manifest.shard is not None and not manifest.shard.has(each.job.id):
            adopted.left.append(each.job.id)  # of another shard: its own ledger has it
            continue
        events = events_of_delivery(ledger, each)
        if events:
            ledger.record(events)
            adopted.rows += len(each.indexes)
        else:
            adopted.left.append(each.job.id)
    return adopted


def _adopt_files(ledger: Ledger, manifest: Manifest, root: Path, at: int) -> int:
    """Adopt image files that have the names of jobs which are still to be made."""
    number = 0
    name = manifest.account.name
    unknown = unrecorded.files_of_pending(ledger, root, manifest.output_path, lambda: expand(manifest), failed=True)
    for job, files in list(unknown):
        found = unrecorded.delivery_of_files(job, files, root, name, manifest.account.base_url, at)
        if found.files:
            ledger.record(events_of_delivery(ledger, found))
            number += len(found.files)
    return number
