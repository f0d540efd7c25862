"""`batchgen run`: makes what the manifest asks for; started again, it goes on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.app.run import Order, Result, RunEnvironment, perform
from batchgen.cli import options as common
from batchgen.cli import terminal
from batchgen.cli.gateway import gateway_in, way_back
from batchgen.cli.hooks import Finish
from batchgen.cli.progress import Progress
from batchgen.cli.run_report import Ending, ending_of
from batchgen.engine.attempt import Work
from batchgen.engine.budget import Limits
from batchgen.engine.context import Rules
from batchgen.engine.counters import Counters
from batchgen.engine.shutdown import signals_raised
from batchgen.errors import CommandError
from batchgen.jobs import Status
from batchgen.ledger import lock
from batchgen.ledger.mounts import shared_kind
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.manifest.load import load_manifest
from batchgen.manifest.model import OnUnknown
from batchgen.matrix.expand import expand
from batchgen.money import micros
from batchgen.plan.selection import Selection
from batchgen.plan.survey import check_any, standings, unpriced
from batchgen.providers import registry
from batchgen.reports.index import INDEX
from batchgen.storage.tree import Tree

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from batchgen.callbacks.endpoint import CallbackEndpoint
    from batchgen.ledger.reader import LedgerReader
    from batchgen.manifest.model import Manifest

_BREATH = 1000  # jobs that are looked at in one go
_RETRIED = frozenset({Status.FAILED, Status.GONE, Status.PARTIAL})


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    common.add_selection(parser)
    parser.add_argument(
        "--retry-failed", action="store_true", help="another attempt for jobs that failed, are gone or came partial"
    )
    parser.add_argument(
        "--retry-unknown",
        action="store_true",
        help="send again what may have been taken already, where nobody can say; it may be paid twice",
    )
    parser.add_argument(
        "--refetch",
        action="store_true",
        help="images that are all missing are lost indeed, no drive that is not mounted: fetch them again, unpaid",
    )
    parser.add_argument("--max-cost", metavar="M", type=common.money, help="spend at most M in this run")
    parser.add_argument(
        "--deadline", metavar="WHEN", type=common.deadline, help="begin nothing after 90m, 06:00 or 2027-01-31T06:00"
    )
    parser.add_argument(
        "--summary", metavar="FILE", type=Path, help="append one JSON line about this run to FILE, however it ends"
    )
    parser.add_argument(
        "--timings", action="store_true", help="say at the end where the time of each account's slots went"
    )
    common.add_json(parser)
    common.add_logging(parser)


def execute(options: Namespace) -> int:
    """Run, say how it ended, and return the exit code of the contract."""
    with signals_raised(), Finish(options.manifest, options.summary) as finish:
        finish.ending = ending = _run(options, finish)
    _tell(options, ending)
    return ending.exit_code


def _run(options: Namespace, finish: Finish) -> Ending:
    finish.manifest = manifest = load_manifest(options.manifest, provider=options.provider)
    selection = Selection.parse(options.only, manifest.var_names)
    registry.check(manifest.account)
    _check_prices(options, manifest)
    check_any(manifest, selection)
    counters = Counters(unit=manifest.account.prices.unit)
    progress = Progress(counters, quiet=options.quiet, log_format=options.log_format)
    finish.say = progress.say
    for warning in manifest.warnings:
        progress.say(str(replace(warning, warning=False)), level="warning")
    return _performed(options, manifest, selection, progress, finish)


def _performed(
    options: Namespace, manifest: Manifest, selection: Selection, progress: Progress, finish: Finish
) -> Ending:
    tree = Tree(common.output_folder(options, manifest.name))
    Ledger.check_not_lost(tree.root / FILE_NAME, tree.root / INDEX)
    with way_back(manifest, tree.root) as address:
        tree.prepare()
        if kind := shared_kind(tree.root):
            progress.say(
                f"{tree.root} is on a network file system ({kind}): the ledger is kept in a slower, safer way. Start"
                " runs of this output on one machine only: locks between machines cannot be trusted there.",
                level="warning",
            )
        with lock.held(tree.root):
            around = RunEnvironment(
                counters=progress.counters,
                observer=progress,
                say=progress.say,
                say_error=partial(progress.say, level="error"),
                gateway=gateway_in(tree.root),
                leave=finish.end_at_once,
            )
            result = perform(_order(options, manifest, selection, address), tree, around)
            if options.timings:
                _tell_slot_times(result, progress, as_data=options.log_format == "json")
            ledger = Ledger.read(tree.root / FILE_NAME)
            jobs = _scope(manifest, ledger, selection)
            ending = ending_of(tree.root, result, ledger, jobs, manifest.account.prices.unit)
            ledger.close()
    return ending


def _order(options: Namespace, manifest: Manifest, selection: Selection, address: CallbackEndpoint | None) -> Order:
    run = manifest.run
    return Order(
        jobs=lambda: expand(manifest),
        digest=manifest.digest,
        source=lambda ledger: _pending(manifest, ledger, selection, options.limit),
        takes=selection.takes,
        to_come=lambda ledger: _to_come(options, manifest, ledger, selection),
        account=manifest.account,
        accounts=manifest.accounts,
        template=manifest.output_path,
        rules=Rules(
            max_attempts=run.max_attempts,
            task_timeout=run.task_timeout,
            resend_unknown=options.retry_unknown or run.on_unknown is OnUnknown.RESEND,
            give_up_after=run.give_up_after,
            grace=run.grace,
        ),
        limits=Limits(
            images=manifest.budget.max_images,
            cost=micros(manifest.budget.max_cost),
            run_cost=micros(options.max_cost),
            unit=manifest.account.prices.unit,
        ),
        downloads=run.downloads,
        refetch=options.refetch,
        retry=_RETRIED if options.retry_failed else frozenset(),
        deadline=options.deadline,
        spreadsheet_safe=manifest.spreadsheet_safe,
        address=address,
    )


def _pending(
    manifest: Manifest, ledger: LedgerReader, selection: Selection, limit: int | None
) -> Iterator[Work | None]:
    """What is to be begun, at most `limit` of it; None now and then where nothing is."""
    begun = 0
    for looked_at, (job, standing) in enumerate(standings(manifest, ledger), 1):
        if limit is not None and begun >= limit:
            return
        if standing.status is Status.PENDING and selection.takes(job):
            begun += 1
            yield Work.of(job, standing.attempt, standing.failures)
        elif looked_at % _BREATH == 0:
            yield None


def _to_come(options: Namespace, manifest: Manifest, ledger: LedgerReader, selection: Selection) -> tuple[int, int]:
    """Jobs and images that this run is to bring: what was begun, and what is to be begun."""
    if not selection.wishes and options.limit is None:
        return ledger.images_missing()
    jobs, images = ledger.images_missing(begun_only=True)
    for work in filter(None, _pending(manifest, ledger, selection, options.limit)):
        jobs, images = jobs + 1, images + work.units
    return jobs, images


def _scope(manifest: Manifest, ledger: LedgerReader, selection: Selection) -> dict[Status, int]:
    """How the jobs stand that this run's exit code is about."""
    if not selection.wishes:
        return ledger.counts()
    counts: dict[Status, int] = {}
    for job, standing in standings(manifest, ledger):
        if selection.takes(job):
            counts[standing.status] = counts.get(standing.status, 0) + 1
    return counts


def _check_prices(options: Namespace, manifest: Manifest) -> None:
    """A bound in money cannot be kept where a price is not known."""
    if options.max_cost is None and manifest.budget.max_cost is None:
        return
    missing = unpriced(manifest)
    if missing:
        names = ", ".join(f"{model} at {resolution}" for model, resolution in sorted(missing))
        raise CommandError(
            f"A bound in money cannot be kept: the price of {names} is not known for the account"
            f" {manifest.account.name!r}. Give it in the manifest, for instance"
            f" providers: {{{manifest.account.name}: {{prices: {{{min(missing)[0]}: 0.02}}}}}}, or bound the images"
            " with budget.max_images."
        )


def _tell_slot_times(result: Result, progress: Progress, *, as_data: bool) -> None:
    for account, slot_time in result.stats.slot_times.items():
        if as_data:
            shares = {kind: round(share, 4) for kind, share in slot_time.shares().items()}
            progress.say("slot time", event="slot_time", account=account, shares=shares)
            continue
        for line in slot_time.report(account):
            progress.say(line)


def _tell(options: Namespace, ending: Ending) -> None:
    if options.json:
        print(json.dumps(ending.as_data(), ensure_ascii=False, indent=2))
    elif not options.quiet:
        print(ending.as_text())
    if ending.exit_code and (ending.reason is not None or options.quiet or terminal.is_log(sys.stderr)):
        print(f"batchgen: {ending.sentence}", file=sys.stderr)
