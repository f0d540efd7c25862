"""`batchgen run`: makes what the manifest asks for; started again, it goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.app.load import load_manifest
from batchgen.app.run import run
from batchgen.cli import options as common
from batchgen.cli import terminal
from batchgen.cli.hooks import RunHooks
from batchgen.cli.outcome import print_result
from batchgen.cli.progress import Progress
from batchgen.engine.shutdown import signals_raised
from batchgen.formatting import counted
from batchgen.jobs import Status

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from batchgen.app.run_result import RunResult


EXAMPLES = """\
batchgen run spring.yaml --provider sandbox
batchgen run spring.yaml --limit 2 --max-cost 1.50
batchgen run nightly.yaml --quiet --deadline 06:00 --metrics batchgen.prom
batchgen run spring.yaml --shard 1/3 --output outputs/spring-1
"""


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_shard(parser)
    common.add_selection(parser)
    parser.add_argument(
        "--retry-failed", action="store_true", help="another attempt for jobs that failed, are gone or are partial"
    )
    parser.add_argument(
        "--retry-unknown",
        action="store_true",
        help="send again what may have been accepted already, where nobody can say; it may be paid twice",
    )
    parser.add_argument(
        "--refetch",
        action="store_true",
        help="all images are missing and really lost (not on a drive that is not mounted): fetch them again, unpaid",
    )
    common.add_remake(parser)
    parser.add_argument("--max-cost", metavar="M", type=common.money, help="spend at most M in this run")
    parser.add_argument(
        "--deadline", metavar="WHEN", type=common.deadline, help="start nothing after 90m, 06:00 or 2027-01-31T06:00"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        help="download with N processes of this machine; see docs/workers.md (default: threads)",
    )
    parser.add_argument(
        "--summary", metavar="FILE", type=Path, help="append one JSON line about this run to FILE, however it ends"
    )
    parser.add_argument(
        "--metrics", metavar="FILE", type=Path, help="keep FILE as Prometheus metrics of this run, however it ends"
    )
    parser.add_argument(
        "--timings", action="store_true", help="say at the end where the time of each account's slots went"
    )
    common.add_json(parser)
    common.add_logging(parser)


def execute(options: Namespace) -> int:
    with signals_raised(), RunHooks(options.manifest, options.summary) as hooks:
        progress = _progress(options, hooks)
        hooks.notify = progress.on_message
        manifest = load_manifest(options.manifest, provider=options.provider).of_shard(options.shard)
        hooks.manifest = manifest
        if hooks.metrics is not None:
            names = ",".join(account.name for account in manifest.pool.accounts)
            hooks.metrics.labels |= {"manifest": manifest.name, "account": names}
        hooks.result = result = run(
            manifest,
            output=common.output_folder(options, manifest.name),
            only=options.only,
            limit=options.limit,
            max_cost=options.max_cost,
            deadline=options.deadline,
            retry_failed=options.retry_failed,
            retry_unknown=options.retry_unknown,
            refetch=options.refetch,
            remake=options.remake,
            workers=options.workers,
            observer=progress,
            handle_signals=True,
            before_exit=hooks.before_exit,
        )
        if options.timings:
            _report_timings(result, progress, as_data=options.log_format == "json")
    _report(options, result)
    return result.exit_code


def _progress(options: Namespace, hooks: RunHooks) -> Progress:
    """What shows the run, and keeps its metrics. Raises CommandError where these cannot be written."""
    if options.metrics is None:
        return Progress(quiet=options.quiet, log_format=options.log_format)
    from batchgen.cli.metrics import MeteredProgress  # noqa: PLC0415 - only where it is asked for

    metered = MeteredProgress(options.metrics, options.manifest, quiet=options.quiet, log_format=options.log_format)
    if options.shard is not None:  # else the files of several shards would have the same series
        metered.labels["shard"] = str(options.shard)
    metered.check()
    hooks.metrics = metered
    return metered


def _report_timings(result: RunResult, progress: Progress, *, as_data: bool) -> None:
    for account, slot_time in result.slot_times.items():
        if as_data:
            shares = {kind: round(share, 4) for kind, share in slot_time.shares().items()}
            progress.on_message("slot time", event="slot_time", account=account, shares=shares)
            continue
        for line in slot_time.report(account):
            progress.on_message(line)


def _report(options: Namespace, result: RunResult) -> None:
    if options.json:
        print_result(result.as_data())
    elif not options.quiet:
        print("\n".join(_lines(result)))
    if result.exit_code and (result.error is not None or options.quiet or terminal.is_log(sys.stderr)):
        print(f"batchgen: {result.reason}", file=sys.stderr)


def _lines(result: RunResult) -> list[str]:
    """What is where, and what is missing."""
    lines = [f"{_are(result.images)} in {result.output / 'images'}; the index is {result.index}."]
    if result.nothing_to_do:
        lines.insert(0, "Nothing to do: everything asked for is there.")
    lines += [f"  {account}" for account in result.accounts]
    if result.cost_by_model and result.unit is not None:
        by_model = ", ".join(f"{model} {cost:f}" for model, cost in result.cost_by_model.items())
        lines.append(f"Cost of this run: {result.cost:f} {result.unit or 'units'} ({by_model}).")
    if result.watermarks_missing:
        images = counted(result.watermarks_missing, "image")
        lines.append(f"The gateway gave no watermarked copy of {images}, though it was asked for.")
    if result.warnings:
        lines.append(f"{_are(result.warnings)} unusual, and kept as received; see the column `warning` of the index.")
    lines += result.shortfalls
    if pending := result.jobs.get(Status.PENDING):
        lines.append(f"Not started yet: {counted(pending, 'job')}.")
    if result.retired:
        retired = counted(result.retired, "file")
        lines.append(f"No longer asked for, and moved to {result.output / 'retired'}: {retired}.")
    return lines


def _are(images: int) -> str:
    return f"{counted(images, 'image')} {'is' if images == 1 else 'are'}"
