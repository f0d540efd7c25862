"""`batchgen status`: how a run stands, also while one is going; reads only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchgen.cli import options as common
from batchgen.cli.found import found_output
from batchgen.errors import CommandError
from batchgen.jobs import ENDED_SHORT, Status
from batchgen.ledger import lock
from batchgen.ledger.store import FILE_NAME, reading
from batchgen.money import plain

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from pathlib import Path


def configure(parser: ArgumentParser) -> None:
    """Add the command's options."""
    common.add_manifest(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="look again every few seconds until the run ends: in place on a terminal, else a line for each change"
        " (--json: a JSON line for each look)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=common.seconds, help="seconds between two looks of --watch (default: 2)"
    )
    common.add_json(parser)


def execute(options: Namespace) -> int:
    """1 when there are failed, rejected, unknown, gone or partial jobs, else 0."""
    root = found_output(options)
    if options.interval is not None and not options.watch:
        raise CommandError("--interval is the time between two looks of --watch: add --watch, or leave it out.")
    if options.watch:
        from batchgen.cli.watch import Watch  # noqa: PLC0415 - its rate comes with asyncio

        return Watch(root, interval=options.interval, as_json=options.json).run()
    data = standing(root)
    print(json.dumps(data, indent=2) if options.json else as_text(data))
    return exit_code(data)


def standing(root: Path) -> dict[str, Any]:
    """How the output stands just now, as data."""
    running = lock.holder(root)
    if not (root / FILE_NAME).exists():
        return nothing_begun(root) | {"running": running}
    with reading(root / FILE_NAME) as ledger:
        counts = ledger.counts()
        spent = ledger.spent()
        return {
            "output": str(root),
            "begun": True,
            "running": running,
            "jobs": {status.value: counts[status] for status in Status if status in counts},
            "images": ledger.images_in_index(),
            "images_to_come": ledger.images_missing()[1],
            "cost": plain(spent.cost),
            "unpriced_tasks": spent.unpriced,
        }


def nothing_begun(root: Path) -> dict[str, Any]:
    """How an output stands that has no ledger yet."""
    return {"output": str(root), "begun": False, "running": None, "jobs": {}, "images": 0, "cost": "0"}


def exit_code(data: dict[str, Any]) -> int:
    """By the contract's table."""
    return 1 if ENDED_SHORT & data["jobs"].keys() else 0


def as_text(data: dict[str, Any]) -> str:
    """A line for each status, and what it means."""
    going = f"a run is going ({data['running']})" if data["running"] else "no run is going"
    if not data["begun"]:
        nothing = f"Nothing has been run into {data['output']} yet"
        return f"{nothing}; {going}." if data["running"] else f"{nothing}."
    lines = [f"{data['output']}: {going}"]
    for status, number in data["jobs"].items():
        jobs = f"{number} {'job' if number == 1 else 'jobs'}"
        lines.append(f"  {status:<11}{jobs:<12}{_MEANING[status]}".rstrip())
    lines.append(f"  {data['images']} {'image' if data['images'] == 1 else 'images'} in place")
    unpriced = f", and {data['unpriced_tasks']} tasks of unknown price" if data["unpriced_tasks"] else ""
    lines.append(f"  {data['cost']} spent or in flight{unpriced}")
    return "\n".join(lines)


_MEANING = {
    "pending": "not begun yet",
    "intent": "sent, no answer recorded; the next run asks what became of it",
    "submitted": "at the gateway",
    "made": "made, to be fetched",
    "done": "",
    "partial": "fewer images than asked for",
    "failed": "failures.csv says why",
    "rejected": "refused by policy; failures.csv says why",
    "unknown": "may have been paid for; see --retry-unknown",
    "gone": "made, but lost at the gateway; see --retry-failed",
}
