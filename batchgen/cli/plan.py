"""`batchgen plan`: what a run would do against what is there; sends nothing, writes nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli import problems
from batchgen.ledger.store import FILE_NAME, Ledger
from batchgen.manifest.load import load_manifest
from batchgen.money import plain
from batchgen.plan import Group, Plan, Selection, standings, survey

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.questions import Standing
    from batchgen.manifest.model import Manifest


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    common.add_selection(parser)
    parser.add_argument("--detailed", action="store_true", help="list every job, in both forms")
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """Print the plan; always 0 where there is one."""
    manifest = load_manifest(options.manifest, provider=options.provider)
    selection = Selection.parse(options.only, manifest.var_names)
    root = common.output_folder(options, manifest.name)
    state = root / FILE_NAME
    ledger = Ledger.preview(state if state.exists() else None)
    plan = survey(manifest, ledger, selection, options.limit)
    if manifest.warnings:
        print(problems.as_text(manifest.warnings, sys.stderr), file=sys.stderr)
    listed = ((job, row) for job, row in standings(manifest, ledger) if selection.takes(job))
    if options.json:
        data = _as_data(plan, manifest, root)
        if options.detailed:
            data["listed"] = [_job(job, row) for job, row in listed]
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        print(_as_text(plan, manifest, root))
        if options.detailed:
            _print_jobs(listed)
    ledger.close()
    return 0


def _as_data(plan: Plan, manifest: Manifest, root: Path) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "provider": manifest.provider,
        "output": str(root),
        "make": _group(plan.make),
        "make_by_model": {model: _group(group) for model, group in plan.make_by_model.items()},
        "done": _group(plan.done),
        "taken_up_again": _group(plan.again),
        "ended": {status.value: _group(group) for status, group in plan.ended.items()},
        "retired_images": plan.retired_images,
        "price_unit": manifest.account.prices.unit,
        "seconds": plan.seconds,
    }


def _group(group: Group) -> dict[str, Any]:
    cost = None if group.unpriced else plain(group.cost)
    return {"jobs": group.jobs, "images": group.images, "cost": cost}


def _job(job: Job, row: Standing) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "status": row.status.value,
        "prompt_id": job.prompt_id,
        "prompt": job.prompt,
        **job.parameters.canonical(),
        **({"repeat": job.repeat} if job.repeat else {}),
        **({"message": row.message} if row.message else {}),
    }


def _as_text(plan: Plan, manifest: Manifest, root: Path) -> str:
    account = manifest.account
    lines = [f"{manifest.name} by {manifest.provider}, into {root}"]
    lines.append(f"  to make           {_line(plan.make, account.prices.unit)}")
    if len(plan.make_by_model) > 1:
        for model, group in plan.make_by_model.items():
            lines.append(f"    {model:<16}{_line(group, account.prices.unit)}")
    if plan.again.jobs:
        lines.append(f"  taken up again    {_line(plan.again, '')}; begun before, not paid again")
    lines.append(f"  done              {_line(plan.done, '')}")
    for status, group in plan.ended.items():
        lines.append(f"  {status.value:<18}{_line(group, '')}; {_ADVICE[status.value]}")
    if plan.retired_images:
        lines.append(f"  no longer wanted  {plan.retired_images} images; they move to retired/")
    if plan.anything_to_do:
        lines.append(f"  time              {_time(plan.seconds)}, with {account.concurrency} slots")
    return "\n".join(lines)


_ADVICE = {
    "failed": "another attempt with run --retry-failed",
    "rejected": "refused by policy; change the prompt",
    "unknown": "may have been paid for; sent again only with run --retry-unknown",
    "gone": "made, but lost at the gateway; made anew with run --retry-failed",
    "partial": "fewer images than asked for; made anew with run --retry-failed",
}


def _line(group: Group, unit: str) -> str:
    jobs = f"{group.jobs} {'job' if group.jobs == 1 else 'jobs'}"
    images = f"{group.images} {'image' if group.images == 1 else 'images'}"
    if not unit and not group.unpriced:
        return f"{jobs}, {images}"
    if group.unpriced:
        return f"{jobs}, {images}" + (", price not known" if unit or group.jobs else "")
    return f"{jobs}, {images}, {plain(group.cost)} {unit}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known before the first tasks have ended"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min {rest} s"


def _print_jobs(listed: Iterator[tuple[Job, Standing]]) -> None:
    for job, row in listed:
        parameters = job.parameters
        print(
            f"  {row.status.value:<10}{job.id}  {parameters.model} {parameters.aspect_ratio} {parameters.resolution}"
            f" n={parameters.n}  {job.prompt_id}"
        )
