"""`batchgen plan`: what a run would do; sends nothing, writes nothing."""

from __future__ import annotations

import csv
import shutil
import sys
from typing import TYPE_CHECKING, Any

from batchgen.app.load import load_manifest
from batchgen.app.plan import previewed
from batchgen.cli import options as common
from batchgen.cli import terminal
from batchgen.cli.outcome import header, print_problems, print_result
from batchgen.errors import ExitCode, ReasonCode
from batchgen.formatting import counted, duration, size
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest.model import OnUnknown
from batchgen.matrix.expand import expand
from batchgen.money import plain
from batchgen.planning.selection import Selection
from batchgen.planning.survey import Group, Plan, job_states
from batchgen.reports.columns import further_cells
from batchgen.reports.index import escaped
from batchgen.reports.status import MEANING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.records import JobState
    from batchgen.manifest.model import Manifest, Skipped

EXAMPLES = """\
batchgen plan spring.yaml
batchgen plan spring.yaml --only model=kling-v2* --detailed
batchgen plan spring.yaml --format csv
batchgen plan spring.yaml --shard 1/3 --output outputs/spring-1
"""
_REASONS_SHOWN = 8


def configure(parser: ArgumentParser) -> None:
    common.add_manifest(parser)
    common.add_shard(parser)
    common.add_selection(parser)
    common.add_remake(parser)
    parser.add_argument(
        "--detailed", action="store_true", help="list every job with its prompt, labels and the name of its first image"
    )
    parser.add_argument(
        "--format", choices=("text", "csv"), default="text", help="csv: print the list of all jobs, for a spreadsheet"
    )
    parser.add_argument(
        "--exit-code", action="store_true", help=f"exit with {ExitCode.CHANGES} when there is something to do, else 0"
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """Print the plan; 0, or with `--exit-code` whether there is anything to do."""
    manifest = load_manifest(options.manifest, provider=options.provider).of_shard(options.shard)
    selection = Selection.parse(options.only, manifest.selectable)
    root = common.output_folder(options, manifest.name)
    with previewed(manifest, root, selection, options.limit, remake=options.remake) as (plan, ledger):
        if manifest.warnings:
            print_problems(manifest.warnings)
        code = ExitCode.CHANGES if options.exit_code and plan.anything_to_do else ExitCode.OK
        listed = ((job, row) for job, row in job_states(manifest, ledger) if selection.takes(job))
        if options.json:
            data = header(code, ReasonCode.CHANGES if code else ReasonCode.COMPLETE) | _as_data(plan, manifest, root)
            if options.detailed:
                data["listed"] = [_job(job, row, manifest) for job, row in listed]
            print_result(data)
        elif options.format == "csv":
            names = dict.fromkeys(name for job in expand(manifest) if selection.takes(job) for name in job.labels)
            _print_csv(manifest, listed, tuple(names))
        else:
            print(_as_text(plan, manifest, root))
            if options.detailed:
                _print_jobs(manifest, listed)
    return code


def _as_data(plan: Plan, manifest: Manifest, root: Path) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "provider": manifest.provider,
        "output": str(root),
        "shard": None if manifest.shard is None else str(manifest.shard),
        "make": _group(plan.make),
        "make_by_model": {model: _group(group) for model, group in plan.make_by_model.items()},
        **({} if manifest.pool.is_alone else _of_pool(plan)),
        "done": _group(plan.done),
        "resumed": _group(plan.resumed),
        "ended": {status.value: _group(group) for status, group in plan.ended.items()},
        "retired_images": plan.retired_images,
        "skipped": [_skipped(group) for group in manifest.skipped],
        "price_unit": manifest.pool.unit,
        "prices_as_of": manifest.account.prices.as_of,
        "on_unknown": manifest.run.on_unknown.value,
        "seconds": plan.seconds,
        "within_budget": plan.within_budget,
        "disk_bytes": plan.disk_bytes,
        "disk_free": plan.disk_free,
    }


def _of_pool(plan: Plan) -> dict[str, Any]:
    """Where the jobs of a pool go first, and the bounds of what they cost."""
    return {
        "make_by_account": {name: _group(group) for name, group in plan.make_by_account.items()},
        "cheapest": _group(plan.cheapest)["cost"],
        "dearest": _group(plan.dearest)["cost"],
    }


def _group(group: Group) -> dict[str, Any]:
    cost = None if group.unpriced else plain(group.cost)
    return {"jobs": group.jobs, "images": group.images, "cost": cost, "reasons": dict(group.reasons)}


def _skipped(group: Skipped) -> dict[str, Any]:
    places = [{"file": p.file, "line": p.line, "column": p.column} for p in group.places]
    return {"reason": group.reason, "jobs": group.jobs, "example": dict(group.example), "places": places}


def _job(job: Job, row: JobState, manifest: Manifest) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "status": row.status.value,
        "prompt_id": job.prompt_id,
        "file_name": _file_name(job, manifest),
        **({"block": job.labels["block"]} if "block" in job.labels else {}),
        "labels": dict(job.labels),
        "prompt": job.prompt,
        **job.parameters.canonical(),
        **({"repeat": job.repeat} if job.repeat else {}),
        **({"message": row.message} if row.message else {}),
    }


def _as_text(plan: Plan, manifest: Manifest, root: Path) -> str:
    unit = manifest.pool.unit or ""
    names = ", ".join(account.name for account in manifest.pool.accounts)
    part = "" if manifest.shard is None else f", shard {manifest.shard}"
    lines = [f"{manifest.name} by {names}{part}, into {root}"]
    lines += _section("to make", f"{_line(plan.make)}{_cost(plan.make, unit)}", plan.make.reasons.most_common())
    if len(plan.make_by_model) > 1:
        lines += [f"    {model:<16}{_line(made)}{_cost(made, unit)}" for model, made in plan.make_by_model.items()]
    lines += _accounts_of(plan, manifest)
    others = {"resumed": (plan.resumed, "; not paid again")} if plan.resumed.jobs else {}
    others |= {"done": (plan.done, "")}
    others |= {status.value: (group, f"; {MEANING[status.value]}") for status, group in plan.ended.items()}
    for title, (group, meaning) in others.items():
        lines += _section(title, f"{_line(group)}{meaning}", group.reasons.most_common())
    if plan.retired_images:
        lines.append(f"  {'no longer wanted':<18}{counted(plan.retired_images, 'image')}; moved to retired/, kept")
    if manifest.skipped:
        jobs = sum(group.jobs for group in manifest.skipped)
        reasons = [
            (f"{group.reason.rstrip('.')}{f' [{group.places[0]}]' if group.places else ''}", group.jobs)
            for group in manifest.skipped
        ]
        lines += _section("skipped", f"{counted(jobs, 'job')} that cannot be made (on_illegal: skip)", reasons)
    prices = manifest.account.prices
    if prices.as_of and plan.make.jobs > plan.make.unpriced:
        lines.append(f"  {'prices':<18}as of {prices.as_of}")
    if plan.within_budget is not None and plan.within_budget < plan.make.jobs:
        alone = "" if manifest.shard is None else "; each shard has a budget of its own"
        lines.append(f"  {'budget':<18}stops the run after {counted(plan.within_budget, 'job')}{alone}")
    if plan.anything_to_do:
        accounts = manifest.pool.accounts
        slots = counted(manifest.pool.concurrency, "slot")
        if any(account.adaptive_concurrency for account in accounts):
            slots += "; a run tries to use more (to set a limit: providers.*.limits.concurrency)"
        time = "unknown until the first tasks have ended" if plan.seconds is None else f"about {duration(plan.seconds)}"
        lines.append(f"  {'time':<18}{time}, with {slots}")
        space = f"about {size(plan.disk_bytes)}"
        if plan.disk_bytes > plan.disk_free:
            space += f", and only {size(plan.disk_free)} are free: free some, or choose another --output"
        lines.append(f"  {'disk':<18}{space}")
        if manifest.run.on_unknown is OnUnknown.RESEND:
            is_free = all(account.free for account in manifest.rule_accounts)
            cost = "its images cost nothing" if is_free else "it may be paid twice"
            lines.append(f"  {'lost answers':<18}where nobody can be asked, a task is sent again: {cost}")
    return "\n".join(lines)


def _accounts_of(plan: Plan, manifest: Manifest) -> list[str]:
    """Where the jobs of a pool go first, and what all of them cost at least and at most."""
    unit_of = {account.name: account.prices.unit for account in manifest.pool.accounts}
    lines = [
        f"    first to {name:<16}{_line(made)}{_cost(made, unit_of[name])}"
        for name, made in plan.make_by_account.items()
    ]
    least, most = plan.cheapest, plan.dearest
    if least.jobs and not (least.unpriced or most.unpriced) and least.cost != most.cost:
        unit = manifest.pool.unit or "units"
        lines.append(f"    {plain(least.cost)} {unit} at the cheapest accounts, {plain(most.cost)} at the dearest")
    return lines


def _section(title: str, text: str, reasons: Sequence[tuple[str, int]]) -> list[str]:
    """A line, and below it the reasons with the number of their jobs."""
    lines = [f"  {title:<18}{text}"]
    lines += [f"    - {reason}: {counted(jobs, 'job')}" for reason, jobs in reasons[:_REASONS_SHOWN]]
    if (more := len(reasons) - _REASONS_SHOWN) > 0:
        lines.append(f"    - and {counted(more, 'other reason')}")
    return lines


def _line(group: Group) -> str:
    return f"{counted(group.jobs, 'job')}, {counted(group.images, 'image')}"


def _cost(group: Group, unit: str) -> str:
    if not group.jobs:
        return ""
    if group.unpriced == group.jobs:
        return ", price unknown"
    known = f", {plain(group.cost)} {unit}".rstrip()
    return f"{known} and {counted(group.unpriced, 'job')} of unknown price" if group.unpriced else known


def _file_name(job: Job, manifest: Manifest) -> str:
    """The name of the job's first image, where it is a PNG file."""
    return manifest.output_path.render(job, 0, ".png")


def _print_jobs(manifest: Manifest, listed: Iterable[tuple[Job, JobState]]) -> None:
    """Three lines for each job; the prompt is cut to the width of a terminal, but not in a pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for job, row in listed:
        parameters = job.parameters
        print(
            f"  {row.status.value:<10}{job.id}  {parameters.model} {parameters.aspect_ratio} {parameters.resolution}"
            f" n={parameters.n}  {_file_name(job, manifest)}"
        )
        pairs = ", ".join(f"{name}={value}" for name, value in (*parameters.further, *job.labels.items()))
        for line in filter(None, (pairs, job.prompt)):
            print(terminal.cut(f"{'':<12}{line}", width))


def _print_csv(manifest: Manifest, listed: Iterable[tuple[Job, JobState]], names: Sequence[str]) -> None:
    """One row for each job; no cell is a formula to a spreadsheet. Further parameters and labels have own columns."""
    columns = ("status", "job_id", "file_name", "prompt_id", "prompt", *PARAMETER_NAMES, "repeat", "message")
    further = [f"parameter.{name}" for name in manifest.further_names]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*columns, *further, *(f"label.{name}" for name in names)])
    for job, row in listed:
        values = {**_job(job, row, manifest), **further_cells(job)}
        cells = [values.get(column, "") for column in (*columns, *further)]
        writer.writerow(escaped([*cells, *(job.labels.get(name, "") for name in names)]))
