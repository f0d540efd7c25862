"""`batchgen audit`: what was paid for against what is there."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.app.audit import (
    GatewayQuery,
    GatewayReport,
    LedgerTotals,
    OrphanTask,
    adoptable,
    adoption,
    books,
    paid_beside,
)
from batchgen.cli import options as common
from batchgen.cli.adopt_files import Taken, take_in_files, take_in_rows
from batchgen.cli.gateway import gateway_in
from batchgen.cli.outcome import checked
from batchgen.errors import BatchgenError, CommandError
from batchgen.ledger import lock
from batchgen.ledger.events import redacted
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.manifest.load import load_manifest
from batchgen.matrix.expand import expand
from batchgen.reconcile import reconcile
from batchgen.reports.index import INDEX
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.catalog.catalog import Account
    from batchgen.jobs import Job
    from batchgen.ledger.payments import Payment
    from batchgen.manifest.model import Manifest

_SHOWN = 20  # lines of a kind, in text


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    parser.add_argument("--offline", action="store_true", help="ask no gateway: what the ledger and the files know")
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="take into the ledger what it does not know: images of index.csv, tasks that the gateway has of jobs that"
        " the manifest asks for, files at the names of jobs that are to be made; it is made anew where it is lost."
        " The next run fetches what is missing, unpaid",
    )
    parser.add_argument(
        "--rescue",
        metavar="FILE",
        type=Path,
        help="with --adopt: take in what a full disk kept out of the ledger, from the file that the run named, or from"
        " its log",
    )
    common.add_json(parser)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Both sides."""

    root: Path
    books: LedgerTotals
    answers: list[GatewayReport]
    strays: list[OrphanTask]  # tasks of this manifest's or this ledger's jobs that the ledger does not count as paid
    beside: tuple[int, int]  # images of these: paid for, and of those twice
    of_other_outputs: int  # tasks of jobs that neither knows
    adoptable: list[OrphanTask]
    adopted: bool
    taken: Taken
    painted: int = 0  # jobs of which a sandbox painted something, which counts for nothing

    @property
    def is_consistent(self) -> bool:
        """Whether all that was paid for is here, once, and nothing is in doubt."""
        held = self.books
        left = len(self.strays) - (len(self.adoptable) if self.adopted else 0)
        return not (held.unknown or held.undelivered or held.twice or left or self.taken.left)

    @property
    def paid(self) -> int:
        """Images, by the ledger and by what the gateway has besides."""
        return self.books.paid + self.beside[0]

    @property
    def twice(self) -> int:
        """Images beyond those that their jobs ask for."""
        return self.books.twice + self.beside[1]

    @property
    def sentence(self) -> str:
        """The end of the matter."""
        return f"{self.paid} images paid for, {self.books.delivered} delivered, {self.twice} twice."


def execute(options: Namespace) -> int:
    """0 when all that was paid for is here, once; 1 when something is missing, in doubt or paid twice."""
    manifest = load_manifest(options.manifest, provider=options.provider)
    root = common.output_folder(options, manifest.name)
    state = root / FILE_NAME
    if options.rescue is not None and not options.adopt:
        raise CommandError("--rescue names what --adopt is to take in: give both.")
    if not state.exists() and not (root / INDEX).exists():
        raise CommandError(f"There is no output in {root} to audit. Make it with: batchgen run {options.manifest}")
    if not options.adopt:
        Ledger.check_not_lost(state, root / INDEX)
    with ExitStack() as stack:
        if options.adopt:
            stack.enter_context(lock.held(root))
        ledger = Ledger.open(state) if options.adopt else Ledger.preview(state)
        stack.callback(ledger.close if options.adopt else ledger.db.close)
        if not options.adopt:
            ledger.preview_as_settled()
        painted = _without_rehearsals(ledger, manifest.account, root, adopt=options.adopt)
        report = replace(_report(options, manifest, root, ledger), painted=painted)
    print(json.dumps(_as_data(report), ensure_ascii=False, indent=2) if options.json else _as_text(report))
    return 0 if report.is_consistent else 1


def _without_rehearsals(ledger: Ledger, account: Account, root: Path, *, adopt: bool) -> int:
    """Leave out what a sandbox painted, where the account in force is a real one; of how many jobs."""
    if account.is_local_sandbox:
        return 0
    if adopt:
        return reconcile.drop_rehearsals(ledger, Tree(root), account.base_url)[0]
    return len(ledger.preview_drop_rehearsals(account.base_url))


def _report(options: Namespace, manifest: Manifest, root: Path, ledger: Ledger) -> Report:
    taken = Taken()
    if options.adopt:
        taken = take_in_rows(ledger, manifest, root, options.rescue)
    held = books(ledger, root)
    names = {manifest.account.name, *held.oldest}
    answers = [] if options.offline else asyncio.run(_ask(manifest, root, held, sorted(names)))
    strays = [stray for answer in answers for stray in answer.strays]
    jobs = _wanted(manifest, {stray.job_id for stray in strays})
    here = [stray for stray in strays if stray.job_id in jobs or stray.job_id in held.latest]
    chosen = adoptable(strays, jobs, held)
    images = held.images | {job.id: job.parameters.n for job in jobs.values()}
    beside = paid_beside(here, images, held)
    if options.adopt:
        now = int(time.time() * 1000)
        for stray in chosen:
            ledger.record(map(redacted, adoption(stray, jobs[stray.job_id], ledger, now)))
        taken.files = take_in_files(ledger, manifest, root, now)
        held = books(ledger, root)
    return Report(
        root=root,
        books=held,
        answers=answers,
        strays=here,
        beside=beside,
        of_other_outputs=len(strays) - len(here),
        adoptable=chosen,
        adopted=options.adopt,
        taken=taken,
    )


def _wanted(manifest: Manifest, ids: set[str]) -> dict[str, Job]:
    return {job.id: job for job in expand(manifest) if job.id in ids} if ids else {}


async def _ask(manifest: Manifest, root: Path, held: LedgerTotals, names: list[str]) -> list[GatewayReport]:
    return [await _ask_account(manifest, root, held, name) for name in names]


async def _ask_account(manifest: Manifest, root: Path, held: LedgerTotals, name: str) -> GatewayReport:
    from batchgen.http.client import open_http_client  # noqa: PLC0415 - --offline needs no network
    from batchgen.providers.registry import provider_for  # noqa: PLC0415

    account: Account | None = manifest.account if name == manifest.account.name else manifest.accounts.get(name)
    if account is None:
        return GatewayReport(account=name, base_url="", error="the manifest no longer names it in `providers`")
    try:
        async with gateway_in(root)(account) as reached, open_http_client(8) as client:
            return await GatewayQuery(provider_for(reached, client), held).ask()
    except BatchgenError as error:
        return GatewayReport(account=name, base_url=account.base_url, error=str(error))


# --- saying it ----------------------------------------------------------------------------------------------


def _as_data(report: Report) -> dict[str, Any]:
    held = report.books
    return {
        **checked(ok=report.is_consistent),
        "output": str(report.root),
        "consistent": report.is_consistent,
        "images": {
            "paid": report.paid,
            "delivered": held.delivered,
            "twice": report.twice,
            "in_flight": held.in_flight,
        },
        "adopted_tasks": held.adopted_tasks,
        "taken_in": {"rescued": report.taken.rescued, "images": report.taken.rows, "files": report.taken.files},
        "not_taken_in": report.taken.left,
        "unknown": [_payment(payment) for payment in held.unknown],
        "paid_but_not_delivered": [_payment(payment) for payment in held.undelivered],
        "gateways": [
            {
                "account": answer.account,
                "asked": answer.how or None,
                "error": answer.error or None,
                "tasks": answer.tasks,
                "of_others": answer.strangers,
            }
            for answer in report.answers
        ],
        "not_in_the_ledger": [_stray(stray, report) for stray in report.strays],
        "painted_jobs": report.painted,
        "of_other_outputs": report.of_other_outputs,
        "sentence": report.sentence,
    }


def _payment(payment: Payment) -> dict[str, Any]:
    return {
        "job_id": payment.job_id,
        "attempt": payment.number,
        "external_id": payment.external_id,
        "task_id": payment.task_id or None,
        "account": payment.account,
        "status": payment.job_status.value,
        "images": payment.images,
        "delivered": payment.delivered,
    }


def _stray(stray: OrphanTask, report: Report) -> dict[str, Any]:
    can = stray in report.adoptable
    return {
        "external_id": stray.external_id,
        "task_id": stray.task.id,
        "account": stray.account,
        "state": stray.task.state.value,
        "images": len(stray.task.links),
        "adoptable": can,
        "adopted": can and report.adopted,
    }


def _as_text(report: Report) -> str:
    held = report.books
    lines = [str(report.root), f"  {held.adopted_tasks} tasks were found by asking, and adopted"]
    lines += report.taken.as_lines()
    if held.in_flight:
        lines.append(f"  {held.in_flight} images are in flight: run again to bring them")
    if report.painted:
        lines.append(f"  {report.painted} jobs were painted by a sandbox, which counts for nothing here")
    lines += _listed("unknown: sent, and nobody can say whether it was taken", [_line(p) for p in held.unknown])
    lines += _listed("paid for, but not all delivered", [_line(p) for p in held.undelivered])
    for answer in report.answers:
        if answer.error:
            lines.append(f"  The gateway of {answer.account!r} could not be asked: {answer.error}")
        else:
            told = f"told of {answer.tasks} tasks ({answer.how}), {answer.strangers} of them not of batchgen"
            lines.append(f"  The gateway of {answer.account!r} {told}.")
    lines += _listed("at the gateway, and not in this ledger as paid", [_found(s, report) for s in report.strays])
    if report.of_other_outputs:
        lines.append(f"  {report.of_other_outputs} tasks there are of batchgen, but of no job of this output.")
    if report.adoptable and not report.adopted:
        lines.append("  Adopt what can be adopted with --adopt; the next run fetches it, unpaid.")
    if report.adoptable and report.adopted:
        lines.append(f"  {len(report.adoptable)} tasks adopted; run again to fetch their images, unpaid.")
    return "\n".join([*lines, report.sentence])


def _listed(what: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"    and {len(lines) - _SHOWN} more (--json lists all)"] if len(lines) > _SHOWN else []
    return [f"  {len(lines)} {what}:", *(f"    {line}" for line in lines[:_SHOWN]), *more]


def _line(payment: Payment) -> str:
    return f"{payment.external_id}: {payment.delivered} of {payment.images} images, {payment.job_status.value}"


def _found(stray: OrphanTask, report: Report) -> str:
    can = (
        "can be adopted" if stray in report.adoptable else "its job has another task: it was paid twice, or is in doubt"
    )
    return f"{stray.external_id}: task {stray.task.id}, {stray.task.state.value}, {can}"
