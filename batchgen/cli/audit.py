"""`batchgen audit`: what was paid for against what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.app.audit import audit
from batchgen.app.load import load_manifest
from batchgen.cli import options as common
from batchgen.cli.outcome import checked, print_result

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.app.audit import AuditReport
    from batchgen.app.gateway_query import OrphanTask
    from batchgen.ledger.records import Payment

EXAMPLES = """\
batchgen audit spring.yaml
batchgen audit spring.yaml --adopt
"""
_SHOWN = 20  # lines of a kind, in text


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_shard(parser)
    parser.add_argument("--offline", action="store_true", help="query no gateway, compare ledger and files only")
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


def execute(options: Namespace) -> int:
    """0 when all that was paid for is here, once; 1 when something is missing, in doubt or paid twice."""
    manifest = load_manifest(options.manifest, provider=options.provider).of_shard(options.shard)
    root = common.output_folder(options, manifest.name)
    report = audit(manifest, root, offline=options.offline, adopt=options.adopt, rescue=options.rescue)
    if options.json:
        print_result(_as_data(report))
    else:
        print(_as_text(report))
    return 0 if report.is_consistent else 1


def _as_data(report: AuditReport) -> dict[str, Any]:
    totals = report.totals
    return {
        **checked(ok=report.is_consistent),
        "output": str(report.root),
        "shard": None if report.shard is None else str(report.shard),
        "consistent": report.is_consistent,
        "images": {
            "paid": report.paid,
            "delivered": totals.delivered,
            "twice": report.twice,
            "in_flight": totals.in_flight,
        },
        "adopted_tasks": totals.adopted_tasks,
        "restored": {
            "rescued": report.from_output.rescued,
            "images": report.from_output.rows,
            "files": report.from_output.files,
        },
        "not_restored": report.from_output.left,
        "unknown": [_payment(payment) for payment in totals.unknown],
        "paid_but_not_delivered": [_payment(payment) for payment in totals.undelivered],
        "gateways": [
            {
                "account": gateway.account,
                "asked": gateway.method or None,
                "error": gateway.error or None,
                "tasks": gateway.tasks,
                "of_others": gateway.foreign,
            }
            for gateway in report.gateways
        ],
        "not_in_the_ledger": [_orphan(orphan, report) for orphan in report.orphans],
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


def _orphan(orphan: OrphanTask, report: AuditReport) -> dict[str, Any]:
    can = orphan in report.adoptable
    return {
        "external_id": orphan.external_id,
        "task_id": orphan.task.id,
        "account": orphan.account,
        "state": orphan.task.state.value,
        "images": len(orphan.task.links),
        "adoptable": can,
        "adopted": can and report.adopted,
    }


def _as_text(report: AuditReport) -> str:
    totals = report.totals
    lines = [
        str(report.root),
        f"  {totals.adopted_tasks} tasks were adopted after their answer was lost",
    ]
    lines += report.from_output.as_lines()
    if totals.in_flight:
        lines.append(f"  {totals.in_flight} images are in flight: run again to fetch them")
    if report.painted:
        lines.append(f"  {report.painted} jobs were painted by a sandbox, and do not count")
    lines += _listed("unknown: sent, and nobody can say whether it was accepted", [_line(p) for p in totals.unknown])
    lines += _listed("paid for, but not all delivered", [_line(p) for p in totals.undelivered])
    for gateway in report.gateways:
        if gateway.error:
            lines.append(f"  Gateway {gateway.account!r} could not be queried: {gateway.error}")
        else:
            lines.append(
                f"  Gateway {gateway.account!r} has {gateway.tasks} tasks ({gateway.method}), {gateway.foreign} of them"
                " created elsewhere."
            )
    lines += _listed("at the gateway, but not in this ledger as paid", [_found(s, report) for s in report.orphans])
    if report.of_other_outputs:
        of_shard = "" if report.shard is None else f", which has shard {report.shard} alone"
        lines.append(
            f"  {report.of_other_outputs} tasks there were created by batchgen, for no job of this output{of_shard}."
        )
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


def _found(orphan: OrphanTask, report: AuditReport) -> str:
    can = (
        "can be adopted"
        if orphan in report.adoptable
        else "its job has another task: it was paid twice, or may have been"
    )
    return f"{orphan.external_id}: task {orphan.task.id}, {orphan.task.state.value}, {can}"
